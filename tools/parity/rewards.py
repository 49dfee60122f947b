#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Judges completions with ms-swift's own reward classes, for tests/reward/swift_rewards_test.cpp.

Writes tests/data/reward/swift_rewards.jsonl: {"reward", "options", "solution", "completion",
"length", "score"}, by ms-swift 4.6 (swift/rewards/orm.py). With --check the file's scores are
compared with what the classes say now.
"""

import argparse
import json
import pathlib
import random
import types

from swift.rewards.orm import orms

OUT = pathlib.Path(__file__).parents[2] / "tests" / "data" / "reward" / "swift_rewards.jsonl"

DEFAULTS = {
    "format": {},
    "react_format": {},
    "cosine": dict(cosine_min_len_value_wrong=-0.5, cosine_max_len_value_wrong=0.0,
                   cosine_min_len_value_correct=1.0, cosine_max_len_value_correct=0.5,
                   cosine_max_len=64),
    "repetition": dict(repetition_n_grams=3, repetition_max_penalty=-1.0),
    "soft_overlong": dict(soft_max_length=64, soft_cache_length=16),
    "toolbench": {},
}
VARIANTS = {
    "format": [{}],
    "react_format": [{}],
    "cosine": [{}, dict(cosine_max_len=37, cosine_min_len_value_wrong=-10.0),
               dict(cosine_min_len_value_correct=0.25, cosine_max_len_value_correct=2.0),
               dict(cosine_max_len_value_wrong=-3.5, cosine_max_len=50)],
    "repetition": [{}, dict(repetition_n_grams=1), dict(repetition_n_grams=2,
                                                        repetition_max_penalty=-0.7),
                   dict(repetition_n_grams=5, repetition_max_penalty=-12.5)],
    "soft_overlong": [{}, dict(soft_max_length=40, soft_cache_length=39),
                      dict(soft_cache_length=1)],
    "toolbench": [{}],
}
BLOCKS = ["<think>", "</think>", " ", "\n", "\t\u2003", "Action:", "Action Input:", "<answer>",
          "</answer>", "a", "{}", "Action", "\x1f", "think"]
WORDS = ["the", "The", "cat", "CAT", "sat", "on", "Äpfel", "äpfel", "İ", "i\u0307", "mat.", "mat",
         "中文", "\U0001f600"]
SPACES = [" ", "  ", "\n", "\t", "\u2003", "\x1c", "\x85"]


def patterned(chance):
    """Texts that begin as those that format and react_format want, with something changed."""
    wanted = [["<think>", "a", "</think>", "\n", "<answer>", "b", "</answer>"],
              ["<think>", "a", "</think>", "Action:", "a", "Action Input:", "{}"]]
    for parts in wanted:
        yield "".join(parts)
        for _ in range(60):
            changed = list(parts)
            for _ in range(chance.randint(1, 3)):
                at = chance.randrange(len(changed) + 1)
                if chance.random() < 0.6 or at == len(changed):
                    changed.insert(at, chance.choice(BLOCKS))
                else:
                    del changed[at]
            yield "".join(changed)


def wordy(chance):
    """Texts of a few words, said again more or less often."""
    yield from ["", " ", "one", "one two", "one two three"]
    for _ in range(60):
        words = chance.sample(WORDS, chance.randint(1, 6))
        yield "".join(chance.choice(words) + chance.choice(SPACES)
                      for _ in range(chance.randint(0, 24)))


INPUTS = ["{}", '{"a": 1}', '{"a": 1.0}', '{"a": true}', '{"a": 2}', '{"a": 1, "b": "x"}',
          '{"b": "x", "a": 1}', '{"a": [1, {"b": null}]}', '{"a": [1.0, {"b": null}]}', "[]", "5",
          '"5"', "null", "{'a': 1}", "the weather in Rome. Today.", "", ".", "...",
          "today the weather. in Rome", "rome", "a b c d e f g h i j", "j i h g f e d c b a",
          "a x b x c. c b a", "a. b. c. a", "  ", "x y. . z"]


def calls(chance):
    """Calls as a model writes them, with something changed: (solution, completion)."""
    def call(name, text):
        return f"<think>so</think>Action: {name}\nAction Input: {text}"

    for wanted in INPUTS:
        for given in INPUTS:
            yield call("f", wanted), call("f", given)
    parts = ["Action:", "Action Input:", "f", "g", "{}", '{"a": 1}', "Observation:", "<|im_end|>",
             "<|endoftext|>", " ", "\n", "\u2003", "the weather in Rome"]
    for _ in range(400):
        words = ["Action:", "f", "Action Input:", chance.choice(INPUTS), ""]
        changed = list(words)
        for _ in range(chance.randint(1, 3)):
            changed.insert(chance.randrange(len(changed) + 1), chance.choice(parts))
        yield " ".join(words), " ".join(changed)
    letters = "abcdefgh"
    for _ in range(400):  # texts around the bound
        texts = [" ".join(chance.choice(letters) + chance.choice(["", "", ".", "2", "3", "4"])
                          for _ in range(chance.randint(1, 24))) for _ in range(2)]
        yield call("f", texts[0]), call("f", texts[1])


def cases():
    """Rows without a score."""
    chance = random.Random(7)
    for reward, variants in VARIANTS.items():
        for variant in variants:
            options = DEFAULTS[reward] | variant
            row = dict(reward=reward, options=options, solution="42", completion="", length=1)
            if reward in ("format", "react_format"):
                for text in patterned(chance):
                    yield row | dict(completion=text)
            elif reward == "toolbench":
                for solution, text in calls(chance):
                    yield row | dict(solution=solution, completion=text)
            elif reward == "repetition":
                for text in wordy(chance):
                    yield row | dict(completion=text)
            elif reward == "soft_overlong":
                # Behind the longest length ours has a floor (docs/differences.md).
                for length in range(0, options["soft_max_length"] + 1):
                    yield row | dict(length=length)
            else:
                # Behind the longest length ms-swift's curve turns back (docs/differences.md).
                for length in range(0, options["cosine_max_len"] + 1, 3):
                    yield row | dict(length=length, completion="\\boxed{42}")
                    yield row | dict(length=length, completion="\\boxed{41}")


def score(row):
    """What ms-swift's class says."""
    reward = orms[row["reward"]](args=types.SimpleNamespace(**row["options"]))
    scores = reward([row["completion"]], solution=[row["solution"]],
                    response_token_ids=[[1] * row["length"]])
    return float(scores[0]) + 0.0


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    if not arguments.check:
        lines = [json.dumps(row | dict(score=score(row))) for row in cases()]
        OUT.write_text("\n".join(lines) + "\n")
        print(f"{OUT}: {len(lines)} rows")
        return 0
    rows = [json.loads(line) for line in OUT.read_text().splitlines()]
    wrong = [row for row in rows if score(row) != row["score"]]
    for row in wrong[:10]:
        print(f"expected {score(row)} as of ms-swift, got {row}")
    print(f"{OUT.name}: {len(rows)} rows, {len(wrong)} differ")
    return 1 if wrong or not rows else 0


if __name__ == "__main__":
    raise SystemExit(main())
