# SPDX-License-Identifier: Apache-2.0
"""Compares forms of adapters' files, and merged weights, with PEFT and with their formulas.

    python tools/parity/adapter_files.py --program build/bin/lockstep [--only NAME…]

Pairs of every form are written with random values; what the program makes of them is read from what
it exports, as changes of weights in float64, and as log-probabilities. Prints each figure with its
bound, and exits 1 if one is over it.
"""

import argparse
import json
import re
import sys
import tempfile

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

from program import Program, ProgramError

from adapters import adapted, float32_error, some_ids, write
from common import CHECKPOINTS, Truth, canonical_tensors, load, read_tensors, token_logprobs
from model import LOGPROB_BOUND, Report, numbers

DELTA_BOUND = 3e-7  # of the largest change
MERGED = ("qwen3_untied", "qwen3_bf16", "qwen3_moe", "qwen3_moe_bf16", "qwen3_5_tied_nested",
          "qwen3_5_moe_nested_fused", "qwen3_5_moe_nested_per_expert", "qwen3_5_moe_bf16")
LINEAR = ["q_proj", "o_proj", "down_proj", "in_proj_qkv", "in_proj_a", "out_proj"]
EXPERTS = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]


def config_of(directory):
    config = json.loads((directory / "config.json").read_text())
    return config.get("text_config", config)


class Sizes:
    def __init__(self, directory):
        config = config_of(directory)
        self.hidden = config["hidden_size"]
        self.width = config["moe_intermediate_size"]
        self.experts = config.get("num_experts") or config["num_local_experts"]
        names = read_tensors(directory)
        prefix = "model.language_model." if any("language_model" in n for n in names) else "model."
        self.layers = sorted({int(n.split("layers.")[1].split(".")[0]) for n in names
                              if ".mlp.experts." in n and not n.startswith("mtp")})
        self.prefix = prefix

    def module(self, layer):
        return f"base_model.model.{self.prefix}layers.{layer}.mlp.experts"


def draw(letters, *shape):
    return torch.randn(shape, generator=letters, dtype=torch.float32) / shape[-1] ** 0.5


class Adapter:
    """A file in the making: tensors, configuration, and the changes of experts' weights that they
    stand for, in float64 by layer, as [E, 2F, D] and [E, D, F]."""

    def __init__(self, sizes, **config):
        self.sizes, self.tensors, self.deltas = sizes, {}, {}
        self.config = dict(peft_type="LORA", task_type="CAUSAL_LM", r=4, lora_alpha=8,
                           bias="none", target_modules=None, peft_version="0.21.2") | config
        self.letters = torch.Generator().manual_seed(7)

    def pair(self, name, a_shape, b_shape, a=None):
        a = draw(self.letters, *a_shape) if a is None else a
        b = draw(self.letters, *b_shape)
        self.tensors[name + ".lora_A.weight"] = a.clone()
        self.tensors[name + ".lora_B.weight"] = b
        return a.double(), b.double()

    def save(self, path):
        path.mkdir()
        save_file({n: t.contiguous() for n, t in self.tensors.items()},
                  path / "adapter_model.safetensors", metadata={"format": "pt"})
        (path / "adapter_config.json").write_text(json.dumps(self.config))
        return path


def old_orientation(sizes, version):
    """PEFT 0.17 to 0.19.0: the parameter is [E, in, out]."""
    adapter = Adapter(sizes, target_parameters=EXPERTS, peft_version=version)
    e, r = sizes.experts, adapter.config["r"]
    for layer in sizes.layers:
        module = sizes.module(layer)
        for part, name, first, second in (
                ("gate_up", module + ".base_layer", 2 * sizes.width, sizes.hidden),
                ("down", module, sizes.hidden, sizes.width)):
            a, b = adapter.pair(name, (e * r, first), (second, e * r))
            delta = torch.einsum("ore,eri->eio", b.view(second, r, e), a.view(e, r, first))
            adapter.deltas[layer, part] = 2.0 * delta
    return adapter


