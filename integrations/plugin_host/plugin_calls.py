# SPDX-License-Identifier: Apache-2.0
"""Calls rewards for groups of completions, by ms-swift's and by TRL's convention."""

import asyncio
import math
import types

from plugin_errors import one_line


def trainer_state(state):
    """As transformers' TrainerState, as far as a reward may ask."""
    defaults = dict(best_global_step=None, best_metric=None, best_model_checkpoint=None,
                    eval_steps=None, is_hyper_param_search=False, is_local_process_zero=True,
                    is_world_process_zero=True, log_history=[], logging_steps=None,
                    num_input_tokens_seen=0, save_steps=None, stateful_callbacks={}, total_flos=0,
                    train_batch_size=None, trial_name=None, trial_params=None)
    return types.SimpleNamespace(**(defaults | state))


def batched(rows):
    """A list for each key, with None where a row lacks it."""
    keys = dict.fromkeys(key for row in rows for key in row)
    return {key: [row.get(key) for row in rows] for key in keys}


def swift_arguments(completions, state):
    """The texts, and the keywords, as ms-swift gives them."""
    rows = []
    for completion in completions:
        row = dict(messages=(completion["prompt_messages"] or []) +
                   completion["completion_messages"],
                   prompt_id=completion["prompt_id"], request_id=completion["request_id"],
                   finish_reason=completion["finish_reason"],
                   is_truncated=completion["finish_reason"] == "length",
                   rollout_infos=completion.get("rollout_infos") or {},
                   response_token_ids=(completion.get("turn_token_ids") or
                                       completion["token_ids"] or []))
        if completion["tools"]:
            row["tools"] = completion["tools"]
        rows.append(row | (completion["columns"] or {}))
    texts = [completion["completion"] for completion in completions]
    return (texts,), dict(trainer_state=trainer_state(state)) | batched(rows)


def trl_arguments(completions, state, notes):
    """The keywords as TRL gives them: text where the row's prompt is text, else messages."""
    columns = [dict(completion["columns"] or {}) for completion in completions]
    for row in columns:
        for key in ("prompt", "completion", "completion_ids"):
            row.pop(key, None)
    is_text = all(completion["text_prompt"] is not None or not completion["prompt_messages"]
                  for completion in completions)
    arguments = batched(columns)
    arguments |= dict(
        prompts=[(completion["text_prompt"] or "") if is_text else completion["prompt_messages"]
                 for completion in completions],
        completions=[completion["completion" if is_text else "completion_messages"]
                     for completion in completions],
        completion_ids=[completion["token_ids"] or [] for completion in completions],
        trainer_state=trainer_state(state), log_extra=notes.log_extra,
        log_metric=notes.log_metric)
    return (), arguments


class Notes:
    """What a function logs besides its values."""

    def __init__(self):
        self.extra = {}
        self.metrics = {}

    def log_extra(self, column, values):
        self.extra.setdefault(str(column), []).extend(values)

    def log_metric(self, name, value):
        self.metrics.setdefault(str(name), []).append(float(value))


def number(value):
    """A value as JSON has it: None for None and NaN."""
    if value is None:
        return None
    value = float(value)
    if math.isnan(value):
        return None
    if math.isinf(value):
        raise ValueError(f"expected a finite number, got {value}")
    return value


def checked(values, count):
    """One number or None for each completion."""
    try:
        values = list(values)
    except TypeError:
        raise TypeError(f"expected a list of {count} numbers, got {type(values).__name__}") \
            from None
    if len(values) != count:
        raise ValueError(f"expected a list of {count} numbers, one a completion, got "
                         f"{len(values)}")
    return [number(value) for value in values]


def answer_of(values, completions, notes):
    extra = {column: column_values for column, column_values in notes.extra.items()
             if len(column_values) == len(completions)}
    return dict(values=checked(values, len(completions)), extra=extra,
                metrics={name: [value for value in numbers if math.isfinite(value)]
                         for name, numbers in notes.metrics.items()})


def arguments_of(reward, completions, state, notes):
    if reward.is_trl:
        return trl_arguments(completions, state, notes)
    return swift_arguments(completions, state)


def score_group(reward, completions, state):
    notes = Notes()
    try:
        positional, keywords = arguments_of(reward, completions, state, notes)
        return answer_of(reward.function(*positional, **keywords), completions, notes)
    except (Exception, SystemExit) as error:
        return dict(error=one_line(error, reward.files))


async def score_group_later(reward, completions, state):
    notes = Notes()
    try:
        positional, keywords = arguments_of(reward, completions, state, notes)
        return answer_of(await reward.function(*positional, **keywords), completions, notes)
    except (Exception, SystemExit) as error:
        return dict(error=one_line(error, reward.files))


def score(reward, groups, state):
    """An answer for each group; an asynchronous reward works on all groups at once."""
    if not reward.is_async:
        return [score_group(reward, completions, state) for completions in groups]

    async def all_groups():
        return await asyncio.gather(
            *[score_group_later(reward, completions, state) for completions in groups])

    return asyncio.run(all_groups())
