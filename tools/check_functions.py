#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Finds functions of more than 60 lines.

A longer one needs a reason in the comment right above its head: "// long: REASON". Braces are
counted in text without comments, strings and preprocessor lines; a brace is a function's if its
head has a parenthesis and it does not stand in another function. Exit status 1 and one line a
violation.
"""
import os
import pathlib
import re
import sys

LONGEST = 60
SOURCES = {".h", ".cpp", ".cu", ".cuh"}
# Raw strings, other strings, characters (not the ' of 1'000) and comments; what a match holds
# becomes blanks.
NOISE = re.compile(
    r'R"(?P<mark>[^()\s]{0,16})\(.*?\)(?P=mark)"|"(?:\\.|[^"\\\n])*"|'
    r'(?<![0-9A-Za-z])\'(?:\\.|[^\'\\\n])*\''
    r"|//[^\n]*|/\*.*?\*/|^[ \t]*#(?:[^\n\\]|\\.|\\\n)*",
    re.DOTALL | re.MULTILINE)


def without_noise(text):
    """The text with everything blanked that is no code; line numbers stay."""
    return NOISE.sub(lambda match: re.sub(r"[^\n]", " ", match.group()), text)


def functions_of(code):
    """Yields (line of the head, line of the closing brace), both from 1."""
    head_start = None  # (position, line) where the text since the last ; { } begins
    stack = []  # (kind, (position, line) of the head)
    line = 1
    for position, char in enumerate(code):
        if char == "\n":
            line += 1
        elif char == "{":
            head = "" if head_start is None else code[head_start[0]:position]
            inside = any(kind == "function" for kind, _ in stack)
            is_head = (re.search(r"\w\s*\(|\boperator\b", head)
                       and not re.search(r"\bnamespace\b", head))
            stack.append(("function" if is_head and not inside else "other", head_start))
            head_start = None
        elif char == "}":
            if stack:
                kind, start = stack.pop()
                rest = code[position + 1:position + 200].lstrip()
                if kind == "function" and rest[:1] in (",", "{"):
                    head_start = start  # the brace of a member's initialiser: the head goes on
                    continue
                if kind == "function":
                    yield start[1], line
            head_start = None
        elif char == ";":
            head_start = None
        elif head_start is None and not char.isspace():
            head_start = (position, line)


def has_reason(lines, head):
    """True if the comment right above line `head` (from 1) says why the function is long."""
    above = head - 2
    while above >= 0 and lines[above].lstrip().startswith("//"):
        if re.match(r"\s*///? long: \S", lines[above]):
            return True
        above -= 1
    return False


def main():
    os.chdir(pathlib.Path(__file__).resolve().parent.parent)
    failed = False
    for top in ("src", "tests", "bench", "fuzz"):
        for path in sorted(pathlib.Path(top).rglob("*")):
            if path.suffix not in SOURCES:
                continue
            text = path.read_text(errors="replace")
            lines = text.splitlines()
            for first, last in functions_of(without_noise(text)):
                if last - first + 1 > LONGEST and not has_reason(lines, first):
                    print(
                        f"{path}:{first}: expected a function of at most {LONGEST} lines, got "
                        f"{last - first + 1} "
                          "(split it, or say why above it: // long: REASON)", file=sys.stderr)
                    failed = True
    return failed


if __name__ == "__main__":
    sys.exit(main())
