# SPDX-License-Identifier: Apache-2.0
"""Compares adapters with vLLM, live: its server is given what the program wrote.

    python tools/parity/vllm_adapters.py --program build/bin/lockstep [--only NAME…]

Each case trains an adapter for some steps, completes prompts greedily with it, and asks vLLM for
the same twice: it completes the prompts itself (its decoding), and it says of each of our tokens
how likely it finds it (its prefill). Tokens must be equal up to ties, log-probabilities within a
bound. Prints each figure with its bound, and exits 1 if one is over it.

vLLM is in .deps/vllm (tools/vllm.sh). Its build for processors has no kernel for adapters of routed
experts: those files are served with the one of vllm_experts.py, and all else there is vLLM's own.
"""

import argparse
import json
import math
import pathlib
import shutil
import signal
import sys
import tempfile

import torch
from safetensors.torch import load_file, save_file

from program import Program, ProgramError
from vllm_server import VllmError, VllmServer

from model import Report

NUM_PROMPTS, NUM_TOKENS, VOCABULARY = 12, 24, 2000
ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
MLP = ["gate_proj", "up_proj", "down_proj"]
DELTA = ["in_proj_qkv", "in_proj_z", "in_proj_b", "in_proj_a", "out_proj"]
EXPERTS = ["experts.gate_up_proj", "experts.down_proj"]
# By case: flags of `lockstep sft`.
DENSE = {
    "attention": dict(target_modules=ATTENTION),
    "MLP": dict(target_modules=MLP),
    "all linear layers": dict(target_modules="all-linear"),
    "rslora, ranks by pattern": dict(
        target_modules="all-linear", use_rslora=True,
        rank_pattern=json.dumps({"q_proj": 4, "down_proj": 6}),
        alpha_pattern=json.dumps({"up_proj": 8})),
    "embedding and head": dict(target_modules=["q_proj", "embed_tokens", "lm_head"]),
}
# A fourth of Qwen3.5's layers has attention: its adapters are trained further, to tell as much.
HYBRID = DENSE | {"attention": dict(target_modules=ATTENTION, learning_rate=3e-2),
                  "delta rule": dict(target_modules=DELTA)}
WITH_EXPERTS = {
    "experts": dict(target_modules=["o_proj"], target_parameters=EXPERTS),
    "all linear layers, experts": dict(target_modules="all-linear", lora_experts=True),
}
WITHOUT_GATE = WITH_EXPERTS | {"all linear layers, experts": dict(
    target_modules="all-linear", lora_experts=True, exclude_modules="shared_expert_gate")}
# vLLM takes these and computes without them: both layers have a second name in its model, by which
# it calls them, and the layer of that name stays as it was. When a check of this turns red, a later
# vLLM applies them, and docs/lora.md says too much.
IGNORED_ROUTER = {"router": dict(target_modules="gate", learning_rate=3e-2)}
IGNORED_GATE = {"shared_expert_gate": dict(target_modules="shared_expert_gate",
                                           learning_rate=1e-1)}
