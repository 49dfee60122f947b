# SPDX-License-Identifier: Apache-2.0
"""What a scheduler's step made of a conversation, as lockstep goes on with it.

lockstep appends tokens and never renders a conversation anew, so that it learns from what was
sampled. Of what a step may do, that leaves: messages behind the turn, or a turn that goes on behind
some of its own tokens.
"""


class ChangeError(Exception):
    """A step that asks for something else."""


def is_empty_answer(message):
    """The place that a scheduler leaves for the rest of a turn."""
    return message.get("role") == "assistant" and not message.get("content") \
        and not message.get("tool_calls")


def common_length(one, other):
    count = 0
    for a, b in zip(one, other):
        if a != b:
            break
        count += 1
    return count


def check_mask(step, sampled, common):
    """The mask that a step gives must be lockstep's own."""
    ids, mask = step["response_token_ids"], step.get("response_loss_mask")
    if not mask:
        return
    if len(mask) != len(ids):
        raise ChangeError(f"expected a response_loss_mask of {len(ids)} numbers, one for each of "
                          f"response_token_ids, got {len(mask)}")
    if any(mask[common:]):
        raise ChangeError("expected a response_loss_mask of 0 on tokens that were not sampled, got "
                          "1 (lockstep learns from the tokens of the model alone)")
    if not all(mask[:common]):
        raise ChangeError("expected a response_loss_mask of 1 on the sampled tokens that are kept, "
                          "got 0 (lockstep learns from all tokens of the model that stay)")


def continuation(before, after, sampled, step):
    """A turn that goes on: by its ids where the step gives them, else by its text."""
    ids = step.get("response_token_ids")
    if ids:
        common = common_length(ids, sampled)
        check_mask(step, sampled, common)
        if common < len(ids) or common < len(sampled):
            return dict(kept=common, ids=list(ids[common:]), text=after["content"])
    return dict(text=after["content"])


def change_of(before, after, sampled, step):
    """{"messages": […]} or {"continuation": {"text"} or {"kept", "ids", "text"}}, with the turn's
    message where it is another now."""
    if after and len(after) > len(before) and is_empty_answer(after[-1]):
        after = after[:-1]
    last = len(before) - 1
    if len(after) < len(before) or after[:last] != before[:last] or \
            after[last].get("role") != "assistant":
        raise ChangeError(
            "expected a step that appends messages or lets the turn go on, got a history that is "
            "another one (lockstep learns from tokens as they were sampled, so what has been said "
            "stays)")
    turn, added = after[last], after[last + 1:]
    if not added:
        return dict(continuation=continuation(before[last], turn, sampled, step))
    if turn.get("content") != before[last].get("content") and not turn.get("tool_calls"):
        raise ChangeError("expected a step that leaves the turn as it was sampled and appends "
                          "messages, or lets it go on, got both")
    if any(message.get("role") == "assistant" for message in added):
        raise ChangeError("expected messages of users and tools behind a turn, got one of the "
                          "assistant (lockstep samples what the assistant says)")
    if step.get("response_token_ids"):
        common = common_length(step["response_token_ids"], sampled)
        if common < len(step["response_token_ids"]) or common + 1 < len(sampled):
            raise ChangeError("expected response_token_ids as they were sampled where messages "
                              "follow, got others")
        check_mask(step, sampled, common)
    change = dict(messages=added)
    if turn != before[last]:
        change["turn"] = turn
    return change
