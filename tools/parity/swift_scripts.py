#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Walks over ms-swift's example scripts of GRPO, and runs each with `lockstep`.

    .deps/python/bin/python tools/parity/swift_scripts.py --program build/bin/lockstep \\
        --swift CHECKOUT [--only TEXT …] [--table FILE] [--flags FILE]

CHECKOUT is a work tree or a bare repository of https://github.com/modelscope/ms-swift. bash runs
each script, with a `swift`, a `megatron` and so on in front of the PATH that write down how they
were called; then `lockstep grpo` gets these flags as they stand, but for what docs/ms-swift.md
lists: model, data, the machine and the size of the run. A script whose trainer samples from a
server gets the `swift rollout` that it starts, or names in a comment.

Afterwards the keys of logging.jsonl and the columns of completions.jsonl that ms-swift's users
read must be there. --table writes what came out as a table (docs/ms-swift.md), --flags what
tests/e2e/swift_scripts_test.cpp runs (tests/data/flags/swift_scripts.jsonl).
"""

import argparse
import json
import os
import pathlib
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request

import yaml

FOLDERS = ["examples/train/grpo", "examples/train/sequence_parallel", "examples/megatron/grpo",
           "examples/ascend", "examples/models", "examples/ray/grpo"]
COMMANDS = ["swift", "megatron", "torchrun", "accelerate", "python", "pip", "curl", "sleep"]
STEPS, LENGTH = 2, 24

SUM = {"question": "What is 3 + 4?", "text": "It is 7, so \\boxed{7}.", "answer": "#### 7"}
# The columns that ms-swift's own readers leave of a hub's data sets.
DATASETS = {
    "gsm8k": dict(question=SUM["question"], answer=SUM["answer"]),
    "xlam-function-calling-60k": dict(
        query="What is the weather in Rome?", solution="Action: weather\nAction Input: {}",
        tools='[{"type": "function", "function": {"name": "weather", "description": "the weather",'
              ' "parameters": {"type": "object", "properties": {}}}}]'),
    "": dict(messages=[dict(role="user", content=SUM["question"])], solution=SUM["text"]),
}
# What a script asks for that this machine or this program may not have: by its flags, its data and
# its models.
NEEDS = {
    "images": r"Qwen2\.5-VL|Omni|clevr_cogen|chartqa|multimodal|visual_toolbox",
    "a teacher": r"--teacher_model\b|teacher_model:",
    "turns": r"--multi_turn_scheduler\b|multi_turn_scheduler:|--use_gym_env\b",
    "a reward model": r"^ +--reward_model\b",
    "a quantized model": r"--quant_method\b",
    "a game server": r"openenv",
    "CHORD": r"--chord_",
    "experts": r"A3B",
    "Ray": r"^colocate_groups:|^use_ray|^rollout:",
}
# What ms-swift's own and TensorBoard's users look at, of every run (spec: its logging.jsonl).
LOGGED = ["loss", "grad_norm", "learning_rate", "epoch", "reward", "reward_std",
          "frac_reward_zero_std", "completions/mean_length", "completions/min_length",
          "completions/max_length", "completions/clipped_ratio", "global_step/max_steps",
          "elapsed_time", "remaining_time", "memory(GiB)", "train_speed(s/it)",
          # TRL's
          "num_tokens", "step_time"]
# Where a completion has ended before the limit.
ENDED = ["completions/mean_terminated_length", "completions/min_terminated_length",
         "completions/max_terminated_length"]
SUMMARY = ["last_model_checkpoint", "best_model_checkpoint", "best_metric", "global_step"]
CLIPS = ["clip_ratio/low_mean", "clip_ratio/low_min", "clip_ratio/high_mean",
         "clip_ratio/high_max", "clip_ratio/region_mean"]
CLASSES = {"accuracy": "MathAccuracy", "format": "Format", "react_format": "ReActFormat",
           "cosine": "CosineReward", "repetition": "RepetitionPenalty", "toolbench": "ReactORM",
           "soft_overlong": "SoftOverlong", "external_r1v_acc": "MultiModalAccuracyORM",
           "gsm8k_accuracy": "GSM8KAccuracy", "gsm8k_format": "GSM8KFormat",
           "thinking_tips": "ThinkingModelTipsReward"}


class Script:
    """One script or Ray configuration: what it asks for, and the calls that it makes."""

    def __init__(self, name, text):
        self.name, self.text = name, text
        self.needs = [need for need, pattern in NEEDS.items() if re.search(pattern, text, re.M)]
        self.trainer, self.server, self.environment = None, None, {}

    @property
    def processes(self):
        return (int(self.environment.get("NPROC_PER_NODE") or 1)
                * int(self.environment.get("NNODES") or 1))


def checkout(source, folder):
    """The examples of a work tree or a bare repository, as files below `folder`."""
    if (source / "examples").is_dir():
        shutil.copytree(source / "examples", folder / "examples")
        return
    archive = subprocess.run(["git", "-C", source, "archive", "HEAD", "examples"],
                             capture_output=True, check=True)
    subprocess.run(["tar", "-x", "-C", folder], input=archive.stdout, check=True)


def scripts_of(folder):
    found = []
    for path in sorted(path for top in FOLDERS for path in (folder / top).rglob("*")):
        if path.suffix not in (".sh", ".yaml"):
            continue
        text = path.read_text()
        if re.search(r"^\s*--rlhf_type grpo|^rlhf_type: grpo", text, re.M):
            found.append(Script(str(path.relative_to(folder)), text))
    return found


def make_recorders(folder):
    """Programs of the names that scripts call, which write down their arguments and end well."""
    folder.mkdir()
    recorder = folder / "recorder"
    recorder.write_text(
        f"#!{sys.executable}\nimport json, os, sys\n"
        "call = dict(command=os.path.basename(sys.argv[0]), arguments=sys.argv[1:],\n"
        "            environment={k: v for k, v in os.environ.items() if k in\n"
        "                         ('NPROC_PER_NODE', 'NNODES')})\n"
        "open(os.environ['CALLS'], 'a').write(json.dumps(call) + chr(10))\n")
    recorder.chmod(0o755)
    for name in COMMANDS:
        (folder / name).symlink_to(recorder)
    # A script of Ascend's reads a file of the machine.
    (folder / "preamble").write_text("source() { :; }\n")


def commented_server(text):
    """The arguments of a `swift rollout` that a script's comments say to start first."""
    match = re.search(r"^#\s*swift rollout((?:[^\n]*\\\n#)*[^\n]*)", text, re.M)
    return shlex.split(re.sub(r"\\?\s*\n#", " ", match[1]).rstrip("\\")) if match else None


