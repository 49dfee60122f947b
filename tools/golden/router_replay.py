# SPDX-License-Identifier: Apache-2.0
"""Writes tests/golden/router_replay.json: steps with given experts, by transformers in float64.

    python tools/golden/router_replay.py

For golden checkpoints with experts: rows of a step with random experts (with their weights in a
second one), its loss, how often the routers would have chosen others, and of each gradient the norm
and a few elements, as in the other golden files. tests/e2e/golden_test.cpp compares. Never made
again to let a test pass.
"""

import json
import sys

import torch
import transformers

from common import CHECKPOINTS, GOLDEN, ROOT, generator, sample_indices

sys.path.insert(0, str(ROOT / "tools" / "parity"))
import router_replay

WEIGHTS = ("qwen3_moe", "qwen3_moe_sparse_step", "qwen3_5_moe")
# Of a step whose gradients transformers itself gets worse in float32, a difference shows nothing.
SEEDS, LARGEST_ERROR, SAMPLES = range(5, 25), 2e-5, 8


def step_of(weights, with_weights):
    directory = CHECKPOINTS / weights
    model, routers = router_replay.given_model(directory)
    narrow, narrow_routers = router_replay.given_model(directory, torch.float32)
    config = model.config.get_text_config()
    for seed in SEEDS:
        random = generator(seed, weights, "router replay", int(with_weights))
        rows = router_replay.rows_of(random, config, len(routers), with_weights)
        loss, changed, gradients = router_replay.expected(model, routers, rows, random)
        found = router_replay.true_step(narrow, narrow_routers, rows, random)[2]
        error = max(((found[name] - gradient).norm() / gradient.norm()).item()
                    for name, gradient in gradients.items() if gradient.norm() > 0)
        if error < LARGEST_ERROR:
            break
    else:
        raise AssertionError(f"{weights}: no seed of {SEEDS} has a step without large errors")
    samples = {}
    for name, gradient in gradients.items():
        flat = gradient.reshape(-1)
        samples[name] = [flat.norm().item()] + flat[sample_indices(len(flat), SAMPLES)].tolist()
    return {"weights": weights, "seed": seed, "float32_error": error, "rows": rows, "loss": loss, "changed_ratio": changed,
            "gradients": samples}


def main():
    steps = [step_of(weights, with_weights)
             for weights in WEIGHTS for with_weights in (False, True)]
    found = {"versions": {"torch": torch.__version__, "transformers": transformers.__version__},
             "epsilon": router_replay.EPSILON, "steps": steps}
    (GOLDEN / "router_replay.json").write_text(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