def per_expert(sizes, shares_a=False, rslora=False, ranks=None, alphas=None):
    """A pair for each projection of each expert, as transformers 4 had them."""
    adapter = Adapter(sizes, target_modules=["gate_proj", "up_proj", "down_proj"],
                      use_rslora=rslora, rank_pattern=ranks or {}, alpha_pattern=alphas or {})
    config = adapter.config

    def rank(projection):
        return (ranks or {}).get(projection, config["r"])

    def scale(projection):
        r = rank(projection)
        return (alphas or {}).get(projection, config["lora_alpha"]) / (r ** 0.5 if rslora else r)

    for layer in sizes.layers:
        gate_up, down = [], []
        for e in range(sizes.experts):
            module = f"{sizes.module(layer)}.{e}."
            parts, shared = [], None
            for projection in ("gate_proj", "up_proj"):
                a, b = adapter.pair(module + projection, (rank(projection), sizes.hidden),
                                    (sizes.width, rank(projection)), shared)
                shared = a.float() if shares_a else None
                parts.append(scale(projection) * b @ a)
            gate_up.append(torch.cat(parts))
            a, b = adapter.pair(module + "down_proj", (rank("down_proj"), sizes.width),
                                (sizes.hidden, rank("down_proj")))
            down.append(scale("down_proj") * b @ a)
        adapter.deltas[layer, "gate_up"] = torch.stack(gate_up)
        adapter.deltas[layer, "down"] = torch.stack(down)
    return adapter


def stacked(sizes, shares_outer=False):
    """Megatron-Bridge: [E, r, in] and [E, out, r]; with shared outer sides as [1, …]."""
    adapter = Adapter(sizes, target_modules=["gate_up_proj", "down_proj"])
    e, r = sizes.experts, adapter.config["r"]
    one = 1 if shares_outer else e
    for layer in sizes.layers:
        a, b = adapter.pair(sizes.module(layer) + ".gate_up_proj", (one, r, sizes.hidden),
                            (e, 2 * sizes.width, r))
        adapter.deltas[layer, "gate_up"] = 2.0 * b @ a
        a, b = adapter.pair(sizes.module(layer) + ".down_proj", (e, r, sizes.width),
                            (one, sizes.hidden, r))
        adapter.deltas[layer, "down"] = 2.0 * b @ a
    return adapter


def grouped_names(sizes):
    """mcore-bridge: a pair for each expert's gate_up_proj."""
    adapter = Adapter(sizes, target_modules=["gate_up_proj"])
    r = adapter.config["r"]
    for layer in sizes.layers:
        parts = []
        for e in range(sizes.experts):
            a, b = adapter.pair(f"{sizes.module(layer)}.{e}.gate_up_proj", (r, sizes.hidden),
                                (2 * sizes.width, r))
            parts.append(2.0 * b @ a)
        adapter.deltas[layer, "gate_up"] = torch.stack(parts)
    return adapter


def scale_of(config, name, rank):
    alpha = config["lora_alpha"]
    for pattern, value in config["alpha_pattern"].items():
        if re.match(rf"(.*\.)?({pattern})$", name):
            alpha = value
            break
    return alpha / (rank ** 0.5 if config["use_rslora"] else rank)


def peft_deltas(path, sizes, of=torch.Tensor.clone):
    """Changes of experts' weights by PEFT's files, as [E, O, I] in float64, made of values
    of(values)."""
    tensors = load_file(path / "adapter_model.safetensors")
    config = json.loads((path / "adapter_config.json").read_text())
    e, found = sizes.experts, {}
    for layer in sizes.layers:
        module = sizes.module(layer)
        has_both = module + ".base_layer.lora_A.weight" in tensors
        only = "down" if "down_proj" in str(config["target_parameters"]) else "gate_up"
        for part, name in (("gate_up", module + ".base_layer"),
                           ("down" if has_both else only, module)):
            if name + ".lora_A.weight" not in tensors:
                continue
            a, b = (of(tensors[f"{name}.lora_{x}.weight"].double()) for x in "AB")
            r = a.shape[0] // e
            delta = torch.einsum("ore,eri->eoi", b.view(-1, r, e), a.view(e, r, -1))
            parameter = f"{module.removeprefix('base_model.model.')}.{part}_proj"
            found[layer, part] = scale_of(config, parameter, r) * delta
    return found


def per_expert_deltas(path, sizes):
    tensors = load_file(path / "adapter_model.safetensors")
    config = json.loads((path / "adapter_config.json").read_text())
    found = {}

    def delta(name):
        if name + ".lora_A.weight" not in tensors:
            return None
        a, b = (tensors[f"{name}.lora_{x}.weight"].double() for x in "AB")
        return scale_of(config, name.removeprefix("base_model.model."), a.shape[0]) * b @ a

    for layer in sizes.layers:
        parts = {"gate_up": [], "down": []}
        for e in range(sizes.experts):
            module = f"{sizes.module(layer)}.{e}."
            gate, up, down = (delta(module + p + "_proj") for p in ("gate", "up", "down"))
            if gate is not None:
                parts["gate_up"].append(torch.cat([gate, up]))
            if down is not None:
                parts["down"].append(down)
        found |= {(layer, part): torch.stack(all) for part, all in parts.items() if all}
    return found


