#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Compares turns between lockstep's plugin host and ms-swift's own run_multi_turn.

- Schedulers of ms-swift (math_tip_trick, gym_scheduler) and of plugins answer the same scripted
  completions: the messages before each turn, how many turns there are, rollout_infos, and the ids
  of each message of the assistant with their loss mask are the same. The host is asked as
  lockstep asks it, with ms-swift itself and with the stand-ins for it; that lockstep's own part
  joins ids as this script does is what tests/agent checks.
- One difference is meant (docs/multi-turn.md): where a turn goes on, lockstep drops the token that
  ended it. Each case says how many there are.
- tool_call_scheduler of ms-swift's example plugin.py is one more case where --examples or
  LOCKSTEP_SWIFT_EXAMPLES names the folder examples/train/grpo/plugin of a checkout.
- The schema that the host makes of a function itself is that of transformers.
"""

import argparse
import copy
import importlib.util
import json
import math
import os
import pathlib
import sys
import tempfile
import threading
import typing

os.environ["HF_HUB_OFFLINE"] = "1"
ROOT = pathlib.Path(__file__).resolve().parents[2]
HOSTS = ROOT / "tests" / "plugin_host"
PLUGIN = HOSTS / "plugins" / "turns_plugin.py"
sys.path[:0] = [str(HOSTS), str(ROOT / "integrations" / "plugin_host")]
END = "<end>"
QUESTION = dict(role="user", content="1 + 2?")
TIMEOUT = 120


class Case(typing.NamedTuple):
    """Rows and, for each, the texts that the model says; one that ends in "…" is cut off."""

    scheduler: str
    rows: list
    texts: list
    max_turns: typing.Optional[int] = None
    gym_env: typing.Optional[str] = None
    num_dropped: int = 0  # tokens that ended a turn which goes on
    num_turns: tuple = ()


MATH = dict(solution="$3$")
CALL = "Action: calculator\nAction Input: "
CASES = [
    Case("math_tip_trick", [MATH] * 5,
         [["<think>one</think><answer>$4$</answer>", " it is $3$"],
          ["<think>b</think><answer>$3$</answer>"], ["$5$", "$6$"], ["$7$…"],
          ["so <answer>$4$</answer></think>", "$4$…"]],
         num_dropped=1, num_turns=(2, 1, 2, 1, 2)),
    Case("math_tip_trick", [MATH], [["$5$"]], max_turns=1, num_turns=(1,)),
    Case("gym_scheduler",
         [dict(length=3), dict(length=5, env_config=dict(name="count_env", system="s")),
          dict(length=9)],
         [["four", "fourth", "one"], ["three"], ["cut…", "a", "b", "c"]],
         max_turns=4, gym_env="count_env", num_turns=(3, 1, 4)),
    Case("again", [{}] * 3, [["a", "bc", "d"], ["e…"], ["f", "g…"]], max_turns=3,
         num_turns=(3, 1, 2)),
    Case("hooks", [dict(question="q0"), dict(question="q1")], [["done"], ["finish"]],
         num_turns=(1, 1)),
    Case("changes", [{}] * 2, [["ids one", "ids two", "end"], ["other ids", "end"]], max_turns=3,
         num_dropped=3, num_turns=(3, 3)),
]
CALCULATOR = Case(
    "tool_call_scheduler", [{}] * 4,
    [[CALL + "12*(3+4)\n", "So 84."], [CALL + "2+2\n", CALL + "1/0\n", "4"], ["none"],
     ["Action: lookup\nAction Input: x\n", "so…"]], num_dropped=4, num_turns=(2, 3, 1, 2))


# Functions as tools, whose schemas are compared.


def plain(text: str, count: int, share: float, is_on: bool):
    """
    Says what each plain type is.

    It has two paragraphs.

    Args:
        text: A text
        count: A count
        share: A number
        is_on: Whether it is on
    """


def with_defaults(a: int = 3, b: typing.Optional[str] = None, c: "int | None" = None) -> str:
    """
    Has defaults.

    Args:
        a: One
        b: Two: with a colon
        c: Three

    Returns:
        What comes of it
    """


def containers(names: list[str], grid: list[list[int]], anything: list, counts: dict[str, float],
               pair: tuple[int, str], free: dict, either: int | str,
               both: list[int] | str, value: typing.Any) -> dict[str, int]:
    """
    Takes containers.

    Args:
        names: Some names
        grid: Rows of
            numbers that go on
            over lines
        anything: All
        counts: By name
        pair: Two
        free: An object
        either: One of two
        both: Some or one
        value: Whatever
    """


def choices(unit: typing.Literal["km", "miles"], level: typing.Literal[1, 2], way: str = "up"):
    """
    Has choices.

    Args:
        unit: The unit
        level: The level
        way: The way (choices: ["up", "down"])
    """


async def later(city: str, days: int = 1) -> list[str]:
    """
    Waits for the weather.

    Args:
        city: The city
        days: How many days

    Returns:
        A text for each day

    Raises:
        ValueError: never
    """


def nothing() -> None:
    """Takes nothing."""


FUNCTIONS = (plain, with_defaults, containers, choices, later, nothing)


def compare_schemas():
    """How many functions have another schema than transformers gives them."""
    import function_schema
    from transformers.utils import get_json_schema
    num_wrong = 0
    for function in FUNCTIONS:
        ours, expected = function_schema.own_schema(function), get_json_schema(function)
        # As text, since 1 and true are equal and the order of the arguments is read by the model.
        if json.dumps(ours) != json.dumps(expected):
            print(f"{function.__name__}:\n  expected {json.dumps(expected)}\n"
                  f"  got      {json.dumps(ours)}")
            num_wrong += 1
    print(f"schemas: {len(FUNCTIONS)} functions, {num_wrong} differ")
    return num_wrong


def stand_in_for_einops(folder):
    """The example's imports pull it in, and nothing here calls it. Processes of the host, too."""
    if importlib.util.find_spec("einops") is None:
        (pathlib.Path(folder) / "einops.py").write_text("rearrange = repeat = None\n")
        sys.path.append(str(folder))
        os.environ["PYTHONPATH"] = str(folder)


