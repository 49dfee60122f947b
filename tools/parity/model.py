# SPDX-License-Identifier: Apache-2.0
"""Compares the program with the golden values of transformers, live, for every checkpoint form.

    python tools/parity/model.py --program build/bin/lockstep [--only NAME…] [--checks score …]

Prints each figure with its bound, and exits 1 if one is over it. The bounds are those of
tests/golden/README.md. tests/e2e/golden_test.cpp compares with the golden files without Python.
What needs transformers itself is only here: whole gradients and whole changes of weights (the files
hold samples), greedy continuations of every length, and that it loads what the program wrote.
"""

import argparse
import json
import math
import sys
import tempfile

import torch
from transformers import (AutoModelForCausalLM, AutoModelForImageTextToText, AutoTokenizer,
                          Trainer)

from program import Golden, Program, ProgramError

import losses
import make_goldens
from common import (CHECKPOINTS, GOLDEN, Truth, canonical_tensors, load, read_tensors,
                    sample_indices, token_logprobs)

LOGPROB_BOUND, FLOAT32_FACTOR = 2e-5, 1.5
GREEDY_TIE = 1e-4
LOSS_BOUND, GRADIENT_BOUND, CHANGE_BOUND = 1e-5, 1e-4, 1e-3
BF16_FACTOR = 1.1
MAX_COMPLETION_LENGTH = 40
PROMPT_LENGTHS, GREEDY_LENGTHS, NUM_GREEDY = (1, 2, 63, 64, 65, 500), (1, 2, 63, 65), 64
CHECKS = ("score", "infer", "greedy", "grad", "losses", "whole", "export", "sft", "bf16", "new",
          "trained")
FAMILIES = ("qwen3", "qwen3_moe", "qwen3_5", "qwen3_5_moe")
OWN_CHECKS = ("bf16", "new", "trained")  # of models that are not the golden ones, or of all at once


class Report:
    """Figures against their bounds, a line each."""

    def __init__(self):
        self.count = self.missed = 0

    def add(self, check, checkpoint, what, figure, bound):
        good = figure <= bound  # false for NaN
        self.count += 1
        self.missed += not good
        word = "ok  " if good else "MISS"
        print(f"{word} {check:7} {checkpoint:30} {what:44} {figure:10.3g} of {bound:9.3g}",
              flush=True)

    def fail(self, check, checkpoint, message):
        self.add(check, checkpoint, message, math.nan, 0.0)

    def end(self):
        print(f"{self.count} figures, {self.missed} missed")
        return self.missed == 0


def numbers(values):
    return torch.tensor([v for v in values if v is not None], dtype=torch.float64)


def check_score(program, golden, entry, report):
    model = CHECKPOINTS / entry["name"]
    prompts = [golden[f"prompt.{n}.ids"] for n in PROMPT_LENGTHS]
    packed = program.score(model, prompts, entropy=True)
    alone = [program.score(model, [prompt])[0] for prompt in prompts]
    same = all(p["logprobs"] == a["logprobs"] for p, a in zip(packed, alone))
    report.add("score", entry["name"], "packed and alone differ", float(not same), 0)
    bound = max(LOGPROB_BOUND, FLOAT32_FACTOR * golden.values["float32_error"])
    for length, row in zip(PROMPT_LENGTHS, packed):
        firsts = row["logprobs"][0] is None and len(row["logprobs"]) == length
        report.add("score", entry["name"], f"form of {length} tokens", float(not firsts), 0)
        if length == 1:
            continue
        truth = golden[f"prompt.{length}.logprobs"]
        error = (numbers(row["logprobs"]) - truth).abs().max().item()
        report.add("score", entry["name"], f"logprobs of {length} tokens", error, bound)
        error = (numbers(row["entropy"]) - golden[f"prompt.{length}.entropy"]).abs().max().item()
        report.add("score", entry["name"], f"entropy of {length} tokens", error, 2 * bound)
    row = program.score(model, [prompts[PROMPT_LENGTHS.index(65)]], temperature=0.7)[0]
    error = (numbers(row["logprobs"]) - golden["prompt.65.temperature"]).abs().max().item()
    report.add("score", entry["name"], "logprobs at temperature 0.7", error, bound / 0.7)


