#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Holds every file to compiler flags under which a formula has the bits that its source says.

    python3 tools/check_flags.py compile_commands.json

Each file, those of the tests too, is compiled with -ffp-contract=off, and none with a flag that
lets the compiler reorder or contract floating-point arithmetic behind it. Exit status 1 and one
line a file.
"""
import json
import shlex
import sys

WANTED = "-ffp-contract=off"
LOOSE = {"-ffast-math", "-Ofast", "-funsafe-math-optimizations", "-fassociative-math",
         "-freciprocal-math",
         "-ffinite-math-only", "-fno-signed-zeros"}


def problem_of(flags):
    contract = [flag for flag in flags if flag.startswith("-ffp-contract=")]
    if contract[-1:] != [WANTED]:
        return f"expected {WANTED} to be the last word on contraction, got {contract or 'none'}"
    loose = [flag for flag in flags if flag in LOOSE]
    return f"expected exact floating-point arithmetic, got {' '.join(loose)}" if loose else None


def main():
    with open(sys.argv[1], encoding="utf-8") as file:
        commands = json.load(file)
    failed = not commands
    for command in commands:
        problem = problem_of(command.get("arguments") or shlex.split(command["command"]))
        if problem:
            print(f"{command['file']}: {problem}", file=sys.stderr)
            failed = True
    return failed


if __name__ == "__main__":
    sys.exit(main())
