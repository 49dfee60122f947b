#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes src/text/unicode_classes.inc: the class of each code point as Hugging Face `tokenizers`
sees it.

The regex engine of `tokenizers` is asked itself, so that our splitter follows its version of
Unicode and not the version of a library of the system. Run: python tools/golden/unicode_classes.py
> src/text/unicode_classes.inc
"""
import tokenizers
from tokenizers import Regex, pre_tokenizers

CLASSES = {1: r"\p{L}", 2: r"\p{M}", 3: r"\p{N}", 4: r"\s"}


def members(pattern):
    split = pre_tokenizers.Split(Regex(pattern), "removed")
    found = set()
    code_points = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]
    for first in range(0, len(code_points), 4096):
        chunk = code_points[first : first + 4096]
        pieces = split.pre_tokenize_str("".join(map(chr, chunk)))
        kept = {ord(c) for piece, _ in pieces for c in piece}
        found.update(c for c in chunk if c not in kept)
    return found


def main():
    class_of = bytearray(0x110000)
    for number, pattern in CLASSES.items():
        for c in members(pattern):
            assert class_of[c] == 0, hex(c)
            class_of[c] = number
    runs = [(c, class_of[c]) for c in range(0x110000) if c == 0 or class_of[c] != class_of[c - 1]]
    print("// First code point of each run of one class, times 8, plus the class:")
    print("// 0 other, 1 letter, 2 mark, 3 number, 4 white space.")
    print(f"// Made by tools/golden/unicode_classes.py with tokenizers {tokenizers.__version__}.")
    print("// SPDX-License-Identifier: Apache-2.0")
    words = [f"0x{c * 8 + k:x}," for c, k in runs]
    line = ""
    for word in words:
        if len(line) + len(word) + 1 > 100:
            print(line)
            line = word
        else:
            line = f"{line} {word}" if line else word
    print(line)


if __name__ == "__main__":
    main()