def record_calls(script, folder, recorders):
    """Runs a script, and keeps what it calls: the trainer, and the server before it."""
    if script.name.endswith(".yaml"):
        script.trainer = [str(folder / script.name)]
        return
    calls = folder / "calls.jsonl"
    calls.write_text("")
    # Addresses that a reader has to fill in are made local anyway.
    text = re.sub(r"<(\w+)>", r"\1", script.text)
    environment = {"PATH": f"{recorders}:{os.environ['PATH']}", "HOME": os.environ["HOME"],
                   "CALLS": str(calls), "BASH_ENV": str(recorders / "preamble"),
                   # Of a cluster that says them; with fewer nodes train_dlc.sh's batch does not
                   # divide.
                   "WORLD_SIZE": "3", "RANK": "0"}
    subprocess.run(["bash", "-c", text], cwd=folder, env=environment, capture_output=True,
                   timeout=60)
    time.sleep(0.2 if "&\n" in text else 0)
    script.server = commented_server(script.text)
    for call in map(json.loads, calls.read_text().splitlines()):
        arguments = call["arguments"]
        if arguments[:1] == ["rollout"]:
            script.server = arguments[1:]
        elif "grpo" in arguments:
            first = arguments.index("--rlhf_type")
            script.trainer, script.environment = arguments[first:], call["environment"]
            for argument in arguments[:first]:
                if argument.startswith("--nproc_per_node="):
                    script.environment["NPROC_PER_NODE"] = argument.split("=")[1]
            return