def worst_delta(found, right):
    if set(found) != set(right):
        return float("nan")
    return max(((found[key] - right[key]).abs().max() / right[key].abs().max()).item()
               for key in right)


FORMS = {
    "PEFT 0.18, [E, in, out]": lambda sizes: old_orientation(sizes, "0.18.1"),
    "PEFT 0.17, [E, in, out]": lambda sizes: old_orientation(sizes, None),
    "per expert": per_expert,
    "per expert, shared A": lambda sizes: per_expert(sizes, shares_a=True),
    "per expert, rslora": lambda sizes: per_expert(sizes, rslora=True),
    "per expert, ranks and scales": lambda sizes: per_expert(
        sizes, ranks={"gate_proj": 2, "down_proj": 6}, alphas={"up_proj": 3.5}),
    "per expert, gate_up": grouped_names,
    "stacked": stacked,
    "stacked, shared outer": lambda sizes: stacked(sizes, shares_outer=True),
}


def check_forms(program, checkpoint, report):
    """Each form is read, and written in ours, in both."""
    directory = CHECKPOINTS / checkpoint
    sizes = Sizes(directory)
    for name, make in FORMS.items():
        adapter = make(sizes)
        path = adapter.save(program.new_path())
        try:
            out, single = program.new_path(), program.new_path()
            program.run("export", model=directory, adapters=path, output_dir=out)
            report.add("forms", f"{checkpoint}: {name}", "changes of weights",
                       worst_delta(peft_deltas(out, sizes), adapter.deltas), DELTA_BOUND)
            program.run("export", model=directory, adapters=out, output_dir=single,
                        adapter_format="per-expert")
            report.add("forms", f"{checkpoint}: {name}", "the same written per expert",
                       worst_delta(per_expert_deltas(single, sizes), adapter.deltas), DELTA_BOUND)
            again = program.new_path()
            program.run("export", model=directory, adapters=single, output_dir=again)
            report.add("forms", f"{checkpoint}: {name}", "and read again",
                       float((again / "adapter_model.safetensors").read_bytes() !=
                             (out / "adapter_model.safetensors").read_bytes()), 0)
        except ProgramError as error:
            report.fail("forms", f"{checkpoint}: {name}", str(error))


def truth_of(model, prompts):
    with Truth():
        return [token_logprobs(model, ids)[0].detach() for ids in prompts]


def loaded_by_peft(directory, path):
    model = PeftModel.from_pretrained(load(directory, torch.float64), path,
                                      autocast_adapter_dtype=False)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = parameter.data.double()
    return model.eval()


def error_of(rows, truth):
    return max((numbers(row["logprobs"]) - right).abs().max().item()
               for row, right in zip(rows, truth))