def check_infer(program, golden, entry, report):
    model = CHECKPOINTS / entry["name"]
    prompts = [golden[f"greedy.{n}.prompt"] for n in GREEDY_LENGTHS]
    answers = program.infer(model, prompts, temperature=0, max_new_tokens=NUM_GREEDY,
                            ignore_eos=True)
    for length, responses in zip(GREEDY_LENGTHS, answers):
        expected = golden[f"greedy.{length}.ids"].tolist()
        ties = (golden[f"greedy.{length}.gap"] < GREEDY_TIE).nonzero()
        compared = int(ties[0]) if len(ties) else NUM_GREEDY
        got = responses[0]["token_ids"]
        wrong = sum(a != b for a, b in zip(got[:compared], expected)) + NUM_GREEDY - len(got)
        what = f"{compared} greedy ids after {length}"
        report.add("infer", entry["name"], what, wrong, 0)
        if not wrong:
            error = (numbers(responses[0]["logprobs"]) - golden[f"greedy.{length}.logprobs"])
            report.add("infer", entry["name"], "their logprobs",
                       error[:compared].abs().max().item(), 2 * LOGPROB_BOUND)


def check_greedy(program, golden, entry, report):
    """Greedy continuations of prompts of every length, each step asked of transformers anew.

    One float64 pass over prompt and answer tells what transformers would have chosen behind each
    of its prefixes; an answer that left another's path at a tie is judged on its own path.
    """
    directory = CHECKPOINTS / entry["name"]
    prompts = [golden[f"prompt.{n}.ids"] for n in PROMPT_LENGTHS]
    answers = program.infer(directory, prompts, temperature=0, max_new_tokens=NUM_GREEDY,
                            ignore_eos=True)
    model = load(directory, torch.float64)
    for length, prompt, responses in zip(PROMPT_LENGTHS, prompts, answers):
        chosen = torch.tensor(responses[0]["token_ids"])
        with Truth(), torch.no_grad():
            logits = model(input_ids=torch.cat([prompt, chosen])[None]).logits[0]
        logits = logits[length - 1 : -1]
        gap = logits.max(-1).values - logits.gather(-1, chosen[:, None])[:, 0]
        wrong = int((gap >= GREEDY_TIE).sum()) + NUM_GREEDY - len(chosen)
        report.add("greedy", entry["name"], f"{NUM_GREEDY} ids after {length}", wrong, 0)


def batch_rows(golden, **changes):
    rows = []
    for index in range(4):
        get = lambda key: golden[f"batch.{index}.{key}"].tolist()
        row = {"input_ids": get("ids"), "completion_mask": get("mask"),
               "advantage": get("advantage"), "old_logprobs": get("old"),
               "ref_logprobs": get("ref")}
        if changes.get("advantages") == "token":
            row["advantage"] = get("token_advantage")
        rows.append(row)
    return rows


def check_grad(program, golden, entry, report):
    """With advantage 1 and no old policy, bnpo's gradient is that of the mean token NLL."""
    rows = [{"input_ids": row["input_ids"], "completion_mask": row["completion_mask"],
             "advantage": 1.0} for row in batch_rows(golden)]
    answer, gradients = program.grad(CHECKPOINTS / entry["name"], rows, loss_type="bnpo")
    stored = read_tensors(CHECKPOINTS / entry["name"])
    trained = {n for n in stored if not n.startswith(("mtp.", "model.visual."))}
    report.add("grad", entry["name"], "names or shapes that differ from the checkpoint's",
               len(trained ^ set(gradients))
               + sum(g.shape != stored[n].shape for n, g in gradients.items() if n in stored), 0)
    report.add("grad", entry["name"], "loss", abs(answer["loss"] + 1), LOSS_BOUND)
    expected = golden.values["nll_grad_norm"]
    report.add("grad", entry["name"], "norm of all gradients",
               abs(answer["grad_norm"] - expected) / expected, GRADIENT_BOUND)
    gradients = canonical_tensors(gradients)
    worst, where = 0.0, ""
    for name in golden.names:
        reference = golden["nll." + name].double()
        error = (gradients[name].double() - reference).norm().item()
        share = error / max(reference.norm().item(), 1e-30)
        if not share <= worst:
            worst, where = share, name
    report.add("grad", entry["name"], short(where), worst, GRADIENT_BOUND)


