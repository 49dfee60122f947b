# SPDX-License-Identifier: Apache-2.0
"""The load-balancing loss of a mixture of experts against transformers' own, in float64.

    .deps/python/bin/python tools/parity/router_loss.py --program build/bin/lockstep

`lockstep grad` on rows whose advantage is 0 has no other loss. Value and gradients must agree.
"""

import argparse
import json
import pathlib
import subprocess
import tempfile

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM
from transformers.models.qwen3_moe.modeling_qwen3_moe import load_balancing_loss_func

COEFFICIENT = 0.5
LENGTHS = (17, 5, 40)


def rows_of(generator, vocabulary):
    """Completions of two thirds of each length; the first two have one prompt."""
    rows = []
    for i, length in enumerate(LENGTHS):
        ids = torch.randint(0, vocabulary, (length,), generator=generator).tolist()
        prompt = max(1, length // 3)
        if i == 1:
            prompt = len(rows[0]["input_ids"]) // 3
            ids = rows[0]["input_ids"][:prompt] + ids
        mask = [0] * prompt + [1] * (len(ids) - prompt)
        rows.append({"input_ids": ids, "completion_mask": mask, "advantage": 0.0})
    return rows


def expected(folder, rows):
    """transformers over the tokens that the program computes: all but each row's last."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64,
                                                 experts_implementation="eager")
    config = model.config.get_text_config()
    parts = [model(torch.tensor([row["input_ids"][:-1]]), output_router_logits=True).router_logits
             for row in rows]
    logits = tuple(torch.cat([part[layer] for part in parts]) for layer in range(len(parts[0])))
    loss = load_balancing_loss_func(logits, config.num_experts, config.num_experts_per_tok)
    (COEFFICIENT * loss).backward()
    return loss.item(), {name: parameter.grad for name, parameter in model.named_parameters()}


def compare(program, family, folder):
    model = folder / family
    subprocess.run([program, "new-model", "--like", family, "--output_dir", model, "--quiet"],
                   check=True)
    config = json.loads((model / "config.json").read_text())
    rows = rows_of(torch.Generator().manual_seed(3), config["vocab_size"])
    batch, output = folder / f"{family}.jsonl", folder / f"{family}.safetensors"
    batch.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = json.loads(subprocess.run(
        [program, "grad", "--model", model, "--batch", batch, "--router_aux_loss_coef",
         str(COEFFICIENT), "--output", output, "--quiet"],
        check=True, capture_output=True, text=True).stdout)
    loss, gradients = expected(model, rows)
    assert abs(found["metrics"]["aux_loss"] - loss) < 1e-5, (found, loss)
    assert abs(found["loss"] - COEFFICIENT * loss) < 1e-5, (found, loss)
    ours = load_file(output)
    routers = [name for name in gradients if name.endswith("mlp.gate.weight")]
    assert routers and all(gradients[name].norm() > 0 for name in routers)
    worst = 0.0
    for name in routers + ["model.embed_tokens.weight"]:
        own = ours[name].double()
        error = ((own - gradients[name]).norm() / gradients[name].norm()).item()
        worst = max(worst, error)
        assert error < 1e-4, f"{family} {name}: off by {error} of its norm"
    print(f"{family}: loss {loss:.6f}, gradients within {worst:.1e} of their norms")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--program", required=True)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for family in ("qwen3_moe", "qwen3_5_moe"):
            compare(arguments.program, family, pathlib.Path(folder))


if __name__ == "__main__":
    main()