def make_tokenizer(folder):
    """A token for each character, and one that ends a turn."""
    import tokenizers
    import transformers
    letters = [chr(code) for code in range(32, 127)] + ["\n"]
    vocabulary = {letter: index for index, letter in enumerate(letters + [END])}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="?"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Split(tokenizers.Regex("[\\s\\S]"), "isolated")
    made.decoder = tokenizers.decoders.Fuse()
    wrapped = transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, eos_token=END, clean_up_tokenization_spaces=False)
    wrapped.save_pretrained(folder)
    return wrapped


class Script:
    """What the model says in each turn of a trajectory."""

    def __init__(self, case, tokenizer):
        self.texts = [list(texts) for texts in case.texts]
        self.tokenizer = tokenizer

    def next(self, index):
        """Text, ids and finish_reason. Where the script ends, the model says the same."""
        text = self.texts[index].pop(0) if self.texts[index] else "x"
        if text.endswith("…"):
            return text[:-1], self.tokenizer.encode(text[:-1]), "length"
        return text, self.tokenizer.encode(text) + [self.tokenizer.eos_token_id], "stop"


def by_ms_swift(case, tokenizer):
    """Of each trajectory: the messages before each turn and at the end, ids and mask by message,
    infos."""
    from swift.infer_engine import protocol
    from swift.rollout.agent_loop import invoke_async_hook, run_multi_turn
    from swift.rollout.multi_turn import multi_turns
    script = Script(case, tokenizer)
    scheduler = multi_turns[case.scheduler](max_turns=case.max_turns, gym_env=case.gym_env,
                                            tokenizer=tokenizer)
    requests = [protocol.RolloutInferRequest(messages=[dict(QUESTION)],
                                             data_dict=copy.deepcopy(row), uuid=f"t{index}")
                for index, row in enumerate(case.rows)]
    invoke_async_hook(scheduler.on_trajectory_start(requests))
    history = [[] for _ in requests]

    def said(messages):
        """Messages whose contents are ids once more as text."""
        return [one | dict(content=tokenizer.decode(one["content"]))
                if isinstance(one["content"], list) else dict(one) for one in messages]

    def rollout(pending, config):
        outputs = []
        for request in pending:
            index = int(request.uuid[1:])
            history[index].append(said(request.messages))
            text, ids, reason = script.next(index)
            choice = protocol.ChatCompletionResponseChoice(
                index=0, message=protocol.ChatMessage(role="assistant", content=text),
                finish_reason=reason, token_ids=ids)
            outputs.append(protocol.RolloutOutput(response=protocol.ChatCompletionResponse(
                model="", choices=[choice], usage=protocol.UsageInfo(0, 0, 0))))
        return outputs

    outputs = run_multi_turn(requests, rollout(requests, None), scheduler, rollout,
                             protocol.RequestConfig(), max_turns=case.max_turns)
    return [dict(history=turns + [said(output.messages)], infos=dict(output.rollout_infos),
                 ids=[list(zip(*both)) for both in zip(output.response_token_ids,
                                                       output.response_loss_mask)])
            for turns, output in zip(history, outputs)]