def check_losses(program, golden, entry, report):
    for name, expected in golden.values["losses"].items():
        options = dict(expected["options"])
        rows = batch_rows(golden, advantages=options.pop("advantages"))
        options = {k: v for k, v in options.items() if v is not None}
        answer, gradients = program.grad(
            CHECKPOINTS / entry["name"], rows, max_completion_length=MAX_COMPLETION_LENGTH,
            **options)
        report.add("losses", entry["name"], name, abs(answer["loss"] - expected["loss"]),
                   LOSS_BOUND)
        gradients = canonical_tensors(gradients)
        worst, where = compare_samples(golden, f"loss.{name}.", gradients)
        report.add("losses", entry["name"], f"{name} {short(where)}", worst, GRADIENT_BOUND)


def check_whole(program, golden, entry, report):
    """Every element of the losses' gradients and of five AdamW steps, computed anew in float64."""
    directory = CHECKPOINTS / entry["name"]
    maker = make_goldens.Golden(entry["weights"], directory, seed=0)
    recorded = [{key: golden[f"batch.{index}.{key}"]
                 for key in ("ids", "mask", "advantage", "token_advantage", "old", "ref")}
                for index in range(4)]
    recorded = [{key: value.double() if value.is_floating_point() else value
                 for key, value in row.items()} for row in recorded]
    for name, expected in golden.values["losses"].items():
        options = dict(expected["options"])
        with Truth():
            loss = losses.grpo_loss(maker.row_losses(recorded, options), options)
            loss.backward()
        rows = batch_rows(golden, advantages=options.pop("advantages"))
        options = {k: v for k, v in options.items() if v is not None}
        answer, gradients = program.grad(directory, rows,
                                         max_completion_length=MAX_COMPLETION_LENGTH, **options)
        report.add("whole", entry["name"], name, abs(answer["loss"] - loss.item()), LOSS_BOUND)
        worst, where = compare_whole(canonical_tensors(gradients), maker.gradients())
        report.add("whole", entry["name"], f"{name} {short(where)}", worst, GRADIENT_BOUND)


def compare_whole(found, truth):
    """The worst error of a tensor, as a share of its norm, and the tensor."""
    shares = {name: ((found[name].double() - value).norm() / value.norm().clamp(min=1e-30)).item()
              for name, value in truth.items()}
    where = max(shares, key=shares.get)
    return shares[where], where


def compare_samples(golden, prefix, tensors):
    """The worst relative error of a norm or of the sampled elements, and its tensor."""
    norms, samples = golden[prefix + "norms"], golden[prefix + "samples"]
    worst, where = 0.0, ""
    for name, norm, expected in zip(golden.names, norms, samples.double()):
        values = tensors[name].reshape(-1).double()
        at = values[sample_indices(len(values), len(expected))]
        error = max(abs(values.norm() - norm).item(),
                    (at - expected).norm().item() * math.sqrt(len(values) / len(expected)))
        share = error / max(norm.item(), 1e-30)
        if not share <= worst:
            worst, where = share, name
    return worst, where


def short(name):
    return name.replace("model.layers.", "").replace(".weight", "")


def check_export(program, golden, entry, report):
    source, target = CHECKPOINTS / entry["name"], program.new_path()
    program.run("export", model=source, output_dir=target)
    before, after = read_tensors(source), read_tensors(target)
    same = before.keys() == after.keys() and all(
        before[n].dtype == after[n].dtype and torch.equal(bits(before[n]), bits(after[n]))
        for n in before)
    report.add("export", entry["name"], "tensors differ", float(not same), 0)
    report.add("export", entry["name"], "configs differ",
               float(comparable_config(source) != comparable_config(target)), 0)
    others = [p.name for p in source.iterdir()
              if "safetensors" not in p.name and p.name != "config.json"]
    wrong = sum(not (target / n).exists() or (target / n).read_bytes() != (source / n).read_bytes()
                for n in others)
    report.add("export", entry["name"], "other files differ", wrong, 0)
    dtype = getattr(torch, entry["dtype"])
    ids = torch.arange(3, 67)
    with torch.no_grad():
        first, second = (token_logprobs(load(d, dtype), ids)[0] for d in (source, target))
    report.add("export", entry["name"], "transformers loads it: logprobs",
               (first - second).abs().max().item(), 0)