# Settings of PEFT; an adapter of each is read, and written again.
WRITTEN = {
    "qwen3_untied": {
        "embedding, head, norms whole": dict(
            r=4, lora_alpha=8, target_modules=["q_proj"],
            modules_to_save=["embed_tokens", "lm_head", "norm"]),
        "embedding and head": dict(r=4, lora_alpha=8,
                                   target_modules=["q_proj", "embed_tokens", "lm_head"]),
    },
    "qwen3_tied": {
        "embedding whole": dict(r=4, lora_alpha=8, target_modules=["q_proj"],
                                modules_to_save=["embed_tokens"]),
        "head whole": dict(r=4, lora_alpha=8, target_modules=["q_proj"],
                           modules_to_save=["lm_head"]),
        "both whole and tied": dict(r=4, lora_alpha=8, target_modules=["q_proj"],
                                    modules_to_save=["lm_head"], ensure_weight_tying=True),
        "embedding": dict(r=4, lora_alpha=8, target_modules=["embed_tokens"],
                          rank_pattern={"embed_tokens": 2}),
        "head": dict(r=4, lora_alpha=8, target_modules=["q_proj", "lm_head"]),
        "embedding and head as one": dict(
            r=4, lora_alpha=8, target_modules=["q_proj", "embed_tokens"],
            ensure_weight_tying=True),
    },
    "qwen3_5_tied_nested": {
        "norms and embedding whole": dict(
            r=4, lora_alpha=8, target_modules=["in_proj_qkv"],
            modules_to_save=["layernorm", "embed_tokens", "lm_head"]),
        "embedding and head": dict(r=4, lora_alpha=8,
                                   target_modules=["in_proj_qkv", "embed_tokens", "lm_head"]),
    },
    "qwen3_moe": {
        "experts and attention": dict(r=4, lora_alpha=8, target_modules=["q_proj"],
                                      target_parameters=EXPERTS),
        "gate_up_proj alone": dict(r=3, lora_alpha=6, target_modules=[],
                                   target_parameters=EXPERTS[:1]),
        "experts whole": dict(r=3, lora_alpha=6, target_modules=["o_proj"],
                              modules_to_save=["layers.1.mlp"]),
        "down_proj alone": dict(r=3, lora_alpha=6, target_modules=[],
                                target_parameters=EXPERTS[1:]),
        "patterns, rslora": dict(
            r=4, lora_alpha=8, use_rslora=True, target_modules=["o_proj"],
            target_parameters=EXPERTS, rank_pattern={r"layers\.1\.mlp\.experts\.down_proj": 2},
            alpha_pattern={"gate_up_proj": 5}),
        "converted by PEFT": dict(r=4, lora_alpha=8,
                                  target_modules=["gate_proj", "up_proj", "down_proj"]),
        "converted by PEFT, rslora": dict(
            r=4, lora_alpha=8, use_rslora=True,
            target_modules=["gate_proj", "up_proj", "down_proj"]),
        "router": dict(r=4, lora_alpha=8, target_modules=[],
                       target_parameters=["mlp.gate.weight", *EXPERTS]),
    },
    "qwen3_5_moe_nested_fused": {
        "experts, shared expert": dict(r=4, lora_alpha=8,
                                       target_modules=["shared_expert.up_proj", "out_proj"],
                                       target_parameters=EXPERTS),
        "down_proj alone": dict(r=3, lora_alpha=6, target_modules=[],
                                target_parameters=EXPERTS[1:]),
    },
}


def check_written(program, checkpoint, report):
    """What PEFT writes is read, and PEFT loads what is written."""
    directory = CHECKPOINTS / checkpoint
    prompts = some_ids(3, 50)
    for name, settings in WRITTEN[checkpoint].items():
        model = adapted(directory, settings, len(name))
        path = program.new_path()
        write(model, path)
        truth = truth_of(model, prompts)
        what = f"{checkpoint}: {name}"
        bound = max(LOGPROB_BOUND, 2 * float32_error(directory, path, prompts, truth))
        try:
            rows = program.score(directory, prompts, adapters=path)
            report.add("peft", what, "PEFT's file, logprobs", error_of(rows, truth), bound)
            without = program.score(directory, prompts)
            moved = error_of(without, truth)
            report.add("peft", what, "1 / what the adapter changes", 1 / max(moved, 1e-9), 100)
            formats = ["peft"]
            if checkpoint == "qwen3_moe" and name in ("experts and attention", "converted by PEFT"):
                formats.append("per-expert")
            for form in formats:
                out = program.new_path()
                program.run("export", model=directory, adapters=path, output_dir=out,
                            adapter_format=form)
                again = truth_of(loaded_by_peft(directory, out), prompts)
                report.add("peft", what, f"PEFT loads {form}, logprobs",
                           max((a - b).abs().max().item() for a, b in zip(again, truth)), 1e-6)
            merged = program.new_path()
            program.run("export", model=directory, adapters=path, merge_lora=True,
                        output_dir=merged)
            report.add("peft", what, "merged, logprobs",
                       error_of(program.score(merged, prompts), truth), bound)
            if "modules_to_save" in settings or "embedding" in name or "head" in name:
                again = truth_of(load(merged, torch.float64), prompts)
                report.add("peft", what, "merged, logprobs by transformers",
                           max((a - b).abs().max().item() for a, b in zip(again, truth)), 1e-5)
        except ProgramError as error:
            report.fail("peft", what, str(error))


def check_old_adapter(program, report):
    """An adapter of transformers 4 time, as PEFT converts it while it loads it."""
    directory = CHECKPOINTS / "qwen3_moe"
    sizes, prompts = Sizes(directory), some_ids(3, 50)
    path = per_expert(sizes).save(program.new_path())
    truth = truth_of(loaded_by_peft(directory, path), prompts)
    rows = program.score(directory, prompts, adapters=path)
    report.add("peft", "qwen3_moe: per expert", "as PEFT converts it, logprobs",
               error_of(rows, truth), LOGPROB_BOUND)


def ulp(values, dtype):
    bits = {torch.float32: 23, torch.bfloat16: 7}[dtype]
    _, exponent = torch.frexp(values.abs())
    return torch.ldexp(torch.ones_like(values), exponent - 1 - bits)