class Ours:
    """One trajectory as lockstep goes on with it."""

    def __init__(self, begun, tokenizer):
        self.tokenizer = tokenizer
        self.messages = begun["messages"]
        self.history, self.infos, self.ids = [], {}, []
        self.turn, self.goes_on, self.is_over = 0, False, False

    def sampled(self, name, text, ids, reason, max_turns):
        """What the host is asked after a turn."""
        self.history.append(copy.deepcopy(self.messages))
        self.turn += 1
        if self.goes_on:
            self.messages[-1]["content"] += text
        else:
            self.messages.append(dict(role="assistant", content=text))
            self.ids.append([])
        self.ids[-1] += [(token, 1) for token in ids]
        self.token_ids = ids
        return dict(id=name, turn=self.turn, messages=self.messages, completion=text, calls=[],
                    token_ids=ids, finish_reason=reason, is_last=self.turn == max_turns)

    def follow(self, answer):
        if "error" in answer:
            raise SystemExit(f"expected an answer, got {answer['error']}")
        self.infos.update(answer["infos"])
        self.goes_on = "continuation" in answer
        self.is_over = not self.goes_on and "messages" not in answer
        self.messages += answer.get("messages", [])
        if self.is_over:
            self.infos["num_turns"] = self.turn
            self.history.append(self.messages)
        elif self.goes_on:
            change = answer["continuation"]
            count = len(self.token_ids) - (self.token_ids[-1:] == [self.tokenizer.eos_token_id])
            kept = min(change.get("kept", count), count)
            del self.ids[-1][len(self.ids[-1]) - len(self.token_ids) + kept:]
            self.ids[-1] += [(token, 0) for token in change.get("ids", [])]
            self.messages[-1]["content"] = self.tokenizer.decode(
                [token for token, _ in self.ids[-1]])

    def seen(self):
        return dict(history=self.history, infos=self.infos, ids=self.ids)


