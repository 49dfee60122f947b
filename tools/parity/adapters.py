# SPDX-License-Identifier: Apache-2.0
"""Compares adapters with PEFT, live: it writes them, and tells what they do to golden checkpoints.

    python tools/parity/adapters.py --program build/bin/lockstep [--only NAME…]

Log-probabilities and gradients of A and B, and of modules that are trained whole, are computed by
PEFT in float64, from an adapter whose file has float32. Prints each figure with its bound, and
exits 1 if one is over it.
"""

import argparse
import sys
import tempfile

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

from program import Program, ProgramError

from common import CHECKPOINTS, Truth, load, token_logprobs
from model import GRADIENT_BOUND, LOGPROB_BOUND, Report, numbers, short

ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
DENSE = ["gate_proj", "up_proj", "down_proj"]
EXPERTS = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
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
        "embedding, head, norms whole": dict(
            r=4, lora_alpha=8, target_modules=["q_proj"],
            modules_to_save=["embed_tokens", "lm_head", "norm"]),
        "parts of products whole": dict(
            r=4, lora_alpha=8, target_modules=["q_proj", "up_proj", "down_proj"],
            modules_to_save=["k_proj", "layers.1.mlp"]),
        "embedding and head": dict(r=4, lora_alpha=8,
                                   target_modules=["q_proj", "embed_tokens", "lm_head"]),
        "embedding alone, head whole": dict(r=3, lora_alpha=40, target_modules=["embed_tokens"],
                                            modules_to_save=["lm_head"]),
    },
    "qwen3_tied": {
        "embedding whole": dict(r=4, lora_alpha=8, target_modules=["q_proj"],
                                modules_to_save=["embed_tokens"]),
        "head whole": dict(r=4, lora_alpha=8, target_modules=["q_proj"],
                           modules_to_save=["lm_head"]),
        "both whole": dict(r=4, lora_alpha=8, target_modules=["q_proj"],
                           modules_to_save=["embed_tokens", "lm_head"]),
        "both whole and tied": dict(r=4, lora_alpha=8, target_modules=["q_proj"],
                                    modules_to_save=["embed_tokens"], ensure_weight_tying=True),
        "embedding": dict(r=4, lora_alpha=80, use_rslora=True,
                          target_modules=["q_proj", "embed_tokens"]),
        "head": dict(r=4, lora_alpha=8, target_modules=["q_proj", "lm_head"],
                     rank_pattern={"lm_head": 6}),
        "embedding and head": dict(r=4, lora_alpha=8,
                                   target_modules=["q_proj", "embed_tokens", "lm_head"]),
    },
    "qwen3_moe": {
        "attention": dict(r=4, lora_alpha=8, target_modules=ATTENTION),
        "attention, experts": dict(
            r=4, lora_alpha=8, target_modules=ATTENTION, target_parameters=EXPERTS),
        "one parameter of the experts": dict(
            r=3, lora_alpha=8, target_modules=["v_proj"], target_parameters=EXPERTS[1:]),
        "experts alone, rslora, patterns": dict(
            r=4, lora_alpha=8, use_rslora=True, target_modules=[], target_parameters=EXPERTS,
            rank_pattern={"gate_up_proj": 6, r"layers\.1\..*down_proj": 2},
            alpha_pattern={r".*\.gate_up_proj": 12}),
        "router": dict(r=4, lora_alpha=8, target_modules=["o_proj"],
                       target_parameters=["mlp.gate.weight"]),
        "experts whole": dict(r=4, lora_alpha=8, target_modules=["o_proj"],
                              modules_to_save=["layers.1.mlp"]),
    },
    "qwen3_5_tied_nested": {
        "attention, delta rule, MLP": dict(
            r=4, lora_alpha=8, target_modules=ATTENTION + DELTA + DENSE),
        "delta rule whole": dict(
            r=4, lora_alpha=8, target_modules=ATTENTION + DENSE,
            modules_to_save=["linear_attn", "model.norm"]),
        "embedding and head": dict(
            r=4, lora_alpha=8, target_modules=["in_proj_qkv", "embed_tokens", "lm_head"])},
    "qwen3_5_moe_nested_fused": {
        "all but experts": dict(
            r=4, lora_alpha=8,
            target_modules=ATTENTION + DELTA + DENSE + ["shared_expert_gate"]),
        "experts and all else": dict(
            r=4, lora_alpha=8, target_parameters=EXPERTS,
            target_modules=ATTENTION + DELTA + DENSE + ["shared_expert_gate"])},
}
# The cases that are trained for some steps, and how far a tensor's change may be off.
STEPPED = {"all linear layers", "attention, experts", "experts and all else",
           "embedding, head, norms whole", "parts of products whole", "both whole and tied",
           "embedding and head"}