def split_flags(arguments):
    """[name, values …] of each flag."""
    flags = []
    for argument in arguments:
        if argument.startswith("--"):
            flags.append([argument[2:]])
        else:
            flags[-1].append(argument)
    return flags


def join_flags(flags):
    return [word for name, *values in flags for word in ["--" + name, *values]]


def value_of(flags, name, default=None):
    return next((values[0] for key, *values in flags if key == name and values), default)


def values_of(flags, name):
    return next((values for key, *values in flags if key == name), [])


def family_of(model):
    family = "qwen3_5" if re.search(r"Qwen3\.[58]", model) else "qwen3"
    return family + ("_moe" if "A3B" in model else "")


class Machine:
    """A folder with models and rows, and the program."""

    def __init__(self, program, folder):
        self.program, self.folder, self.models = program, folder, {}

    def model(self, name):
        family = family_of(name)
        if family not in self.models:
            path = self.folder / family
            subprocess.run([self.program, "new-model", "--like", family, "--output_dir", path,
                            "--torch_dtype", "bfloat16", "--quiet"], check=True)
            self.models[family] = str(path)
        return self.models[family]

    def rows(self, dataset, checkout_folder):
        """A file of this machine in place of a data set of a hub."""
        name, _, count = dataset.partition("#")
        if (checkout_folder / name).exists():
            return dataset
        key = next(key for key in DATASETS if key in name)
        path = self.folder / f"rows_{key}.jsonl"
        path.write_text("".join(json.dumps(DATASETS[key]) + "\n" for _ in range(256)))
        return str(path) + (f"#{count}" if count else "")


def localised(script, flags, machine, folder, output, port):
    """The flags of a trainer with model, data, sizes and servers made local."""
    has = {name for name, *_ in flags}
    result = []
    for name, *values in flags:
        if name == "model":
            values = [machine.model(values[0])]
        elif name in ("dataset", "val_dataset", "chord_sft_dataset"):
            values = [machine.rows(value, folder) for value in values]
        elif name in ("max_steps", "train_iters"):
            values = [str(STEPS)]
        elif name == "max_completion_length":
            values = [str(LENGTH)]
        elif name == "per_device_train_batch_size":
            values = [str(int(values[0]) * script.processes)]
        elif name == "vllm_server_host":
            values = ["127.0.0.1"]
        elif name == "vllm_server_port":
            values = [str(port)]
        elif name == "output_dir":
            continue
        result.append([name, *values])
    if "per_device_train_batch_size" not in has and "micro_batch_size" not in has:
        if script.processes > 1:  # of 1 each
            result.append(["per_device_train_batch_size", str(script.processes)])
    if not has & {"max_steps", "train_iters"}:
        result.append(["max_steps", str(STEPS)])
    if "max_completion_length" not in has:
        result.append(["max_completion_length", str(LENGTH)])
    if "vllm_server_host" in has and "vllm_server_port" not in has:
        result.append(["vllm_server_port", str(port)])
    of_server = {word.removeprefix("--") for word in script.server or []}
    if (has | of_server) & {"external_plugins", "multi_turn_scheduler", "use_gym_env"}:
        result.append(["plugin_python", sys.executable])
    return result + [["output_dir", str(output)]]


def flags_of_configuration(path):
    """A Ray configuration as flags: the keys of `train` and `rollout` are flags, too."""
    flags = []

    def add(entries):
        for name, value in entries.items():
            if name in ("train", "rollout"):
                add(value)
            elif isinstance(value, list) and not any(isinstance(v, list) for v in value):
                flags.append([name, *map(text_of, value)])
            else:
                flags.append([name, text_of(value)])

    def text_of(value):
        return value if isinstance(value, str) else json.dumps(value)

    add(yaml.safe_load(path.read_text()))
    return flags


