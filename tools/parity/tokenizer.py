#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Compares `lockstep tokenize` with Hugging Face `tokenizers` on random texts, for any model
folder.

Run: python tools/parity/tokenizer.py --program build/bin/lockstep --model DIR [--count 2000]
[--seed 1] (tools/golden/tiktoken_to_tokenizer.py makes a folder with a vocabulary of real size.)
Exit code 1 on the first difference.
"""
import argparse
import importlib.util
import itertools
import json
import pathlib
import random
import subprocess
import sys
import tempfile

from tokenizers import Tokenizer

GOLDEN = pathlib.Path(__file__).resolve().parents[1] / "golden" / "tokenizer.py"


def golden_script():
    spec = importlib.util.spec_from_file_location("golden_tokenizer", GOLDEN)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(program, model, rows):
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        command = [program, "tokenize", "--model", model, "--dataset", str(path)]
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
    return [json.loads(line) for line in output.decode().splitlines()]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--program", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    tokenizer = Tokenizer.from_file(str(pathlib.Path(args.model) / "tokenizer.json"))
    rng = random.Random(args.seed)
    texts = list(itertools.islice(golden_script().texts(rng), args.count))
    ids = [[rng.randrange(tokenizer.get_vocab_size()) for _ in range(rng.randint(1, 12))]
           for _ in range(args.count // 4)]
    got = run(args.program, args.model, [{"text": t} for t in texts] + [{"ids": i} for i in ids])
    expected = [{"ids": tokenizer.encode(t).ids} for t in texts]
    expected += [{"text": tokenizer.decode(i, skip_special_tokens=False)} for i in ids]
    for given, mine, theirs in zip(texts + ids, got, expected, strict=True):
        key = next(iter(theirs))
        if mine.get(key) != theirs[key]:
            print(f"{given!r}\n  lockstep   {mine}\n  tokenizers {theirs}")
            sys.exit(1)
    print(f"{len(texts)} texts and {len(ids)} lists of ids: equal")


if __name__ == "__main__":
    main()