# vLLM's delta rule knows no head of 32 on a processor, which the size tiny has.
HEADS = dict(linear_key_head_dim=64, linear_value_head_dim=64)
# Each token has all experts, so that none can be chosen by a rounding: what that does to a token is
# no matter of adapters, and as large as what they do.
ALL_EXPERTS = HEADS | dict(num_experts=4, num_experts_per_tok=4)
# By name: family and precision of a model, cases, and how vLLM gets them.
FAMILIES = {
    "qwen3": dict(like="qwen3", dtype="float32", cases=DENSE),
    "qwen3 bfloat16": dict(like="qwen3", dtype="bfloat16", cases=DENSE),
    "qwen3_5": dict(like="qwen3_5", dtype="bfloat16", changes=HEADS, cases=HYBRID),
    "qwen3_5 nested": dict(like="qwen3_5", dtype="bfloat16", changes=HEADS, cases=HYBRID,
                           nested=True),
    "qwen3_moe merged": dict(like="qwen3_moe", dtype="float32", cases=WITH_EXPERTS, merged=True),
    "qwen3_5_moe merged": dict(like="qwen3_5_moe", dtype="bfloat16", changes=ALL_EXPERTS,
                               cases=WITH_EXPERTS, merged=True),
    "qwen3_moe files": dict(like="qwen3_moe", dtype="float32", cases=WITH_EXPERTS,
                            ignored=IGNORED_ROUTER, forms=["per-expert"]),
    "qwen3_5_moe files": dict(like="qwen3_5_moe", dtype="bfloat16", changes=ALL_EXPERTS,
                              cases=WITHOUT_GATE, ignored=IGNORED_GATE, forms=["per-expert"]),
    "qwen3_5_moe nested files": dict(like="qwen3_5_moe", dtype="bfloat16", changes=ALL_EXPERTS,
                                     cases=WITHOUT_GATE, ignored=IGNORED_GATE, nested=True,
                                     forms=["peft"]),
    "qwen3_5_moe mixed files": dict(like="qwen3_5_moe", dtype="bfloat16", changes=ALL_EXPERTS,
                                    cases=WITHOUT_GATE, nested=True,
                                    forms=["peft", "per-expert"],
                                    extra=["--enable-mixed-moe-lora-format"]),
}
# Mean and largest difference of log-probabilities. In float32 the two engines are as near as their
# roundings without adapters (7e-6 at most). In bfloat16 they differ without adapters, on other
# models, by 0.021 and 0.037 in the mean (Qwen3, Qwen3.5), and by 0.11 and 0.20 at most among 512
# tokens; twice that is the bound for the several thousand here. An adapter that is left out, or has
# twice its scale, is more than ten times as far off in the mean, which is checked. Where the two
# choose other tokens, one leads the other by the errors of two log-probabilities at most.
BOUNDS = {("qwen3", "float32"): (2e-6, 2e-5), ("qwen3_moe", "float32"): (2e-6, 2e-5),
          ("qwen3", "bfloat16"): (0.021, 0.22), ("qwen3_5", "bfloat16"): (0.037, 0.40),
          ("qwen3_5_moe", "bfloat16"): (0.037, 0.40)}
# What share of our tokens vLLM must find the likeliest (without an adapter in bfloat16: 0.97), and
# how much of its own decoding must be the same before a tie parts the two: a comparison of little
# is none.
FIRST_SHARE = {"float32": 1, "bfloat16": 0.9}
EQUAL_SHARE = {"float32": 1, "bfloat16": 0.3}


def prompts_of():
    letters = torch.Generator().manual_seed(5)
    return [torch.randint(3, VOCABULARY, (5 + 4 * i,), generator=letters).tolist()
            for i in range(NUM_PROMPTS)]


def new_model(program, like, dtype, changes, nested, tied=False):
    """A new model whose logits differ by much more than roundings: a new one's hardly do."""
    first, model = program.new_path(), program.new_path()
    program.run("new-model", output_dir=first, like=like, size="tiny",
                **({"nested": True} if nested else {}))
    config = json.loads((first / "config.json").read_text())
    config["tie_word_embeddings"] = tied
    config.get("text_config", config).update(changes, tie_word_embeddings=tied)
    path = program.new_path(".json")
    path.write_text(json.dumps(config))
    program.run("new-model", config=path, output_dir=model, torch_dtype=dtype)
    tensors = load_file(model / "model.safetensors")
    for name, value in tensors.items():
        if value.dim() >= 2 and "visual" not in name and "mtp" not in name:
            value *= 8 if "embed_tokens" in name or "lm_head" in name else 4
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
    if nested:
        write_processors(model, config["vision_config"])
    return model


def write_processors(model, vision):
    """What vLLM asks of a model with a vision tower, also where it serves text alone."""
    sizes = {"patch_size": vision["patch_size"], "merge_size": vision["spatial_merge_size"],
             "temporal_patch_size": vision["temporal_patch_size"],
             "size": {"shortest_edge": 4096, "longest_edge": 65536},
             "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    for name, kind in (("preprocessor_config", {"image_processor_type": "Qwen2VLImageProcessor"}),
                       ("video_preprocessor_config",
                        {"video_processor_type": "Qwen3VLVideoProcessor"})):
        (model / (name + ".json")).write_text(json.dumps(
            sizes | kind | {"processor_class": "Qwen3VLProcessor"}))


