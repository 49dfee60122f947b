#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Runs every objective of this folder on the quickstart's task, from three seeds each.

    examples/objectives/run.py --program build/bin/lockstep --output_dir out/objectives [NAME…]

Sums whose warm start is right three times in ten (examples/arithmetic). Each run learns twice from
each of its 150 generation batches of 64 completions, so that the ratios matter. Prints the share of
right answers to held-out questions after the last step, and with --write puts the table into
docs/objectives.md. The same machine, threads and seeds give the same numbers.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
SEEDS = (1, 2, 3)
BEGIN, END = "<!-- runs: written by examples/objectives/run.py -->\n", "<!-- end of runs -->"
COMMON = """--tuner_type full --reward_funcs accuracy soft_overlong --soft_cache_length 4
  --num_generations 8 --per_device_train_batch_size 64 --num_iterations 2
  --max_completion_length 16 --temperature 1 --beta 0 --learning_rate 5e-4 --weight_decay 0
  --max_steps 300 --gradient_checkpointing false --eval_strategy steps --eval_steps 300
  --eval_on_start true --num_generations_eval 8 --save_strategy no --threads 2 --quiet""".split()
WARM_START = """--tuner_type full --per_device_train_batch_size 32 --learning_rate 2e-3
  --warmup_ratio 0.05 --weight_decay 0 --max_steps 500 --gradient_checkpointing false
  --threads 2 --quiet""".split()


def warm_start(program, folder):
    if (folder / "sft/last/model.safetensors").exists():
        return
    subprocess.run(["bash", ROOT / "examples/arithmetic/make_data.sh", folder / "data"], check=True)
    subprocess.run([program, "new-model", "--like", "qwen3_5", "--size", "tiny", "--overwrite",
                    "true", "--output_dir", folder / "model", "--quiet"], check=True)
    subprocess.run([program, "sft", "--model", folder / "model", "--dataset",
                    folder / "data/sft.jsonl", "--overwrite", "true", "--output_dir",
                    folder / "sft", *WARM_START], check=True)


def evaluations(log):
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    key = "eval_rewards/accuracy/mean"
    return [row[key] for row in rows if key in row]


def run(program, folder, name, seed):
    """The shares of right answers before and after."""
    output = folder / "runs" / f"{name}-{seed}"
    config = HERE / f"{name}.yaml"
    done = output / "logging.jsonl"
    if not done.exists() or len(evaluations(done)) < 2:
        # What the file of the objective says comes last: it may set beta.
        own = [part for line in config.read_text().splitlines() if not line.startswith("#")
               for part in ("--" + line.split(": ")[0], line.split(": ")[1])]
        subprocess.run([program, "grpo", "--model", folder / "sft/last", "--dataset",
                        folder / "data/train.jsonl", "--val_dataset", folder / "data/test.jsonl",
                        "--overwrite", "true", "--output_dir", output, "--seed", str(seed),
                        *COMMON, *own], check=True)
    return evaluations(done)


def table(results):
    lines = ["| run | flags | " + " | ".join(f"seed {seed}" for seed in SEEDS) + " | mean |",
             "|---|---|" + "---|" * (len(SEEDS) + 1)]
    for name, shares in results.items():
        flags = " ".join(f"`--{line.replace(': ', ' ')}`"
                         for line in (HERE / f"{name}.yaml").read_text().splitlines()
                         if not line.startswith("#"))
        numbers = [f"{share:.3f}" for share in shares + [statistics.mean(shares)]]
        lines.append(f"| [`{name}`](../examples/objectives/{name}.yaml) | {flags} | "
                     + " | ".join(numbers) + " |")
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--program", default=ROOT / "build/bin/lockstep")
    parser.add_argument("--output_dir", type=pathlib.Path, default=ROOT / "out/objectives")
    parser.add_argument("--write", action="store_true")
    parser.add_argument("names", nargs="*")
    arguments = parser.parse_args()
    names = arguments.names or sorted(path.stem for path in HERE.glob("*.yaml"))
    folder = arguments.output_dir
    folder.mkdir(parents=True, exist_ok=True)
    warm_start(arguments.program, folder)
    results, before = {}, set()
    for name in names:
        results[name] = []
        for seed in SEEDS:
            shares = run(arguments.program, folder, name, seed)
            before.add(round(shares[0], 3))
            results[name].append(shares[-1])
        print(name, *(f"{share:.3f}" for share in results[name]), file=sys.stderr, flush=True)
    text = table(results)
    print(f"before: {sorted(before)}\n{text}")
    if arguments.write:
        path = ROOT / "docs/objectives.md"
        document = path.read_text()
        first, last = document.index(BEGIN) + len(BEGIN), document.index(END)
        path.write_text(document[:first] + text + document[last:])


if __name__ == "__main__":
    main()
