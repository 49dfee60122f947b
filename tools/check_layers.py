#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Holds the levels of src/: which folder may include which (ARCHITECTURE.md).

Exit status 1 and one line a violation, "FILE:LINE: FOLDER may not include …".
"""
import os
import pathlib
import re
import sys

# Besides itself. The same table stands in the DEPS of each folder's CMakeLists.txt.
MAY_INCLUDE = {
    "base": [],
    "tensor": ["base"],
    "text": ["base"],
    "net": ["base"],
    "layout": ["base", "tensor"],
    "io": ["base", "tensor"],
    "ops": ["base", "tensor"],
    "cache": ["base", "tensor"],
    "parallel": ["base", "tensor"],
    "model": ["base", "tensor", "layout", "ops", "cache", "parallel"],
    "rollout": ["base", "text", "tensor", "ops", "cache", "parallel", "model"],
    "train": ["base", "tensor", "io", "ops", "cache", "parallel", "model"],
    "sync": ["base", "tensor", "layout", "io", "parallel"],
    "reward": ["base", "text", "net"],
    "agent": ["base", "text", "net", "reward"],
    "report": ["base", "text"],
    "grpo": ["base", "text", "net", "tensor", "io", "parallel", "model", "rollout", "train", "sync",
             "reward", "agent", "report"],
    "serve": ["base", "text", "net", "tensor", "io", "parallel", "model", "rollout", "sync"],
}
MAY_INCLUDE["cli"] = list(MAY_INCLUDE)
# Folders without libtorch: they compile in a second and run under the thread sanitizer.
TORCH_FREE = {"base", "text", "net", "layout", "reward", "agent", "report"}
# The only files that see libtorch's wide headers.
WIDE_HEADERS = re.compile(r"src/(tensor/autograd|parallel/c10d_|sync/c10d_)[^/]*$")
# What the kernels are tested against, and production never runs.
ORACLE_USERS = re.compile(r"(src/ops/reference/|src/cli/self_test\.|tests/|bench/|fuzz/)")
DEVICE_FILE = re.compile(r"\.(cu|cuh)$|/(cuda|npu|hip)/")
INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]')
SOURCES = {".h", ".cpp", ".cu", ".cuh"}


def allowed_of(path):
    """The folders that a file may include, and the name to call its place by; None: all of them."""
    parts = path.parts
    if parts[0] == "src":
        return {parts[1], *MAY_INCLUDE.get(parts[1], [])}, parts[1]
    if parts[0] == "tests" and len(parts) > 2 and parts[1] in MAY_INCLUDE:
        return {parts[1], *MAY_INCLUDE[parts[1]], "tests", "fuzz"}, f"tests/{parts[1]}"
    return None, parts[0]


def violations_of(path):
    allowed, place = allowed_of(path)
    name = path.as_posix()
    if DEVICE_FILE.search(name) and not name.startswith(("src/ops/", "tests/", "bench/")):
        yield 1, "device files belong in src/ops"
    known = set(MAY_INCLUDE) | {"tests", "bench", "fuzz"}
    for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
        match = INCLUDE.match(line)
        if not match:
            continue
        target = match.group(2)
        folder = target.split("/")[0]
        is_ours = match.group(1) == '"' and folder in known
        if is_ours and allowed is not None and folder not in allowed:
            yield number, f"{place} may not include {folder} ({target})"
        if target.startswith("ops/reference/") and not ORACLE_USERS.match(name):
            yield number, ("no op runs its oracle: only tests, bench and cli/self_test may include "
                           f"{target}")
        if target.startswith("torch/csrc") and not WIDE_HEADERS.search(name):
            yield number, f"only tensor/autograd.* may include {target}"
        is_torch = target.startswith(("ATen/", "c10/", "torch/"))
        if path.parts[0] == "src" and place in TORCH_FREE and is_torch:
            yield number, f"{place} has no libtorch, may not include {target}"


def main():
    os.chdir(pathlib.Path(__file__).resolve().parent.parent)
    failed = False
    for top in ("src", "tests", "bench", "fuzz"):
        for path in sorted(pathlib.Path(top).rglob("*")):
            if path.suffix not in SOURCES:
                continue
            if top == "src" and path.parts[1] not in MAY_INCLUDE:
                print(f"{path}:1: the folder {path.parts[1]} has no row in tools/check_layers.py",
                      file=sys.stderr)
                failed = True
                continue
            for number, text in violations_of(path):
                print(f"{path}:{number}: {text}", file=sys.stderr)
                failed = True
    return failed


if __name__ == "__main__":
    sys.exit(main())