def train(program, model, learning_rate=1e-2, **flags):
    """An adapter after some steps, so large that nobody takes it for none."""
    letters = torch.Generator().manual_seed(9)
    ids = torch.randint(3, VOCABULARY, (8, 40), generator=letters).tolist()
    rows = [{"input_ids": row, "labels": [-100] + row[1:]} for row in ids]
    output = program.new_path()
    program.run("sft", model=model, dataset=program.write_rows(rows), output_dir=output,
                max_steps=6, learning_rate=learning_rate, lr_scheduler_type="constant",
                warmup_ratio=0, per_device_train_batch_size=4, gradient_accumulation_steps=1,
                **flags)
    return output / "last"


def doubled(program, adapter):
    """The adapter with twice its scale: what a reader of the wrong scale would serve."""
    other = program.new_path()
    shutil.copytree(adapter, other, ignore=shutil.ignore_patterns("training_state"))
    config = json.loads((other / "adapter_config.json").read_text())
    config["lora_alpha"] *= 2
    (other / "adapter_config.json").write_text(json.dumps(config))
    return other


def plugins_of(folder):
    """A folder in which vLLM finds the plugin of vllm_experts.py as if it were installed."""
    info = folder / "vllm_experts-0.dist-info"
    info.mkdir(parents=True)
    shutil.copy(pathlib.Path(__file__).parent / "vllm_experts.py", folder)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: vllm-experts\nVersion: 0\n")
    (info / "entry_points.txt").write_text(
        "[vllm.general_plugins]\nexperts = vllm_experts:register\n")
    return folder


def greedy(program, model, **flags):
    rows = program.infer(model, prompts_of(), temperature=0, max_new_tokens=NUM_TOKENS,
                         ignore_eos=True, **flags)
    return [(row[0]["token_ids"], row[0]["logprobs"]) for row in rows]


class Comparison:
    """Our tokens and log-probabilities beside what vLLM's model of that name makes of them."""

    def __init__(self, server, name, ours):
        self.errors, self.leads, self.decode_errors, self.equal = [], [], [], 0
        self.splits = []
        theirs = server.greedy(name, prompts_of(), NUM_TOKENS)
        for prompt, (tokens, values), (others, other_values) in zip(prompts_of(), ours, theirs):
            judged = server.judge(name, prompt, tokens)
            self.errors += [abs(mine - value) for mine, (value, _) in zip(values, judged)]
            self.leads += [best - value for value, best in judged]
            same = 0
            while same < len(tokens) and tokens[same] == others[same]:
                same += 1
            self.decode_errors += [abs(a - b) for a, b in zip(values[:same], other_values)]
            self.equal += same
            if same < len(tokens):
                self.splits.append((prompt + tokens[:same], tokens[same], others[same]))

    @property
    def mean(self):
        return sum(self.errors) / len(self.errors)


def largest_lead(program, model, splits, flags):
    """Where vLLM's own tokens part from ours: by how much we find ours likelier."""
    if not splits:
        return 0.0
    rows = [before + [token] for before, *both in splits for token in both]
    last = [row["logprobs"][-1] for row in program.score(model, rows, **flags)]
    return max(mine - other for mine, other in zip(last[::2], last[1::2]))


def check(server, name, served, ours, report, family, program, model, flags):
    mean_bound, bound = BOUNDS[family["like"], family["dtype"]]
    seen = Comparison(server, served, ours)
    total = len(seen.errors)
    first = sum(lead == 0 for lead in seen.leads)
    report.add("prefill", name, "log-probabilities, mean", seen.mean, mean_bound)
    report.add("prefill", name, "log-probabilities, most", max(seen.errors), bound)
    report.add("prefill", name, f"share that is not first ({total - first}/{total})",
               (total - first) / total, 1 - FIRST_SHARE[family["dtype"]])
    report.add("prefill", name, "lead of another token", max(seen.leads), 2 * bound)
    report.add("decode", name, "log-probabilities, most",
               max(seen.decode_errors, default=math.inf), bound)
    report.add("decode", name, "our lead where tokens part",
               largest_lead(program, model, seen.splits, flags), 2 * bound)
    report.add("decode", name, f"1 / equal share ({seen.equal}/{total})",
               total / max(seen.equal, 1), 1 / EQUAL_SHARE[family["dtype"]])