class Server:
    """`lockstep rollout` with a script's flags, on a port of its own."""

    def __init__(self, machine, flags, folder, log):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        flags = [[name, *([machine.model(values[0])] if name == "model" else values)]
                 for name, *values in flags if name not in ("port", "host")]
        words = [machine.program, "rollout", *join_flags(flags), "--port", str(self.port),
                 "--host", "127.0.0.1"]
        self.log = log
        with open(log, "w") as file:
            self.process = subprocess.Popen(words, cwd=folder, stderr=file, stdout=file)
        for _ in range(300):
            if self.process.poll() is not None:
                return
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=2)
                return
            except OSError:
                time.sleep(0.1)

    def end(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)


def error_of(text):
    lines = [line for line in text.splitlines() if line.startswith("error")]
    return lines[0] if lines else (text.strip().splitlines() or ["(no message)"])[-1]


def missing_fields(flags, output):
    """What a user's tools would miss in the two logs of a run."""
    def is_on(name):
        return value_of(flags, name, "false") == "true"

    rows = [json.loads(line) for line in (output / "logging.jsonl").read_text().splitlines()]
    first, last = rows[0], rows[-1]
    rewards = [CLASSES.get(name, name) for name in values_of(flags, "reward_funcs")]
    expected = LOGGED + [f"rewards/{name}/{what}" for name in rewards for what in ("mean", "std")]
    has_ended = first.get("completions/clipped_ratio", 0) < 1
    if has_ended:
        expected += ENDED
    # Where the filter of overlong completions leaves none, there is no token of which to tell.
    if float(value_of(flags, "beta", 0.04)) > 0 and (has_ended or not is_on("overlong_filter")):
        expected.append("kl")
    if value_of(flags, "loss_type", "grpo") not in ("sapo", "real", "cispo"):
        expected += CLIPS
    if is_on("log_entropy"):
        expected += ["entropy/mean", "entropy/max", "entropy/min"]
    if value_of(flags, "multi_turn_scheduler") or is_on("use_gym_env"):
        expected.append("num_turns")
    if value_of(flags, "loss_type") == "fipo":
        expected += ["fipo/future_kl_mean", "fipo/influence_weight_mean",
                     "fipo/safety_keep_ratio"]
    missing = [key for key in expected if key not in first]
    missing += [key for key in SUMMARY if key not in last]
    if value_of(flags, "log_completions", "true") == "true":
        lines = (output / "completions.jsonl").read_text().splitlines()
        table = json.loads(lines[0])
        columns = ["step", "prompt", "completion", "advantages", *rewards]
        missing += [f"completions.jsonl: {name}" for name in columns if name not in table]
        lengths = {len(table[name]) for name in columns if name in table}
        if len(lengths) != 1 or not all(isinstance(step, str) for step in table["step"]):
            missing.append("completions.jsonl: columns of one length, with steps as text")
    return missing


def run(script, machine, folder, output):
    """Trains as a script says; returns what came out, and the flags that were given."""
    is_configuration = script.name.endswith(".yaml")
    flags = (flags_of_configuration(folder / script.name) if is_configuration
             else split_flags(script.trainer))
    server = None
    if value_of(flags, "vllm_mode") == "server":
        wanted = split_flags(script.server or [])
        if not value_of(wanted, "model"):
            wanted.append(["model", value_of(flags, "model")])
        server = Server(machine, wanted, folder, output.with_suffix(".server"))
        if server.process.poll() is not None:
            return "server: " + error_of(server.log.read_text()), flags
    try:
        given = localised(script, flags, machine, folder, output, server.port if server else 0)
        words = [machine.program, "grpo"]
        if is_configuration:  # What stands behind a file wins.
            words += [script.name, *join_flags([flag for flag in given if flag not in flags])]
        else:
            words += join_flags(given)
        environment = {key: value for key, value in os.environ.items() if key != "NPROC_PER_NODE"}
        done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True,
                              timeout=600)
    finally:
        if server:
            server.end()
    output.with_suffix(".log").write_text(" ".join(map(shlex.quote, map(str, words))) + "\n"
                                          + done.stderr)
    if done.returncode != 0:
        return error_of(done.stderr), given
    missing = missing_fields(given, output)
    return "misses " + ", ".join(missing) if missing else "runs", given


