#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What a step costs with rewards in other processes, dynamic sampling and corrections on, against
one without them, in turns on one machine.

    bench/step_cost.py --program build/bin/lockstep --folder out/objectives [--rounds 5]

The folder is that of examples/objectives/run.py: its warm start and its rows. The extra rewards
differ for every completion, so that no group is sampled again: what is compared is the machinery,
not the sampling that dynamic sampling asks for.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import tempfile

PROGRAM = """import sys, zlib
for line in sys.stdin:
    print(zlib.crc32(line.encode()) % 100003 / 100003, flush=True)
"""
PLUGIN = """import zlib
from swift.rewards import ORM, orms
class Chance(ORM):
    def __call__(self, completions, **kwargs):
        return [zlib.crc32((text + str(i)).encode()) % 100003 / 100003
                for i, text in enumerate(completions)]
orms["chance"] = Chance
"""
COMMON = """--tuner_type full --num_generations 8 --per_device_train_batch_size 128
  --max_completion_length 16 --temperature 1 --beta 0 --learning_rate 1e-6 --max_steps 60
  --gradient_checkpointing false --save_strategy no --logging_steps 1 --quiet
  --report_html false --soft_cache_length 4""".split()
WARM_UP = 10  # steps that are not counted


def run(arguments, folder, name, more):
    """Seconds of a step without rewards' own, and with them."""
    output = folder / name
    subprocess.run([arguments.program, "grpo", "--model", arguments.folder / "sft/last",
                    "--dataset", arguments.folder / "data/train.jsonl", "--overwrite", "true",
                    "--output_dir", output, *COMMON, *more], check=True)
    rows = [json.loads(line) for line in (output / "logging.jsonl").read_text().splitlines()]
    rows = [row for row in rows if "step_time" in row][WARM_UP:]
    whole = statistics.mean(row["step_time"] for row in rows)
    return whole - statistics.mean(row["time/reward"] for row in rows), whole


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--program", required=True)
    parser.add_argument("--folder", type=pathlib.Path, required=True)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        (folder / "program.py").write_text(PROGRAM)
        (folder / "plugin.py").write_text(PLUGIN)
        plain = ["--reward_funcs", "accuracy", "soft_overlong"]
        more = plain + [f"drawn=program:python3 {folder}/program.py", "chance",
                        "--external_plugins", folder / "plugin.py", "--dynamic_sample", "true",
                        "--rollout_importance_sampling_mode", "token_truncate",
                        "--off_policy_sequence_mask_delta", "1"]
        ratios = ([], [])
        for _ in range(arguments.rounds):
            without = run(arguments, folder, "without", plain)
            with_all = run(arguments, folder, "with", more)
            for kind in (0, 1):
                ratios[kind].append(with_all[kind] / without[kind])
            print(f"a step without {without[1]:.4f} s, with {with_all[1]:.4f} s", flush=True)
    for kind, text in enumerate(("without rewards' own time", "whole step")):
        print(f"{text}: {statistics.median(ratios[kind]):.3f} "
              f"({min(ratios[kind]):.3f} to {max(ratios[kind]):.3f})")


if __name__ == "__main__":
    main()
