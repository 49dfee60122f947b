#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Rules about the text of files: lengths, headers, words and paths that do not belong in the tree.

Exit status 1 and one line a violation.
"""
import ast
import os
import pathlib
import re
import sys

CODE = {".h", ".cpp", ".cu", ".cuh"}
TEXT = CODE | {".py", ".sh", ".cmake", ".md", ".txt", ".json", ".yaml", ".jinja"}
# What the build puts into the program as it is, and how.
EMBEDDED = {".inc", ".js", ".css", ".html", ".cmake"}
# Other files that people write line by line. JSON and plain text are data.
HAND_WRITTEN = {".sh", ".cmake"}
NEEDS_LICENCE = CODE | {".py", ".sh", ".cmake"}
TOPS = ("src", "tests", "bench", "fuzz", "tools", "cmake", "examples", "docs",
        "integrations", ".ci")
# Data whose bytes are given, not written by us.
DATA = re.compile(r"/(golden|data|goldens|templates)/|/assets?/|\.jsonl$")
MAX_LINES = 600
MAX_CONDITIONALS = 3
MAX_COLUMNS = 100

WIDE_HEADER = re.compile(
    r"^\s*#\s*include\s*<(torch/torch\.h|torch/types\.h|ATen/ATen\.h|ATen/TensorIndexing\.h)>")
UNFINISHED = re.compile(r"\b(TO" r"DO|FIX" r"ME|X" r"XX)\b")
LOCAL_PATH = re.compile(r"(?<![\w./$}*-])/(tmp|work|root)(?=[/\s\"'`;,):]|$)")
# The guards that Highway's per-target headers need are no conditions on the build.
CONDITIONAL = re.compile(r"^\s*#\s*(if|ifdef|ifndef|elif)\b(?!.*_INL_H_).*\bLOCKSTEP_")
# A raw string, or a mangled name, cannot be broken without changing what it says.
UNBREAKABLE = re.compile(r'R"|"_ZN|[\)\]}]"[,;)]|^\s*[{[]?"')
# What Markdown cannot break: a row of a table, a picture, and an address as long as a line.
UNBREAKABLE_MARKDOWN = re.compile(r"^\s*(\||!\[)|\S{90,}")
# The formatter tears a comment behind code from what it explains; it stands above.
BEHIND = re.compile(r"\S.*///<")
# LOCKSTEP_TEST_SEED must reach every draw (tests/support/test_seed.h).
FIXED_SEED = re.compile(r"\b(mt19937(_64)?\s+\w+|createCPUGenerator)\s*[({]\s*\d|\brandom_device\b")
ENDS = re.compile(r"(?<![>.])\b(abort|assert)\s*\(|\bstd::(exit|terminate|abort)\b|"
                  r"(?<![\w:.>])exit\s*\(")


def given_lines(text):
    """The numbers of the lines of a Python file that stand in texts of several lines.

    Such a text, a template say, is given to some program as it stands. Docstrings are ours.
    """
    tree = ast.parse(text)
    ours = {id(node.body[0].value) for node in ast.walk(tree)
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef))
            and isinstance(node.body[0], ast.Expr)}
    return {number for node in ast.walk(tree)
            if isinstance(node, ast.Constant) and isinstance(node.value, str)
            and id(node) not in ours and node.value.count("\n") > 1
            for number in range(node.lineno, node.end_lineno + 1)}


def breakable_lines(path, lines):
    """The numbers of the lines that could be broken without changing what they say."""
    numbers = set(range(1, len(lines) + 1))
    if path.suffix in CODE:
        return {number for number in numbers if not UNBREAKABLE.search(lines[number - 1])}
    if path.suffix == ".py":
        return numbers - given_lines("\n".join(lines))
    if path.suffix == ".md":
        # Blocks hold commands and what they print.
        fences = [number for number in numbers if lines[number - 1].lstrip().startswith("```")]
        for first, last in zip(fences[::2], fences[1::2]):
            numbers -= set(range(first, last + 1))
        return {number for number in numbers if not UNBREAKABLE_MARKDOWN.search(lines[number - 1])}
    return numbers if path.suffix in HAND_WRITTEN or path.name == "CMakeLists.txt" else set()


def violations_of(path, lines):
    name = path.as_posix()
    breakable = breakable_lines(path, lines)
    is_code = path.suffix in CODE
    has_licence = any("SPDX-License-Identifier: Apache-2.0" in line for line in lines[:12])
    if path.suffix in NEEDS_LICENCE and not has_licence:
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
        if number in breakable and len(line) > MAX_COLUMNS:
            yield number, f"expected at most {MAX_COLUMNS} columns, got {len(line)}"
        if is_code and BEHIND.search(line):
            yield number, "a comment on a declaration stands above it"
        if is_code and WIDE_HEADER.match(line):
            yield number, "a wide header of libtorch (use tensor/aten.h)"
        if is_code and name.startswith("tests/") and FIXED_SEED.search(line):
            yield number, "a test draws from test_seed()"
        if is_code and name.startswith("src/") and ENDS.search(line.split("//")[0]):
            yield number, "src/ ends by exceptions only"


def strays():
    """Files of src/ that nothing builds or embeds: copies that somebody left there."""
    return [path for path in sorted(pathlib.Path("src").rglob("*"))
            if path.is_file() and path.suffix not in EMBEDDED | CODE
            and path.name != "CMakeLists.txt"]


def main():
    os.chdir(pathlib.Path(__file__).resolve().parent.parent)
    failed = False
    for path in strays():
        print(f"{path}:1: no source and nothing that is embedded", file=sys.stderr)
        failed = True
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
            conditionals += [f"{path}:{number}" for number, line in enumerate(lines, 1)
                             if CONDITIONAL.match(line)]
    if len(conditionals) > MAX_CONDITIONALS:
        print(
            f"{conditionals[-1]}: expected at most {MAX_CONDITIONALS} #if LOCKSTEP_ in src, got "
            f"{len(conditionals)}: "
              + ", ".join(conditionals), file=sys.stderr)
        failed = True
    return failed


if __name__ == "__main__":
    sys.exit(main())
