# SPDX-License-Identifier: Apache-2.0
"""Writes tests/data/schedules/transformers.jsonl: the learning rates that transformers gives.

    python tools/golden/schedules.py [--seed N] [--output FILE]

Every lr_scheduler_type is made by get_scheduler, with generated peaks, lengths, warm-ups and
lr_scheduler_kwargs. A row is {"type", "peak", "warmup", "steps", "kwargs", "rates"}, with the rate of
each step; where the type follows a metric, also {"metrics", "mode"}, and "rates" has one after each
metric. tests/train/schedule_test.cpp compares.
"""

import argparse
import json
import pathlib
import random

import torch
from transformers import get_scheduler
from transformers.trainer_utils import SchedulerType

CASES = 8
FOLLOW_A_METRIC = ("reduce_lr_on_plateau", "greedy")


def some(rng, options):
    """Some of the keys of a dictionary, each with one of its values."""
    return {key: rng.choice(values) for key, values in options.items() if rng.random() < 0.6}


def kwargs_of(rng, name, steps, peak):
    if name in ("cosine", "cosine_with_restarts"):
        return some(rng, {"num_cycles": [1, 2, 3] if name != "cosine" else [0.5, 0.75, 1.5]})
    if name in ("cosine_with_min_lr", "cosine_warmup_with_min_lr"):
        floor = rng.choice([{"min_lr": peak * 0.1}, {"min_lr_rate": 0.25}, {"min_lr_rate": 0}])
        more = {"num_cycles": [0.25, 0.5, 1]}
        if name == "cosine_warmup_with_min_lr":
            more["warmup_lr_rate"] = [0.1, 0.5]
        return {**floor, **some(rng, more)}
    if name == "polynomial":
        return some(rng, {"lr_end": [0, peak * 0.01, peak * 0.5], "power": [0.5, 2, 3]})
    if name == "inverse_sqrt":
        return some(rng, {"timescale": [1, 7, 1000]})
    if name == "warmup_stable_decay":
        more = some(rng, {"num_stable_steps": [0, 2, steps // 3], "min_lr_ratio": [0.1, 0.5],
                          "num_cycles": [0.25, 0.5, 1.5],
                          "warmup_type": ["linear", "cosine", "1-sqrt"],
                          "decay_type": ["linear", "cosine", "1-sqrt"]})
        return {"num_decay_steps": rng.choice([1, steps // 4, steps // 2]), **more}
    if name in FOLLOW_A_METRIC:
        more = {"factor": [0.5, 0.8], "patience": [0, 1, 2], "threshold": [0.01, 0.2],
                "threshold_mode": ["rel", "abs"], "cooldown": [1, 2],
                "min_lr": [peak * 0.2, 0], "eps": [0, peak * 0.05]}
        if name == "greedy":
            more |= {"warmup": [1, 2], "max_lr": [peak * 2, peak], "smooth": [True],
                     "window_size": [2, 3], "reset_start": [1, 2]}
        return {"patience": 1, "factor": 0.7, **some(rng, more)}
    return {}


def case(rng, name):
    peak = rng.choice([1.0, 1e-5, 3e-4])
    steps = rng.choice([1, 2, 7, 13, 24])
    # transformers' polynomial divides by what is left of the run.
    warmup = min(rng.choice([0, 0, 1, 3, steps // 2]), steps - 1)
    follows = name in FOLLOW_A_METRIC
    kwargs = kwargs_of(rng, name, steps, peak)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=peak)
    mode = rng.choice(["min", "max"])
    made = get_scheduler(name, optimizer, num_warmup_steps=warmup, num_training_steps=steps,
                         scheduler_specific_kwargs={**kwargs, "mode": mode} if follows else kwargs)
    row = {"type": name, "peak": peak, "warmup": warmup, "steps": steps, "kwargs": kwargs}
    if follows:
        row["mode"] = mode
        row["metrics"] = [round(rng.uniform(0.5, 1.5) + rng.choice([0, 0.1]) * i, 3)
                          for i in range(30)]
    rates = []
    for i in range(30 if follows else steps + 3):
        if not follows:
            rates.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            made.step()
        else:
            made.step(row["metrics"][i])
            rates.append(optimizer.param_groups[0]["lr"])
    return {**row, "rates": rates}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    root = pathlib.Path(__file__).parents[2]
    parser.add_argument("--output", default=root / "tests/data/schedules/transformers.jsonl")
    options = parser.parse_args()
    rng = random.Random(options.seed)
    with open(options.output, "w", encoding="utf-8") as file:
        for name in (kind.value for kind in SchedulerType):
            for _ in range(CASES):
                file.write(json.dumps(case(rng, name)) + "\n")


if __name__ == "__main__":
    main()
