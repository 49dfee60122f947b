#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Rules about the text of files: lengths, headers, and words and paths that do not belong in the tree.

Exit status 1 and one line a violation.
"""
import os
import pathlib
import re
import sys

CODE = {".h", ".cpp", ".cu", ".cuh"}
TEXT = CODE | {".py", ".sh", ".cmake", ".md", ".txt", ".json", ".yaml", ".jinja"}
NEEDS_LICENCE = CODE | {".py", ".sh", ".cmake"}
TOPS = ("src", "tests", "bench", "fuzz", "tools", "cmake", "examples", "docs", ".ci")
# Data whose bytes are given, not written by us.
DATA = re.compile(r"/(golden|data|goldens|templates)/|/assets?/|\.jsonl$")
MAX_LINES = 600
MAX_CONDITIONALS = 3
MAX_COLUMNS = 100

WIDE_HEADER = re.compile(r"^\s*#\s*include\s*<(torch/torch\.h|torch/types\.h|ATen/ATen\.h|ATen/TensorIndexing\.h)>")
UNFINISHED = re.compile(r"\b(TO" r"DO|FIX" r"ME|X" r"XX)\b")
LOCAL_PATH = re.compile(r"(?<![\w./$}*-])/(tmp|work|root)(?=[/\s\"'`;,):]|$)")
# The guards that Highway's per-target headers need are no conditions on the build.
CONDITIONAL = re.compile(r"^\s*#\s*(if|ifdef|ifndef|elif)\b(?!.*_INL_H_).*\bLOCKSTEP_")
# A raw string, or a mangled name, cannot be broken without changing what it says.
UNBREAKABLE = re.compile(r'R"|"_ZN|[\)\]}]"[,;)]|^\s*[{[]?"')
# The formatter tears a comment behind code from what it explains; it stands above.
BEHIND = re.compile(r"\S.*///<")
# LOCKSTEP_TEST_SEED must reach every draw (tests/support/test_seed.h).
FIXED_SEED = re.compile(r"\b(mt19937(_64)?\s+\w+|createCPUGenerator)\s*[({]\s*\d|\brandom_device\b")
ENDS = re.compile(r"\b(abort|assert)\s*\(|\bstd::(exit|terminate|abort)\b|(?<![\w:.>])exit\s*\(")


def violations_of(path, lines):
    name = path.as_posix()
    is_code = path.suffix in CODE
    if path.suffix in NEEDS_LICENCE and not any("SPDX-License-Identifier: Apache-2.0" in line for line in lines[:12]):
        yield 1, "expected a line SPDX-License-Identifier: Apache-2.0 at the top"
    if is_code and len(lines) > MAX_LINES:
        yield len(lines), f"expected at most {MAX_LINES} lines, got {len(lines)}"
    for number, line in enumerate(lines, 1):
        if line != line.rstrip():
            yield number, "spaces at the end of the line"
        if UNFINISHED.search(line):
            yield number, "unfinished work belongs in the tracker"
        if LOCAL_PATH.search(line) and path.suffix != ".md":
            yield number, "a path of one machine"
        if is_code and len(line) > MAX_COLUMNS and not UNBREAKABLE.search(line):
            yield number, f"expected at most {MAX_COLUMNS} columns, got {len(line)}"
        if is_code and BEHIND.search(line):
            yield number, "a comment on a declaration stands above it"
        if is_code and WIDE_HEADER.match(line):
            yield number, "a wide header of libtorch (use tensor/aten.h)"
        if is_code and name.startswith("tests/") and FIXED_SEED.search(line):
            yield number, "a test draws from test_seed()"
        if is_code and name.startswith("src/") and ENDS.search(line.split("//")[0]):
            yield number, "src/ ends by exceptions only"


def main():
    os.chdir(pathlib.Path(__file__).resolve().parent.parent)
    failed = False
    conditionals = []
    files = [path for top in TOPS for path in sorted(pathlib.Path(top).rglob("*"))]
    files += [path for path in sorted(pathlib.Path(".").iterdir()) if path.suffix in TEXT]
    for path in files:
        if not path.is_file() or path.suffix not in TEXT or DATA.search(path.as_posix()):
            continue
        lines = path.read_text(errors="replace").splitlines()
        for number, text in violations_of(path, lines):
            print(f"{path}:{number}: {text}", file=sys.stderr)
            failed = True
        if path.parts[0] == "src" and path.suffix in CODE:
            conditionals += [f"{path}:{i}" for i, line in enumerate(lines, 1) if CONDITIONAL.match(line)]
    if len(conditionals) > MAX_CONDITIONALS:
        print(f"{conditionals[-1]}: expected at most {MAX_CONDITIONALS} #if LOCKSTEP_ in src, got {len(conditionals)}: "
              + ", ".join(conditionals), file=sys.stderr)
        failed = True
    return failed


if __name__ == "__main__":
    sys.exit(main())
