#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Makes a model folder's tokenizer.json from a .tiktoken file, with Qwen3's pattern and added
tokens: a vocabulary of real size (151,643 entries) for benchmarks and parity checks, without
downloading a checkpoint.

The merges are those of transformers' TikTokenConverter: every way to cut a token into two known
ones, by the token's rank. Run: python tools/golden/tiktoken_to_tokenizer.py
.deps/python/lib/python3*/site-packages/dashscope/resources/qwen.tiktoken DIR
"""
import base64
import json
import pathlib
import sys

from tokenizers import pre_tokenizers

QWEN3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
ADDED = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def byte_chars():
    printable = [b for b in range(256) if 0x21 <= b <= 0x7E or (b >= 0xA1 and b != 0xAD)]
    hidden = iter(range(0x100, 0x200))
    chars = [chr(b) if b in printable else chr(next(hidden)) for b in range(256)]
    assert set(chars) == set(pre_tokenizers.ByteLevel.alphabet())
    return chars


def all_merges(ranks):
    merges = []
    for token in sorted(ranks, key=ranks.get):
        cuts = [(token[:i], token[i:]) for i in range(1, len(token))]
        cuts = [(left, right) for left, right in cuts if left in ranks and right in ranks]
        merges += sorted(cuts, key=lambda cut: (ranks[cut[0]], ranks[cut[1]]))
    return merges


def main():
    source, folder = sys.argv[1:]
    ranks = {}
    for line in open(source, "rb"):
        token, rank = line.split()
        ranks[base64.b64decode(token)] = int(rank)
    chars = byte_chars()

    def text(token):
        return "".join(chars[b] for b in token)

    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False,
                  "use_regex": False}
    split = {"type": "Split", "pattern": {"Regex": QWEN3}, "behavior": "Isolated", "invert": False}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
             "special": True}
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": len(ranks) + i, "content": t, **flags}
                         for i, t in enumerate(ADDED)],
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level]},
        "post_processor": byte_level,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "fuse_unk": False,
            "byte_fallback": False,
            "vocab": {text(t): r for t, r in ranks.items()},
            "merges": [[text(left), text(right)] for left, right in all_merges(ranks)],
        },
    }
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": ADDED[2],
              "pad_token": ADDED[0]}
    out = pathlib.Path(folder)
    out.mkdir(parents=True, exist_ok=True)
    (out / "tokenizer.json").write_text(json.dumps(tokenizer, indent=2, ensure_ascii=False),
                                        encoding="utf-8")
    (out / "tokenizer_config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
    print(len(ranks), "tokens,", len(tokenizer["model"]["merges"]), "merges")


if __name__ == "__main__":
    main()