def by_lockstep(case, tokenizer, swift, plugins, model):
    import hosts
    script = Script(case, tokenizer)
    host = hosts.Host(swift)
    # The host's words are no result, but a full pipe would stop it.
    threading.Thread(target=host.process.stderr.read, daemon=True).start()
    timer = threading.Timer(TIMEOUT, host.process.kill)
    timer.start()

    def ask(**request):
        answer = host.ask(**request)
        while answer and "progress" in answer:
            answer = json.loads(host.process.stdout.readline())
        if answer is None or "error" in answer:
            raise SystemExit(f"expected an answer of the host to {request['op']}, got {answer}")
        return answer

    try:
        ask(op="load", plugins=list(map(str, plugins)), rewards=[], builtin=[], args=hosts.ARGS,
            turns=dict(scheduler=case.scheduler, gym_env=case.gym_env, max_turns=case.max_turns,
                       model=str(model), tools=[]))
        begun = ask(op="begin", trajectories=[
            dict(id=f"t{index}", messages=[QUESTION], tools=None, columns=row,
                 chat_template_kwargs=None) for index, row in enumerate(case.rows)])
        all_of_them = [Ours(one, tokenizer) for one in begun["trajectories"]]
        while pending := [(i, one) for i, one in enumerate(all_of_them) if not one.is_over]:
            # A scheduler that never ends a trajectory is a difference, not a hang.
            if max(one.turn for _, one in pending) >= max(case.num_turns) + 2:
                break
            asked = [one.sampled(f"t{i}", *script.next(i), case.max_turns) for i, one in pending]
            answers = ask(op="follow", trajectories=asked)["trajectories"]
            for (_, one), answer in zip(pending, answers):
                one.follow(answer)
        return [one.seen() for one in all_of_them]
    finally:
        timer.cancel()
        host.process.kill()
        host.process.wait()


def without_ends(seen, end):
    """ms-swift's without the tokens that ended a turn which goes on, and their number. Its text
    of an earlier turn has the token at its end; lockstep's has not."""
    num_dropped, ids = 0, []
    for message in seen["ids"]:
        kept = [pair for i, pair in enumerate(message) if pair[0] != end or i + 1 == len(message)]
        num_dropped += len(message) - len(kept)
        ids.append(kept)
    history = [[one | dict(content=one["content"].replace(END, "")) for one in messages]
               for messages in seen["history"]]
    # What is no number in JSON is null.
    infos = {key: None if isinstance(value, float) and math.isnan(value) else value
             for key, value in seen["infos"].items()}
    return dict(history=history, infos=infos, ids=ids), num_dropped


def compare_turns(cases, tokenizer, model):
    """How many cases differ."""
    num_wrong = 0
    for case, plugins in cases:
        found = [without_ends(one, tokenizer.eos_token_id) for one in by_ms_swift(case, tokenizer)]
        expected = [one for one, _ in found]
        counts = tuple(len(one["history"]) - 1 for one in expected)
        num_dropped = sum(number for _, number in found)
        if (counts, num_dropped) != (case.num_turns, case.num_dropped):
            print(f"{case.scheduler}: expected of ms-swift {case.num_turns} turns and "
                  f"{case.num_dropped} ends within a turn, got {counts} and {num_dropped}")
            num_wrong += 1
        for swift in ("stub", "auto"):
            ours = by_lockstep(case, tokenizer, swift, plugins, model)
            wrong = [(i, key, one[key], other[key])
                     for i, (one, other) in enumerate(zip(ours, expected)) for key in other
                     if one[key] != other[key]]
            for index, key, one, other in wrong:
                print(f"{case.scheduler}, {swift}, trajectory {index}, {key}:\n"
                      f"  expected {other}\n  got      {one}")
            print(f"{case.scheduler}, {swift}: {counts} turns, {len(wrong)} differ")
            num_wrong += bool(wrong) + (len(ours) != len(expected))
    return num_wrong


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--examples", default=os.environ.get("LOCKSTEP_SWIFT_EXAMPLES"))
    arguments = parser.parse_args()
    import plugin_loader
    num_wrong = compare_schemas()
    with tempfile.TemporaryDirectory() as folder:
        cases = [(case, [PLUGIN]) for case in CASES]
        plugin_loader.import_file(str(PLUGIN))
        if arguments.examples:
            stand_in_for_einops(folder)
            example = pathlib.Path(arguments.examples) / "plugin.py"
            plugin_loader.import_file(str(example))
            cases.append((CALCULATOR, [example]))
        else:
            print("ms-swift's example plugin: left out, since LOCKSTEP_SWIFT_EXAMPLES names no "
                  "folder")
        model = pathlib.Path(folder) / "model"
        num_wrong += compare_turns(cases, make_tokenizer(model), model)
    return 1 if num_wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
