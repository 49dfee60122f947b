# SPDX-License-Identifier: Apache-2.0
"""Compares adapters with PEFT, live: it writes them, and tells what they do to golden checkpoints.

    python tools/parity/adapters.py --program build/bin/lockstep [--only NAME…]

Log-probabilities and gradients of A and B are computed by PEFT in float64, from an adapter whose
file has float32. Prints each figure with its bound, and exits 1 if one is over it.
"""

import argparse
import sys
import tempfile

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

from program import Program, ProgramError

from common import CHECKPOINTS, Truth, load, token_logprobs
from model import GRADIENT_BOUND, LOGPROB_BOUND, Report, numbers, short

ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
DENSE = ["gate_proj", "up_proj", "down_proj"]
DELTA = ["in_proj_qkv", "in_proj_z", "in_proj_b", "in_proj_a", "out_proj"]
# By checkpoint: settings of PEFT. A regular expression as target must match the whole path.
CASES = {
    "qwen3_untied": {
        "all linear layers": dict(r=4, lora_alpha=8, target_modules=ATTENTION + DENSE),
        "one part of q, k, v": dict(r=3, lora_alpha=7, target_modules=["k_proj"]),
        "rslora, patterns": dict(
            r=4, lora_alpha=16, use_rslora=True, target_modules=ATTENTION + DENSE,
            rank_pattern={"q_proj": 2, r"layers\.1\.mlp\..*": 6}, alpha_pattern={"down_proj": 3.5}),
        "one module by its path": dict(
            r=8, lora_alpha=8, target_modules=r".*layers\.2\.self_attn\.(v|o)_proj"),
    },
    "qwen3_moe": {"attention": dict(r=4, lora_alpha=8, target_modules=ATTENTION)},
    "qwen3_5_tied_nested": {
        "attention, delta rule, MLP": dict(
            r=4, lora_alpha=8, target_modules=ATTENTION + DELTA + DENSE)},
    "qwen3_5_moe_nested_fused": {
        "all but experts": dict(
            r=4, lora_alpha=8,
            target_modules=ATTENTION + DELTA + DENSE + ["shared_expert_gate"])},
}


def some_ids(count, length):
    letters = torch.Generator().manual_seed(count)
    return [torch.randint(3, 250, (length + 7 * i,), generator=letters) for i in range(count)]


def adapted(directory, settings, seed):
    """The adapted model in float64, with an adapter of float32 values that does something."""
    model = load(directory, torch.float64)
    model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **settings))
    letters = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("lora_" in name)
        if "lora_" in name:
            values = 0.3 * torch.randn(parameter.shape, generator=letters, dtype=torch.float32)
            parameter.data = (values / parameter.shape[1] ** 0.5).double()
    return model.eval()


def write(model, path):
    """Writes the adapter as PEFT does, in float32."""
    model.save_pretrained(path)
    tensors = load_file(path / "adapter_model.safetensors")
    save_file({name: value.float() for name, value in tensors.items()},
              path / "adapter_model.safetensors", metadata={"format": "pt"})
    return set(tensors)


def file_names(model):
    return {name.replace(".default", ""): parameter for name, parameter in
            model.named_parameters() if "lora_" in name}


def check(program, checkpoint, case, settings, report):
    directory = CHECKPOINTS / checkpoint
    name = f"{checkpoint}: {case}"
    model = adapted(directory, settings, len(name))
    path = program.new_path()
    written = write(model, path)
    prompts = some_ids(3, 60)
    with Truth():
        truth = [token_logprobs(model, ids)[0] for ids in prompts]
        loss = -torch.cat(truth).mean()
        loss.backward()
    rows = program.score(directory, prompts, adapters=path)
    error = max((numbers(row["logprobs"]) - right.detach()).abs().max().item()
                for row, right in zip(rows, truth))
    report.add("score", name, "logprobs", error, LOGPROB_BOUND)
    without = program.score(directory, prompts)
    moved = max((numbers(a["logprobs"]) - numbers(b["logprobs"])).abs().max().item()
                for a, b in zip(rows, without))
    report.add("score", name, "1 / what the adapter changes", 1 / max(moved, 1e-9), 100)
    batch = [{"input_ids": ids.tolist(), "completion_mask": [0] + [1] * (len(ids) - 1),
              "advantage": 1.0} for ids in prompts]
    _, gradients = program.grad(directory, batch, adapters=path, loss_type="bnpo")
    right = file_names(model)
    report.add("grad", name, "names that differ",
               len(set(gradients) ^ set(right)) + len(written ^ set(right)), 0)
    shares = {n: ((gradients[n].double() - p.grad).norm() / p.grad.norm()).item()
              for n, p in right.items() if n in gradients}
    worst = max(shares, key=shares.get)
    report.add("grad", name, short(worst)[-44:], shares[worst], GRADIENT_BOUND)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--program", default="build/bin/lockstep")
    parser.add_argument("--only", nargs="*", default=list(CASES), help="checkpoints")
    options = parser.parse_args()
    report = Report()
    with tempfile.TemporaryDirectory() as folder:
        program = Program(options.program, folder)
        for checkpoint in options.only:
            for case, settings in CASES[checkpoint].items():
                try:
                    check(program, checkpoint, case, settings, report)
                except ProgramError as error:
                    report.fail("adapter", f"{checkpoint}: {case}", str(error))
    sys.exit(0 if report.end() else 1)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