def bits(tensor):
    return tensor.contiguous().reshape(-1).view(torch.uint8)


def comparable_config(directory):
    def clean(value):
        if not isinstance(value, dict):
            return value
        dropped = ("transformers_version", "ignore_keys_at_rope_validation")
        return {"dtype" if k == "torch_dtype" else k: clean(v)
                for k, v in value.items() if k not in dropped}

    return clean(json.loads((directory / "config.json").read_text()))


def check_sft(program, golden, entry, report):
    source, target = CHECKPOINTS / entry["name"], program.new_path()
    rows = (GOLDEN / "sft_rows.jsonl").read_text().splitlines()
    program.run(
        "sft", model=source, dataset=GOLDEN / "sft_rows.jsonl", output_dir=target,
        tuner_type="full", loss_scale="default", max_steps=5, learning_rate=1e-3,
        lr_scheduler_type="constant", warmup_ratio=0, weight_decay=0.1, adam_beta1=0.9,
        adam_beta2=0.95, adam_epsilon=1e-8, max_grad_norm=1.0, weight_decay_rule="transformers",
        per_device_train_batch_size=len(rows), gradient_accumulation_steps=1, logging_steps=1)
    lines = [json.loads(line) for line in (target / "logging.jsonl").read_text().splitlines()]
    got = [line["loss"] for line in lines if "loss" in line][:5]
    expected = golden.values["sft_losses"]
    error = max(abs(a - b) for a, b in zip(got, expected)) if len(got) == 5 else math.nan
    report.add("sft", entry["name"], "losses of five steps", error, LOSS_BOUND)
    before = canonical_tensors(read_tensors(source))
    after = canonical_tensors(read_tensors(target / "last"))
    change = {name: after[name].double() - before[name].double() for name in golden.names}
    worst, where = compare_whole(change, sft_change(source, rows))
    report.add("sft", entry["name"], "change: " + short(where), worst, CHANGE_BOUND)
    check_loads(program, target / "last", entry["name"], "sft", report)


def sft_change(source, rows):
    """What five AdamW steps of transformers in float64 change."""
    tokenizer = AutoTokenizer.from_pretrained(source)
    encoded = [make_goldens.encode_row(tokenizer, json.loads(row)["messages"]) for row in rows]
    model = load(source, torch.float64)
    decayed = set(Trainer.get_decay_parameter_names(None, model))
    with Truth():
        return canonical_tensors(make_goldens.adamw_steps(model, encoded, decayed)[1])


def check_loads(program, directory, name, check, report):
    """Transformers loads what the program wrote, and finds the same log-probabilities."""
    ids = torch.arange(3, 67)
    model = load(directory, torch.float64)
    with Truth(), torch.no_grad():
        truth = token_logprobs(model, ids)[0]
    got = numbers(program.score(directory, [ids])[0]["logprobs"])
    report.add(check, name, "logprobs in transformers of what was written",
               (got - truth).abs().max().item(), 2 * LOGPROB_BOUND)


def check_new_models(program, report):
    for like in FAMILIES:
        for nested in (False, True)[: 2 if "3_5" in like else 1]:
            name = f"{like}{' nested' if nested else ''}"
            target = program.new_path()
            try:
                program.run("new-model", like=like, size="tiny", torch_dtype="float32",
                            output_dir=target, **({"nested": True} if nested else {}))
                check_loads(program, target, name, "new", report)
            except ProgramError as error:
                report.fail("new", name, str(error))


def check_trained_models(program, report):
    """What `sft` and `grpo` save is a checkpoint for transformers as it stands, in each family."""
    rows = program.write_rows(
        [{"messages": [{"role": "user", "content": f"{i}+1="},
                       {"role": "assistant", "content": str(i + 1)}],
          "solution": str(i + 1)} for i in range(4)])
    for like in FAMILIES:
        nested = "3_5" in like
        for command, dtype in (("sft", "float32"), ("grpo", "float32"), ("sft", "bfloat16")):
            name = f"{like}{' nested' if nested else ''} {command} {dtype}"
            try:
                checkpoint = train_a_step(program, like, nested, command, dtype, rows)
                check_as_it_stands(checkpoint, nested, dtype, name, report)
                if dtype == "float32":
                    check_loads(program, checkpoint, name, "trained", report)
            except (ProgramError, OSError, AssertionError) as error:
                report.fail("trained", name, f"{type(error).__name__}: {error}")