STEPS, STEPS_BOUND = 5, 1e-3


def some_ids(count, length):
    letters = torch.Generator().manual_seed(count)
    return [torch.randint(3, 250, (length + 7 * i,), generator=letters) for i in range(count)]


def adapted(directory, settings, seed):
    """The adapted model in float64, with an adapter of float32 values that does something."""
    model = load(directory, torch.float64)
    model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **settings))
    letters = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(is_own(name))
        if is_own(name):
            values = 0.15 * torch.randn(parameter.shape, generator=letters, dtype=torch.float32)
            values /= (1 if "lora_embedding_" in name else parameter.shape[-1]) ** 0.5
            if "lora_" not in name:
                values += parameter.data.float()
            # In place, since a tied head is the same parameter.
            parameter.data.copy_(values.double())
    return model.eval()


def is_own(name):
    return "lora_" in name or "modules_to_save." in name


def write(model, path):
    """Writes the adapter as PEFT does, in float32."""
    model.save_pretrained(path)
    tensors = load_file(path / "adapter_model.safetensors")
    save_file({name: value.float() for name, value in tensors.items()},
              path / "adapter_model.safetensors", metadata={"format": "pt"})
    # A tied head is written a second time, and beside their pairs embedding and head as they are.
    seen = {}
    return {seen.setdefault(t.numpy().tobytes(), n) for n, t in sorted(tensors.items(),
            key=lambda item: "lm_head" in item[0]) if ".base_layer.weight" not in n}


def file_names(model):
    return {name.replace(".modules_to_save", "").replace(".default", ""): parameter
            for name, parameter in model.named_parameters() if is_own(name)}


def check_steps(program, directory, name, model, path, prompts, report):
    """Five steps of AdamW on the same batch: what each tensor changes by, as a share of PEFT's."""
    right = file_names(model)
    before = {n: p.detach().clone() for n, p in right.items()}
    optimizer = torch.optim.AdamW(right.values(), lr=1e-3, betas=(0.9, 0.95), eps=1e-8,
                                  weight_decay=0)
    for _ in range(STEPS):
        optimizer.zero_grad()
        with Truth():
            (-torch.cat([token_logprobs(model, ids)[0] for ids in prompts]).mean()).backward()
        optimizer.step()
    output = program.new_path()
    rows = [{"input_ids": ids.tolist(), "labels": [-100] + ids.tolist()[1:]} for ids in prompts]
    program.run("sft", model=directory, adapters=path, dataset=program.write_rows(rows),
                output_dir=output, max_steps=STEPS, learning_rate=1e-3, max_grad_norm=0,
                lr_scheduler_type="constant", warmup_ratio=0, weight_decay=0, adam_beta2=0.95,
                per_device_train_batch_size=len(prompts), gradient_accumulation_steps=1)
    after = load_file(output / "last" / "adapter_model.safetensors")
    shares = {}
    for n, p in right.items():
        change = p.detach() - before[n]
        shares[n] = (after[n].double() - before[n] - change).norm() / change.norm()
    worst = max(shares, key=shares.get)
    report.add("five steps", name, short(worst)[-44:], shares[worst].item(), STEPS_BOUND)


def float32_error(directory, path, prompts, truth):
    """How far PEFT's own float32 is from its float64: at the first tokens of a delta rule a random
    mixture of experts can be so sensitive that no float32 stays within LOGPROB_BOUND.
    """
    model = PeftModel.from_pretrained(load(directory, torch.float32), path).eval()
    with torch.no_grad():
        return max((token_logprobs(model, ids)[0].double() - right).abs().max().item()
                   for ids, right in zip(prompts, truth))


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
    own_error = float32_error(directory, path, prompts, truth)
    rows = program.score(directory, prompts, adapters=path)
    error = max((numbers(row["logprobs"]) - right.detach()).abs().max().item()
                for row, right in zip(rows, truth))
    report.add("score", name, "logprobs", error, max(LOGPROB_BOUND, 2 * own_error))
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
    if case in STEPPED:
        check_steps(program, directory, name, model, path, prompts, report)


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