def check_others(server, name, served, ours, report, family):
    """What vLLM serves under other names is far off, so that the bounds tell them apart."""
    mean_bound, _ = BOUNDS[family["like"], family["dtype"]]
    for other in served:
        report.add("other", name, f"bound / mean against {other}",
                   mean_bound / Comparison(server, other, ours).mean, 0.1)


def serve(program, family, model, adapters, log):
    """A server of the adapters; where their files have experts, with our kernel for them."""
    extra = list(family.get("extra", ()))
    if family.get("nested"):
        extra.append("--language-model-only")
    plugins = None
    if "forms" in family:
        plugins = plugins_of(program.new_path())
    return VllmServer(model, log, family["dtype"], adapters, extra, plugins)


def written(program, model, adapter, form, family):
    """The adapter in a form; how vLLM takes PEFT's of experts beside ones that lie one by one."""
    path = program.new_path()
    program.run("export", model=model, adapters=adapter, adapter_format=form, output_dir=path)
    mixed = "extra" in family
    return {"path": str(path), "is_3d_lora_weight": True} if mixed and form == "peft" else path


def check_served(program, title, family, report, log):
    model = new_model(program, family["like"], family["dtype"], family.get("changes", {}),
                      family.get("nested", False))
    adapters, sources = {}, {}
    for case, flags in family["cases"].items():
        trained = train(program, model, **flags)
        for form in family.get("forms", [None]):
            served = f"{case}, {form}" if form else case
            sources[served] = trained
            adapters[served] = written(program, model, trained, form, family) if form else trained
    first = next(iter(sources))
    if "forms" not in family:
        adapters["doubled"] = doubled(program, sources[first])
    ignored = {case: train(program, model, **flags)
               for case, flags in family.get("ignored", {}).items()}
    ours = {served: greedy(program, model, adapters=path)
            for served, path in (sources | ignored).items()}
    with serve(program, family, model, adapters | ignored, log) as server:
        check(server, f"{title}: no adapter", "base", greedy(program, model), report, family,
              program, model, {})
        for served, path in sources.items():
            check(server, f"{title}: {served}", served, ours[served], report, family, program,
                  model, {"adapters": path})
            check_others(server, f"{title}: {served}", ["base"], ours[served], report, family)
        if "doubled" in adapters:
            check_others(server, f"{title}: {first}", ["doubled"], ours[first], report, family)
        for served in ignored:
            check_ignored(server, f"{title}: {served}", served, ours[served], report, family)


def check_ignored(server, name, served, ours, report, family):
    check_others(server, name, ["base"], ours, report, family)
    with_it, without = (Comparison(server, one, ours).errors for one in (served, "base"))
    report.add("ignored", name, "what it changes in vLLM",
               max(abs(a - b) for a, b in zip(with_it, without)), 0)


def check_merged(program, title, family, report, log):
    """A merged model in vLLM beside our adapter and the model that it was trained on."""
    model = new_model(program, family["like"], family["dtype"], family.get("changes", {}), False)
    for case, flags in family["cases"].items():
        adapter, merged = train(program, model, **flags), program.new_path()
        program.run("export", model=model, adapters=adapter, merge_lora=True, output_dir=merged)
        ours = greedy(program, model, adapters=adapter)
        with serve(program, family, merged, {}, log) as server:
            check(server, f"{title}: {case}", "base", ours, report, family, program, model,
                  {"adapters": adapter})
            check_others(server, f"{title}: {case}, the model without", ["base"],
                         greedy(program, model), report, family)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--program", default="build/bin/lockstep")
    parser.add_argument("--only", nargs="*", default=list(FAMILIES), choices=list(FAMILIES))
    options = parser.parse_args()
    # A signal ends the server too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    report = Report()
    with tempfile.TemporaryDirectory() as folder:
        program = Program(options.program, folder)
        for title in options.only:
            family = FAMILIES[title]
            checks = check_merged if family.get("merged") else check_served
            try:
                checks(program, title, family, report, program.new_path(".log"))
            except (ProgramError, VllmError) as error:
                report.fail("vllm", title, str(error))
    sys.exit(0 if report.end() else 1)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
