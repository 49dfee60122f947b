# SPDX-License-Identifier: Apache-2.0
"""A tiny model that has learnt a few answers by heart, so that a client's test knows what comes:
an answer in words, one that thinks first, and a call of a tool.

    taught_model.py --program lockstep FOLDER
"""

import argparse
import json
import pathlib
import subprocess

HELLO = ("Say hello.", "Hello there, friend!")
SUM = ("Add two and two.", "Two and two make four.", "The sum is four.")
WEATHER = ("What is the weather in Paris?", {"city": "Paris"})
TOOLS = [{"type": "function", "function": {
    "name": "get_weather", "description": "Tells the weather of a city.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}},
                   "required": ["city"]}}}]


def user(text):
    return {"role": "user", "content": text}


def rows():
    call = {"type": "function", "function": {"name": "get_weather", "arguments": WEATHER[1]}}
    return [
        {"messages": [user(HELLO[0]), {"role": "assistant", "content": HELLO[1]}]},
        {"messages": [user(SUM[0]), {"role": "assistant", "reasoning_content": SUM[1],
                                     "content": SUM[2]}]},
        {"messages": [user(WEATHER[0]), {"role": "assistant", "content": "", "tool_calls": [call]}],
         "tools": TOOLS},
    ]


def make(program, folder):
    """Writes FOLDER/model; a few seconds."""
    def run(command, **flags):
        words = [str(program), command, "--quiet", "true"]
        for name, value in flags.items():
            words += ["--" + name, str(value)]
        subprocess.run(words, check=True, timeout=300, stdout=subprocess.DEVNULL)

    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows()))
    run("new-model", like="qwen3", size="tiny", output_dir=folder / "new")
    run("sft", model=folder / "new", dataset=folder / "rows.jsonl", tuner_type="full",
        per_device_train_batch_size=3, max_steps=80, learning_rate=5e-3, report_to="none",
        save_strategy="steps", save_only_model="true", output_dir=folder / "run")
    (folder / "model").symlink_to((folder / "run" / "last").resolve())
    return folder / "model"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--program", required=True, help="the built program")
    parser.add_argument("folder")
    options = parser.parse_args()
    print(make(options.program, options.folder))