def outcome_of(script, result):
    """What the table says of a result."""
    # A flag stands behind dashes, or behind its place in a configuration.
    flag = re.search(r"error\[[^]]*\]: (?:\S+:\d+: )?(?:--)?(\w+): (.*)", result)
    if flag:
        reason = re.search(r"\((.*)\)$", flag[2])
        where = " by the server" if result.startswith("server") else ""
        return f"refused{where}: `--{flag[1]}`, {reason[1] if reason else flag[2]}"
    if result == "runs" and "images" in script.needs:
        return "runs on text"
    return result.removeprefix("lockstep: ")


def table_of(results):
    lines = ["| script | what it asks for | processes | outcome |", "|---|---|---|---|"]
    for script, result, _ in results:
        lines.append(f"| `{script.name.removeprefix('examples/')}` | {', '.join(script.needs)} | "
                     f"{script.processes} | {outcome_of(script, result)} |")
    return "\n".join(lines) + "\n"


def test_case(script, result, flags):
    """A line of tests/data/flags/swift_scripts.jsonl: a script's flags without what names files,
    texts and servers, and with built-in rewards."""
    model = next(value for name, value, *_ in flags if name == "model")
    left_out = ("model", "dataset", "output_dir", "system", "external_plugins", "plugin_python",
                "vllm_server_host", "vllm_server_port", "max_steps", "train_iters",
                "max_completion_length", "chord_sft_dataset")
    kept = []
    for name, *values in flags:
        if name == "reward_funcs":
            values = [value if value == "react_format" else
                      "format" if value.endswith("format") else "accuracy" for value in values]
        if name not in left_out and values != ["server"]:
            kept.append([name, *values])
    refused = re.search(r"error\[[^]]*\]: (--\w+)", result)
    return dict(script=script.name.removeprefix("examples/"), family=pathlib.Path(model).name,
                refused=refused[1] if refused else None, flags=join_flags(kept))


def write_cases(path, results):
    # What is named by a file is tried by the walk alone.
    lines = [json.dumps(test_case(*result)) + "\n" for result in results
             if not set(result[0].needs) & {"turns", "a teacher", "a reward model"}
             and not result[0].name.endswith(".yaml")]
    path.write_text("".join(lines))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--program", required=True, type=pathlib.Path)
    parser.add_argument("--swift", required=True, type=pathlib.Path)
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--table", type=pathlib.Path)
    parser.add_argument("--flags", type=pathlib.Path)
    parser.add_argument("--keep", type=pathlib.Path, help="a new folder for runs and logs")
    options = parser.parse_args()
    results = []
    with tempfile.TemporaryDirectory() as temporary:
        root = (options.keep or pathlib.Path(temporary)).resolve()
        folder, runs = root / "checkout", root / "runs"
        for path in (folder, runs):
            path.mkdir(parents=True)
        checkout(options.swift, folder)
        make_recorders(root / "recorders")
        machine = Machine(options.program.resolve(), root)
        for number, script in enumerate(scripts_of(folder)):
            if options.only and not any(text in script.name for text in options.only):
                continue
            record_calls(script, folder, root / "recorders")
            if script.trainer is None:
                sys.exit(f"{script.name}: expected a call of a trainer, got none")
            output = runs / f"{number:02}_{pathlib.Path(script.name).stem}"
            results.append((script, *run(script, machine, folder, output)))
            print(f"{script.name}: {outcome_of(script, results[-1][1])}", flush=True)
    if options.table:
        options.table.write_text(table_of(results))
    if options.flags:
        write_cases(options.flags, results)
    ran = sum(result == "runs" for _, result, _ in results)
    print(f"{len(results)} scripts, {ran} of which run")
    # A flag that is refused is said; a run that lacks what its user reads is a fault.
    return int(any(result.startswith("misses") for _, result, _ in results))


if __name__ == "__main__":
    sys.exit(main())
