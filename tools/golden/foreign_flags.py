#!/usr/bin/env python3
"""The flags of other trainers, for tests/cli/flag_classes_test.cpp: every one must be in some
class.

    python tools/golden/foreign_flags.py FOLDER

FOLDER holds unpacked wheels, each in a folder named as its file (`trl-1.16.0`). Nothing is
imported: the fields of the dataclasses that make a command line are read from the source, with the
default where it is written as a constant. Writes tests/data/flags/foreign_flags.jsonl, a line a
name: {"name", "of": ["trl-1.16.0 grpo", …], "defaults"?: [ms-swift 4.6.0's]}.

SPDX-License-Identifier: Apache-2.0
"""

import ast
import json
import pathlib
import sys

OUTPUT = pathlib.Path(__file__).parents[2] / "tests" / "data" / "flags" / "foreign_flags.jsonl"

TRL = {
    "grpo": ["GRPOConfig", "ModelConfig", "ScriptArguments", "GRPOScriptArguments"],
    "sft": ["SFTConfig", "ModelConfig", "ScriptArguments"],
    "rollout": ["VllmServeArguments"],
}
TRANSFORMERS = {"training": ["Seq2SeqTrainingArguments"]}
# Of ms-swift's classes some are made of transformers' and TRL's; bases are followed in all
# packages.
SOURCES = {
    "trl-0.19.1": ("trl", TRL),
    "trl-0.24.0": ("trl", TRL),
    "trl-1.16.0": ("trl", TRL),
    "transformers-4.57.1": ("transformers", TRANSFORMERS),
    "transformers-5.23.0": ("transformers", TRANSFORMERS),
    "ms_swift-3.8.3": ("swift", {
        "grpo": ["RLHFArguments"], "sft": ["TrainArguments"], "rollout": ["RolloutArguments"],
        "megatron grpo": ["MegatronRLHFArguments"], "megatron sft": ["MegatronTrainArguments"],
    }),
    "ms_swift-4.6.0": ("swift", {
        "grpo": ["RLHFArguments"], "sft": ["SftArguments"], "rollout": ["RolloutArguments"],
        "megatron grpo": ["MegatronRLHFArguments"], "megatron sft": ["MegatronSftArguments"],
    }),
}  # fmt: skip
# Whose defaults pass without a word when somebody writes them down.
SPEAKS = "ms_swift-4.6.0"


def classes_of(package):
    """Name to definitions of every class of a package."""
    found = {}
    # transformers is large, and its command line stands in these files.
    files = (package.rglob("*.py") if package.name != "transformers"
             else package.glob("training_args*.py"))
    for path in sorted(files):
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError):
            continue
        for node in tree.body:
            if isinstance(node, ast.ClassDef):
                # TRL has two classes of this name; one is its server's.
                is_server = path.stem == "vllm_serve" and node.name == "ScriptArguments"
                name = "VllmServeArguments" if is_server else node.name
                found.setdefault(name, []).append(node)
    return found


def fields_of(node):
    """Annotated fields of a class body, ClassVars and private ones aside."""
    fields = {}
    for item in node.body:
        if not isinstance(item, ast.AnnAssign) or not isinstance(item.target, ast.Name):
            continue
        if item.target.id.startswith("_") or "ClassVar" in ast.unparse(item.annotation):
            continue
        fields[item.target.id] = item.value
    return fields


def default_of(value):
    """The default as a command line would have it, or None where it is not a constant."""
    if isinstance(value, ast.Call):
        values = [k.value for k in value.keywords if k.arg == "default"]
        return default_of(values[0]) if values else None
    try:
        constant = ast.literal_eval(value) if value is not None else ...
    except ValueError:
        return None
    if constant is ...:
        return None
    if constant is None or isinstance(constant, bool):
        return str(constant).lower()
    return str(constant) if isinstance(constant, (int, float, str)) and constant != "" else None


def collect(name, classes, seen=()):
    """Fields of the classes of a name and of their bases, the nearest definition winning."""
    fields = {}
    if name in seen:
        return fields
    for node in classes.get(name, []):
        for base in reversed(node.bases):
            word = ast.unparse(base).split(".")[-1]
            # `from trl import GRPOConfig as HfGRPOConfig`
            word = word.removeprefix("Hf") if word not in classes else word
            fields.update(collect(word, classes, (*seen, name)))
        fields.update(fields_of(node))
    return fields


def read_flags(folder):
    """Name to commands that have the flag, and defaults."""
    flags = {}
    for source, (package, commands) in SOURCES.items():
        classes = classes_of(folder / source / package)
        if package != "transformers":
            older = "4.57.1" if source.startswith(("trl-0", "ms_swift-3")) else "5.23.0"
            classes = {**classes_of(folder / f"transformers-{older}" / "transformers"), **classes}
        for command, names in commands.items():
            for name in names:
                assert name in classes, f"{source} has no {name}"
                for flag, value in collect(name, classes).items():
                    entry = flags.setdefault(flag, {"name": flag, "of": []})
                    entry["of"].append(f"{source} {command}")
                    default = default_of(value) if source == SPEAKS else None
                    if default and default not in entry.get("defaults", []):
                        entry.setdefault("defaults", []).append(default)
    return flags


def main():
    flags = read_flags(pathlib.Path(sys.argv[1]))
    OUTPUT.parent.mkdir(exist_ok=True)
    with OUTPUT.open("w", encoding="utf-8") as file:
        for flag in sorted(flags):
            file.write(json.dumps(flags[flag], ensure_ascii=False) + "\n")
    print(f"{len(flags)} flags")


if __name__ == "__main__":
    main()
