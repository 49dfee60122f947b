# SPDX-License-Identifier: Apache-2.0
"""Trains by GRPO with the real vLLM as the sampler, and compares its weights with the run's.

    python tools/parity/vllm_grpo.py --program build/bin/lockstep [--only NAME…]

For each case a server of vLLM with our plugin samples for ten steps. The checkpoint whose weights
it was given last is then loaded by a fresh process of vLLM: log-probabilities of prompts must be
the same, without any difference. Then the trainer is killed in the middle of a run and another one
begins on the same server. Prints each figure with its bound, and exits 1 if one is over it.
"""

import argparse
import json
import pathlib
import signal
import subprocess
import sys
import tempfile
import time

import requests

from program import Program, ProgramError
from vllm_adapters import HEADS, new_model
from vllm_server import VllmError, VllmServer
from vllm_updates import Served, difference, judge, plugin_folder

from model import Report

STEPS = 10
SERVING = ["--weight-transfer-config", '{"backend":"lockstep"}', "--logprobs-mode",
           "processed_logprobs"]
ENVIRONMENT = pathlib.Path(__file__).resolve().parent / "echo_environment.py"
# By name: family and precision of a model, and flags of its run. An adapter is merged.
CASES = {
    "qwen3": dict(like="qwen3", dtype="float32", tied=True, bound=1e-4),
    "qwen3_moe lora": dict(like="qwen3_moe", dtype="float32", bound=1e-4,
                           flags=dict(tuner_type="lora", lora_experts=True, sync_mode="full")),
    "qwen3_5": dict(like="qwen3_5", dtype="bfloat16", changes=HEADS, tied=True, bound=0.4),
    "qwen3_5 tcp": dict(like="qwen3_5", dtype="bfloat16", changes=HEADS, tied=True, bound=0.4,
                        flags=dict(sync_transport="tcp", sync_mode="delta", learning_rate=1e-4)),
    "qwen3 turns": dict(like="qwen3", dtype="float32", tied=True, bound=1e-4,
                        flags=dict(gym_env=f"program:{sys.executable} {ENVIRONMENT}")),
    "qwen3_5_moe": dict(like="qwen3_5_moe", dtype="bfloat16", changes=HEADS, bound=2.5),
}


def rows_of(program):
    return program.write_rows(
        [{"messages": [{"role": "user", "content": f"What is {i} plus {i + 1}?"}],
          "solution": str(2 * i + 1)} for i in range(32)])


def flags_of(about, model, rows, url, run, steps):
    """Completions end at common letters, so that their lengths, and rewards, differ."""
    return dict(
        model=model, dataset=rows, output_dir=run, rollout_mode="server", rollout_server=url,
        tuner_type="full", reward_funcs="soft_overlong", soft_max_length=16, soft_cache_length=15,
        max_completion_length=16, num_generations=4, per_device_train_batch_size=8,
        max_steps=steps, learning_rate=1e-3, stop_words=["e", "a", "n", "t"], logging_steps=1,
        save_steps=1, sync_probe_bound=about["bound"], quiet=True) | about.get("flags", {})


def words_of(program, flags):
    words = [str(program.path), "grpo"]
    for name, value in flags.items():
        values = value if isinstance(value, list) else [value]
        words += ["--" + name, *(str(v).lower() if isinstance(v, bool) else str(v)
                                 for v in values)]
    return words


def whole_checkpoint(program, about, model, checkpoint):
    if about.get("flags", {}).get("tuner_type") != "lora":
        return checkpoint
    merged = program.new_path()
    program.run("export", model=model, adapters=checkpoint, merge_lora=True, output_dir=merged)
    return merged


def check(program, title, report):
    about = CASES[title]
    model = new_model(program, about["like"], about["dtype"], about.get("changes", {}), False,
                      about.get("tied", False))
    rows, run = rows_of(program), program.new_path()
    plugins = plugin_folder(program.new_path())
    variables = {"VLLM_SERVER_DEV_MODE": "1"}

    def serve(weights):
        return VllmServer(weights, program.new_path(".log"), about["dtype"], extra=SERVING,
                          plugins=plugins, variables=variables)

    with serve(model) as server:
        program.run("grpo", **flags_of(about, model, rows, server.url(""), run, STEPS))
        served = judge(Served(server))
        # The weights of the last step are not sampled from.
        version = requests.get(server.url("/weight_info"), timeout=60).json()["weight_version"]
        report.add("grpo", title, "last update is of another step",
                   float(not version.startswith(f"step-{STEPS - 1}:")), 0)
        killed = program.new_path()
        trainer = subprocess.Popen(
            words_of(program, flags_of(about, model, rows, server.url(""), killed, 1000)),
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while not (killed / "checkpoint-2").exists() and trainer.poll() is None:
            time.sleep(0.01)
        trainer.send_signal(signal.SIGKILL)
        trainer.wait()
        again = program.new_path()
        program.run("grpo", **flags_of(about, model, rows, server.url(""), again, STEPS))
        after_a_kill = judge(Served(server))
    lines = [json.loads(line) for line in (run / "logging.jsonl").read_text().split("\n") if line]
    report.add("grpo", title, "sync/max_logprob_diff",
               max(line.get("sync/max_logprob_diff", 0) for line in lines), about["bound"])
    report.add("grpo", title, "gradients of 0 in all steps",
               float(all(line.get("grad_norm", 0) == 0 for line in lines)), 0)
    if "gym_env" in about.get("flags", {}):
        # What vLLM saw and what the trainer scores are the same ids, in every turn.
        report.add("grpo", title, "1 / turns", 1 / max(line.get("num_turns", 1) for line in lines),
                   0.5)
        report.add("grpo", title, "train/sampler_logprob_max_diff",
                   max(line.get("train/sampler_logprob_max_diff", 1) for line in lines
                       if "num_turns" in line), about["bound"])
    if about.get("flags", {}).get("sync_mode") == "delta":
        sizes = [line["sync/bytes"] for line in lines if "sync/bytes" in line]
        # The first weights go whole.
        report.add("grpo", title, "largest delta / whole weights", max(sizes[1:]) / sizes[0], 0.9)
    last = whole_checkpoint(program, about, model, run / f"checkpoint-{STEPS - 1}")
    with serve(last) as server:
        fresh = judge(Served(server))
    with serve(model) as server:
        first = judge(Served(server))
    report.add("grpo", title, "served - fresh", difference(served, fresh), 0)
    # The same seed, the same engine: a run after a killed one ends where the first did.
    report.add("grpo", title, "after a kill - fresh", difference(after_a_kill, fresh), 0)
    # The comparison sees that weights have changed.
    change = max(difference(served, first), 1e-9)
    report.add("grpo", title, "1e-3 / (served - first)", 1e-3 / change, 1)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--program", default="build/bin/lockstep")
    parser.add_argument("--only", nargs="*", default=list(CASES), choices=list(CASES))
    options = parser.parse_args()
    # A signal ends the servers too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    report = Report()
    with tempfile.TemporaryDirectory() as folder:
        program = Program(pathlib.Path(options.program).resolve(), folder)
        for title in options.only:
            try:
                check(program, title, report)
            except (ProgramError, VllmError) as error:
                report.fail("grpo", title, str(error))
    sys.exit(0 if report.end() else 1)


if __name__ == "__main__":
    main()
