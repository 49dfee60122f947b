#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes src/text/nfc_new_marks.inc: code points that utf8proc reorders or composes and
`tokenizers` does not.

The NFC of `tokenizers` knows Unicode 9, utf8proc a later version: marks that came between have no
combining class there. Run: python tools/golden/nfc_new_marks.py > src/text/nfc_new_marks.inc
"""
import ctypes

import tokenizers
from tokenizers import normalizers

UTF8PROC_STABLE, UTF8PROC_COMPOSE = 1 << 1, 1 << 3
utf8proc = ctypes.CDLL("libutf8proc.so.2")
utf8proc.utf8proc_map.restype = ctypes.c_ssize_t
utf8proc.utf8proc_unicode_version.restype = ctypes.c_char_p
c_library = ctypes.CDLL(None)


def by_utf8proc(text):
    data, out = text.encode(), ctypes.c_void_p()
    options = UTF8PROC_STABLE | UTF8PROC_COMPOSE
    size = utf8proc.utf8proc_map(data, ctypes.c_ssize_t(len(data)), ctypes.byref(out), options)
    result = ctypes.string_at(out, size).decode()
    c_library.free(out)
    return result


def differs(c):
    """Tries the code point behind and before marks of the lowest, a middle and the highest
    combining class.
    """
    normalize = normalizers.NFC().normalize_str
    probes = ("a" + c + "\u0334", "a\u0327" + c, "a\u0345" + c + "\u0334")
    return any(normalize(t) != by_utf8proc(t) for t in probes)


def main():
    ranges = []
    for c in range(0x110000):
        # U+11935 composes with U+11930 since Unicode 13.
        if 0xD800 <= c < 0xE000 or not (c == 0x11935 or differs(chr(c))):
            continue
        if ranges and ranges[-1][1] == c - 1:
            ranges[-1][1] = c
        else:
            ranges.append([c, c])
    version = utf8proc.utf8proc_unicode_version().decode()
    print("// First and last code point of each range. Made by tools/golden/nfc_new_marks.py")
    print(f"// with tokenizers {tokenizers.__version__} and utf8proc of Unicode {version}.")
    print("// SPDX-License-Identifier: Apache-2.0")
    for first in range(0, len(ranges), 4):
        print(" ".join(f"{{0x{a:x}, 0x{b:x}}}," for a, b in ranges[first : first + 4]))


if __name__ == "__main__":
    main()
