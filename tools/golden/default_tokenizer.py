#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Learns assets/tokenizer_merges.txt, the merges of the tokenizer that ships with the program.

The text is GSM8K's (MIT) and sample_text.txt in this folder. The result is committed: checkpoints
and goldens depend on it, so another run with another text or version is a change of format.

Run: python tools/golden/default_tokenizer.py GSM8K.jsonl assets/tokenizer_merges.txt
"""
import json
import pathlib
import sys

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

QWEN35 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}|"
    r" ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def texts(gsm8k):
    for line in open(gsm8k, encoding="utf-8"):
        row = json.loads(line)
        yield row["question"]
        yield row["answer"]
    own = pathlib.Path(__file__).with_name("sample_text.txt").read_text(encoding="utf-8")
    for _ in range(4):  # small compared with the rest, so it counts four times
        yield own


def learn(gsm8k):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN35), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=32768,
        min_frequency=2,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        max_token_length=24,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts(gsm8k), trainer)
    return json.loads(tokenizer.to_str())["model"]["merges"]


def main():
    gsm8k, output = sys.argv[1:]
    seen, lines = set(), []
    for left, right in learn(gsm8k):
        # A second way to the same token would need two ids for one text: the first way is enough.
        if left + right not in seen:
            seen.add(left + right)
            lines.append(f"{left} {right}\n")
    pathlib.Path(output).write_text("".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
