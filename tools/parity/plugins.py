#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Runs `lockstep reward` with math_verify and with ms-swift's own example plugins.

- math_verify gives each answer of tests/data/reward/math_answers.jsonl what ms-swift's class gives
  it in this process.
- Three plugin files of ms-swift run unchanged: plugin.py, gsm8k_plugin.py and deepeyes_plugin.py,
  each of whose rewards gives what its class gives when it is called as ms-swift calls it. They are
  not part of ms-swift's packages: --examples or LOCKSTEP_SWIFT_EXAMPLES names the folder
  examples/train/grpo/plugin of a checkout (https://github.com/modelscope/ms-swift); without one
  they are left out.
"""

import argparse
import http.server
import importlib
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import threading
import types

ROOT = pathlib.Path(__file__).resolve().parents[2]
ANSWERS = ROOT / "tests" / "data" / "reward" / "math_answers.jsonl"
# Its address is written in the plugin.
JUDGE = ("127.0.0.1", 8000)

TOOL = '{"name": "f", "parameters": {"a": 1}}'
ROWS = [
    dict(completion="<think>a</think> <answer>1 + 2</answer>", solution="3", target="3",
         nums=[1, 2]),
    dict(completion="<answer>1 + 3</answer> \\boxed{3}", solution="\\boxed{3}", target="3",
         nums=[1, 2]),
    dict(completion="#### 1,234", solution="so\n#### 1234", target="4", nums=[4]),
    dict(completion=f"<think>a b c</think>\n<tool_call>{TOOL}</tool_call>",
         solution=f"<think>x</think>\n<tool_call>{TOOL}</tool_call>", target="4", nums=[4]),
    dict(completion="<think>a</think>\n<response>r</response>", target="1", nums=[1],
         solution="<think>x</think>\n<response>s</response>"),
    dict(completion="x", solution="<tool_call>{}</tool_call><response></response>", target="1",
         nums=[1]),
]
FILES = {
    "plugin.py": ["external_countdown", "external_r1v_acc", "external_tooluse_format_reward",
                  "external_tooluse_length_reward", "external_tooluse_correct_reward"],
    "gsm8k/gsm8k_plugin.py": ["gsm8k_accuracy", "gsm8k_format"],
}
EYES = [
    dict(completion="<think>a</think><answer>blue</answer>", data_source="vstar",
         reward_model=dict(ground_truth="blue"), extra_info=dict(question="which colour?")),
    dict(completion="<think>a<answer>blue</answer>", data_source="chart",
         reward_model=dict(ground_truth="red"), extra_info=dict(question="which colour?")),
    dict(completion="<think>a</think>\\boxed{7}", data_source="thinklite_eureka",
         reward_model=dict(ground_truth="7"), extra_info=dict(question="3 + 4?")),
]


class Judge(http.server.BaseHTTPRequestHandler):
    """A model that finds right what holds "blue" as both answers."""

    def do_GET(self):
        self.answer(dict(object="list", data=[dict(id="judge", object="model", created=0,
                                                   owned_by="test")]))

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        question = body["messages"][-1]["content"]
        is_right = "[Standard Answer]: blue\n[Model_answer] : blue" in question
        message = dict(role="assistant", content=f"Judgement: {int(is_right)}")
        self.answer(dict(id="1", object="chat.completion", created=0, model="judge",
                         choices=[dict(index=0, finish_reason="stop", message=message)]))

    def answer(self, body):
        text = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *arguments):
        pass


class Comparison:
    """Runs the program and counts what differs."""

    def __init__(self, program):
        self.program = program
        self.folder = tempfile.TemporaryDirectory()
        self.num_wrong = 0

    def program_values(self, rows, rewards, plugins=()):
        """A list of values for each row, one a reward."""
        folder = pathlib.Path(self.folder.name)
        (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
        command = [self.program, "reward", "--dataset", folder / "rows.jsonl", "--output",
                   folder / "out.jsonl", "--overwrite", "--plugin_python", sys.executable,
                   "--plugin_workers", "2", "--reward_timeout", "300", "--reward_max_failures",
                   "0", "--reward_funcs", *rewards]
        if plugins:
            command += ["--external_plugins", *plugins]
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"expected exit code 0, got {done.returncode}: {done.stderr}")
        judged = map(json.loads, (folder / "out.jsonl").read_text().splitlines())
        return [[row["rewards"][reward] for reward in rewards] for row in judged]

    def expect(self, name, rows, found, expected):
        if not rows or len(found) != len(rows) or len(expected) != len(rows):
            raise SystemExit(f"{name}: expected {len(rows)} values, got {len(found)}")
        wrong = [(row, one, other) for row, one, other in zip(rows, found, expected)
                 if one != other]
        for row, one, other in wrong[:5]:
            print(f"{name}: expected {other}, got {one} for {json.dumps(row)}")
        values = sorted({str(value) for value in expected})
        print(f"{name}: {len(rows)} values, {len(wrong)} differ; values: {', '.join(values[:6])}")
        self.num_wrong += len(wrong)


def compare_math_verify(comparison):
    from swift.rewards.orm import MathAccuracy
    rows = [json.loads(line) for line in ANSWERS.read_text().splitlines()]
    rows = [dict(solution=row["solution"], completion=row["completion"]) for row in rows]
    found = [values[0] for values in comparison.program_values(rows, ["math_verify"])]
    expected = MathAccuracy()([row["completion"] for row in rows],
                              [row["solution"] for row in rows])
    comparison.expect("math_verify", rows, found, expected)


def expected_of(orms, reward, rows):
    """What the class gives when it is called as ms-swift calls it."""
    columns = {key: [row.get(key) for row in rows] for row in rows for key in row}
    completions = columns.pop("completion")
    messages = [[dict(role="assistant", content=text)] for text in completions]
    made = orms[reward](args=types.SimpleNamespace())
    return made(completions, messages=messages, **columns,
                trainer_state=types.SimpleNamespace(global_step=0, max_steps=0))


def compare_files(comparison, examples):
    # This process needs the stand-ins, too, where ms-swift is not whole.
    sys.path.insert(0, str(ROOT / "integrations" / "plugin_host"))
    swift_stubs = importlib.import_module("swift_stubs")
    swift_stubs.forget_swift()
    swift_stubs.provide("stub")
    files = [(examples / name, rewards, ROWS) for name, rewards in FILES.items()]
    try:
        judge = http.server.ThreadingHTTPServer(JUDGE, Judge)
        threading.Thread(target=judge.serve_forever, daemon=True).start()
        files.append((examples / "deepeyes/deepeyes_plugin.py", ["deepeyes_reward"], EYES))
    except OSError:
        print("deepeyes_plugin.py: left out, since port 8000 is busy")
    loader = importlib.import_module("plugin_loader")
    for path, rewards, rows in files:
        found = comparison.program_values(rows, rewards, [path])
        loader.import_file(str(path))
        for index, reward in enumerate(rewards):
            comparison.expect(f"{path.name} {reward}", rows, [values[index] for values in found],
                              expected_of(swift_stubs.registry(), reward, rows))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--program", required=True)
    parser.add_argument("--examples", default=os.environ.get("LOCKSTEP_SWIFT_EXAMPLES"))
    arguments = parser.parse_args()
    comparison = Comparison(arguments.program)
    compare_math_verify(comparison)
    if arguments.examples:
        compare_files(comparison, pathlib.Path(arguments.examples))
    else:
        print("ms-swift's example plugins: left out, since LOCKSTEP_SWIFT_EXAMPLES names no folder")
    return 1 if comparison.num_wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