def train_a_step(program, like, nested, command, dtype, rows):
    """The checkpoint of a new model's first step."""
    model, run = program.new_path(), program.new_path()
    program.run("new-model", like=like, size="tiny", torch_dtype=dtype, output_dir=model,
                **({"nested": True} if nested else {}))
    options = {"reward_funcs": "soft_overlong", "soft_cache_length": 7, "num_generations": 4,
               "max_completion_length": 8, "stop_words": ["e", "a"]} if command == "grpo" else {}
    program.run(command, model=model, dataset=rows, output_dir=run, tuner_type="full",
                max_steps=1, learning_rate=1e-3, per_device_train_batch_size=4, **options)
    return run / "checkpoint-1"


def check_as_it_stands(checkpoint, nested, dtype, name, report):
    """Every tensor finds its place, as the text model and as what config.json names, in its dtype.

    The folder is the run's own, with what a resume needs still in it.
    """
    state = checkpoint / "training_state" / "optimizer.safetensors"
    report.add("trained", name, "no training_state in it", float(not state.exists()), 0)
    for kind in (AutoModelForCausalLM, AutoModelForImageTextToText)[: 2 if nested else 1]:
        model, info = kind.from_pretrained(checkpoint, dtype="auto", output_loading_info=True)
        wrong = sum(len(info[key]) for key in ("missing_keys", "unexpected_keys",
                                               "mismatched_keys"))
        report.add("trained", name, f"wrong keys for {type(model).__name__}", wrong, 0)
        report.add("trained", name, "another dtype", float(model.dtype != getattr(torch, dtype)), 0)


def check_bf16(program, manifest, report):
    golden = Golden(GOLDEN / "bf16.safetensors")
    reference = json.loads(golden.metadata["transformers_error"])
    ours, theirs = [], []
    for entry in manifest:
        if entry["dtype"] != "bfloat16":
            continue
        rows = program.score(CHECKPOINTS / entry["name"], golden["ids"])
        got = torch.stack([numbers(row["logprobs"]) for row in rows])
        error = (got - golden["truth." + entry["name"]].double()).abs().mean().item()
        ours.append(error)
        theirs.append(min(reference[entry["name"]].values()))
        # One family may be worse than transformers; the mean over the families is what is bound.
        report.add("bf16", entry["name"], f"mean error (transformers {theirs[-1]:.4g})", error,
                   1.5 * theirs[-1])
    if ours:
        report.add("bf16", "all", "mean error over the families", sum(ours) / len(ours),
                   BF16_FACTOR * sum(theirs) / len(theirs))


def run_checks(program, manifest, checks, report):
    seen = set()
    for entry in manifest:
        float32 = entry["dtype"] == "float32"
        golden = Golden(GOLDEN / f"{entry['weights']}.safetensors") if float32 else None
        first = entry["weights"] not in seen  # the losses do not depend on the form of the file
        seen.add(entry["weights"])
        for check in checks:
            if check in OWN_CHECKS or (not float32 and check != "export"):
                continue
            if check in ("losses", "whole") and not first:
                continue
            try:
                globals()["check_" + check](program, golden, entry, report)
            except (ProgramError, KeyError, ValueError, FileNotFoundError) as error:
                report.fail(check, entry["name"], f"{type(error).__name__}: {error}")
    if "bf16" in checks:
        try:
            check_bf16(program, manifest, report)
        except ProgramError as error:
            report.fail("bf16", "all", str(error))
    if "new" in checks:
        check_new_models(program, report)
    if "trained" in checks:
        check_trained_models(program, report)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--program", default="build/bin/lockstep")
    parser.add_argument("--only", nargs="*", help="checkpoints")
    parser.add_argument("--checks", nargs="*", default=CHECKS, choices=CHECKS)
    options = parser.parse_args()
    manifest = json.loads((GOLDEN / "manifest.json").read_text())
    if options.only:
        manifest = [entry for entry in manifest if entry["name"] in options.only]
    report = Report()
    with tempfile.TemporaryDirectory() as folder:
        run_checks(Program(options.program, folder), manifest, options.checks, report)
    sys.exit(0 if report.end() else 1)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