def check_merged(program, checkpoint, report):
    """Merged tensors against float64 rounded once and against PEFT's; all others by their bytes."""
    directory = CHECKPOINTS / checkpoint
    base = read_tensors(directory)
    dtype = base[next(n for n in base if n.endswith("embed_tokens.weight"))].dtype
    model = load(directory, dtype)
    parameters = EXPERTS if any(".mlp.experts." in n for n in base) else None
    names = [n for n in LINEAR if any(f".{n}.weight" in b for b in base)]
    model = get_peft_model(model, LoraConfig(
        task_type="CAUSAL_LM", r=4, lora_alpha=7, target_modules=names,
        target_parameters=parameters))
    letters = torch.Generator().manual_seed(11)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = 0.1 * torch.randn(parameter.shape, generator=letters)
    path, out = program.new_path(), program.new_path()
    model.save_pretrained(path)
    program.run("export", model=directory, adapters=path, merge_lora=True, output_dir=out)
    deltas = all_deltas(path, directory, parameters)
    merged, before = read_tensors(out), canonical_tensors(base)
    same = [n for n in base if canonical_of(n) not in deltas]
    wrong = sum(not torch.equal(merged[n], base[n]) or merged[n].dtype != base[n].dtype
                for n in same if not is_grouped(n))
    report.add("merge", checkpoint, "other tensors that changed", wrong, 0)
    after = canonical_tensors(merged)
    wrong = sum(((before[n].double() + delta).to(before[n].dtype) != after[n]).sum().item()
                for n, delta in deltas.items())
    report.add("merge", checkpoint, f"elements unlike float64's, of {len(deltas)} tensors", wrong,
               0 if set(deltas) <= set(after) else -1)
    theirs = canonical_tensors(dict(model.merge_and_unload().named_parameters()))
    # PEFT rounds W and what is added to it each on their own, and float32 sums their terms, too.
    sums = all_deltas(path, directory, parameters, torch.abs)
    worst = max(((theirs[n].detach().double() - after[n].double()).abs() /
                 ulp(before[n].double().abs() + sums[n], dtype)).max().item() for n in deltas)
    report.add("merge", checkpoint, "units in the last place from PEFT's", worst,
               1 if dtype == torch.bfloat16 else 2)


def canonical_of(name):
    return name.replace("model.language_model.", "model.")


def is_grouped(name):
    return name.endswith(("mlp.experts.gate_up_proj", "mlp.experts.down_proj"))


def all_deltas(path, directory, has_experts, of=torch.Tensor.clone):
    """By canonical name: what an adapter of PEFT's adds, in float64, made of values of(values)."""
    tensors = load_file(path / "adapter_model.safetensors")
    config = json.loads((path / "adapter_config.json").read_text())
    deltas = {}
    for name, a in tensors.items():
        module = name.removesuffix(".lora_A.weight").removeprefix("base_model.model.")
        if name.endswith("lora_A.weight") and ".mlp.experts" not in name:
            b = tensors[name.replace("lora_A", "lora_B")]
            scale = scale_of(config, module, a.shape[0])
            deltas[canonical_of(module) + ".weight"] = scale * of(b.double()) @ of(a.double())
    if has_experts:
        sizes = Sizes(directory)
        # PEFT calls modules as the class does that it has loaded.
        sizes.prefix = "model."
        for (layer, part), delta in peft_deltas(path, sizes, of).items():
            for e in range(sizes.experts):
                expert = f"model.layers.{layer}.mlp.experts.{e}."
                if part == "down":
                    deltas[expert + "down_proj.weight"] = delta[e]
                else:
                    deltas[expert + "gate_proj.weight"] = delta[e][:sizes.width]
                    deltas[expert + "up_proj.weight"] = delta[e][sizes.width:]
    return deltas


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--program", default="build/bin/lockstep")
    parser.add_argument("--checks", nargs="*", default=["forms", "peft", "merge"])
    options = parser.parse_args()
    report = Report()
    with tempfile.TemporaryDirectory() as folder:
        program = Program(options.program, folder)
        if "forms" in options.checks:
            for checkpoint in ("qwen3_moe", "qwen3_5_moe_nested_fused"):
                check_forms(program, checkpoint, report)
        if "merge" in options.checks:
            for checkpoint in MERGED:
                check_merged(program, checkpoint, report)
        if "peft" in options.checks:
            for checkpoint in WRITTEN:
                check_written(program, checkpoint, report)
            check_old_adapter(program, report)
    sys.exit(0 if report.end() else 1)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
