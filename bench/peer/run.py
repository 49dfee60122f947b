# SPDX-License-Identifier: Apache-2.0
"""The same GRPO work on TRL and on Lockstep in one call: ratios of time and of peak memory.

    python bench/peer/run.py --program build/bin/lockstep [--shapes 10m] [--repeats 3]

For each shape of shapes.json, both sides in turn load the checkpoint that `lockstep new-model`
wrote and run GRPO steps of prompts x completions x new tokens (beta 0, no activation checkpointing,
no top-k; a completion may end early on both sides alike), then decode a batch without training.
Shapes with "lora" train that adapter (the keys are those of PEFT's LoraConfig) and do not decode.
A run during which other processes used more than 5 % of the machine is discarded and repeated.
Needs the Python environment of tools/golden (torch, transformers, trl).
"""

import argparse
import functools
import json
import os
import pathlib
import random
import statistics
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
from child import Run, append_lines, undisturbed  # noqa: E402

DECODE_LENGTHS = (8, 72)
# Our own step in another way: the ratio that compares it, the name of the side, and its flags.
VARIANTS = {"sharing": ("unshared", {"share_prompts": False}),
            "exact": ("inexact", {"exact": False})}


class Bench:
    def __init__(self, options, settings, folder):
        self.options, self.settings, self.folder = options, settings, pathlib.Path(folder)
        self.environment = {"OMP_NUM_THREADS": str(options.threads), "HF_HUB_OFFLINE": "1",
                            "TOKENIZERS_PARALLELISM": "false"}
        self.count = 0

    def prompts(self, shape):
        return shape.get("prompts", self.settings["prompts"])

    def new_path(self, name=""):
        self.count += 1
        return self.folder / f"{self.count}{name}"

    def lockstep(self, command, watched=None, **flags):
        words = [self.options.program, command]
        for name, value in flags.items():
            values = value if isinstance(value, list) else [value]
            words += ["--" + name] + [str(one).lower() if isinstance(one, bool) else str(one)
                                      for one in values]
        words += ["--threads", str(self.options.threads)] if command != "new-model" else []
        return Run(words, self.environment, watched)

    def peer(self, **task):
        task = {k: str(v) if isinstance(v, pathlib.Path) else v for k, v in task.items()}
        run = Run([sys.executable, HERE / "peer.py",
                   json.dumps(task | {"threads": self.options.threads})], self.environment)
        run.answer = json.loads(run.out.splitlines()[-1])
        return run

    def make_model(self, shape):
        if self.options.program is None:  # the peer alone, on a model of the proposed sizes
            return make_peer_model(shape, self.settings, self.new_path("-model"))
        model = self.new_path("-model")
        self.lockstep("new-model", like=shape["like"], size=shape["size"],
                      torch_dtype=shape["torch_dtype"], output_dir=model)
        return model

    def make_rows(self, model, prompt_tokens):
        """Conversations of about prompt_tokens tokens, and rows of exactly as many ids."""
        vocab = json.loads((model / "config.json").read_text())["vocab_size"]
        letters = random.Random(7)
        dataset, ids = self.new_path(".jsonl"), self.new_path(".jsonl")
        rows = []
        for _ in range(self.settings["prompts"] * 64):
            words = " ".join(str(letters.randint(0, 9)) for _ in range((prompt_tokens - 16) // 2))
            rows.append({"messages": [{"role": "user", "content": "Last digit: " + words}],
                         "solution": words[-1]})
        dataset.write_text("".join(json.dumps(row) + "\n" for row in rows))
        ids.write_text("".join(
            json.dumps({"input_ids": [letters.randint(3, vocab // 2)
                                      for _ in range(prompt_tokens)]}) + "\n"
            for _ in range(self.settings["decode_batch"])))
        return dataset, ids

    def lockstep_step(self, shape, model, dataset, **flags):
        output = self.new_path("-run")
        batch = self.prompts(shape) * self.settings["completions"]
        run = self.lockstep(
            "grpo", watched=output / "logging.jsonl", model=model, dataset=dataset,
            reward_funcs="accuracy", output_dir=output, **tuner_flags(shape),
            num_generations=self.settings["completions"], per_device_train_batch_size=batch,
            gradient_accumulation_steps=1, max_completion_length=self.settings["new_tokens"],
            temperature=1.0, beta=0, loss_type="grpo", gradient_checkpointing=False,
            max_steps=self.options.steps + 1, logging_steps=1, save_strategy="no",
            learning_rate=1e-6, torch_dtype=shape["torch_dtype"], **flags)
        stamps = run.stamps[: self.options.steps + 1]
        seconds = [b - a for a, b in zip(stamps, stamps[1:])]
        return (statistics.median(seconds), run.peak_mb), [run]

    def peer_step(self, shape, model, dataset):
        run = self.peer(
            kind="step", model=model, dataset=dataset, output_dir=self.new_path("-trl"),
            steps=self.options.steps + 1, torch_dtype=shape["torch_dtype"],
            prompts=self.prompts(shape), completions=self.settings["completions"],
            new_tokens=self.settings["new_tokens"], lora=shape.get("lora"))
        seconds = run.answer["seconds"][1:]
        return (statistics.median(seconds), run.peak_mb), [run]

    def decode_rate(self, seconds):
        tokens = self.settings["decode_batch"] * (DECODE_LENGTHS[1] - DECODE_LENGTHS[0])
        return tokens / (seconds[1] - seconds[0])

    def lockstep_decode(self, shape, model, ids):
        runs = [self.lockstep("infer", model=model, dataset=ids, result_path=self.new_path(),
                              max_new_tokens=length, temperature=1.0, ignore_eos=True,
                              torch_dtype=shape["torch_dtype"]) for length in DECODE_LENGTHS]
        return self.decode_rate([run.wall for run in runs]), runs

    def peer_decode(self, shape, model, ids):
        run = self.peer(kind="decode", model=model, ids=ids, lengths=DECODE_LENGTHS,
                        torch_dtype=shape["torch_dtype"])
        return self.decode_rate(run.answer["seconds"]), [run]

    def measure(self, shape):
        model = self.make_model(shape)
        dataset, ids = self.make_rows(
            model, shape.get("prompt_tokens", self.settings["prompt_tokens"]))
        sides = ["peer"] if self.options.program is None else ["lockstep", "peer"]
        rates = {side: [] for side in ([] if "lora" in shape else sides)}
        steps = {"lockstep": self.lockstep_step, "peer": self.peer_step}
        if self.options.program is not None:
            for ratio, (side, flags) in VARIANTS.items():
                if ratio in shape["least_ratio"]:
                    sides.append(side)
                    steps[side] = functools.partial(self.lockstep_step, **flags)
        decodes = {"lockstep": self.lockstep_decode, "peer": self.peer_decode}
        found = {side: [] for side in sides}
        disturbed = False
        for _ in range(self.options.repeats):
            for side in sides:  # in turn, so that slow drifts of the machine meet both
                value, was = undisturbed(
                    lambda: steps[side](shape, model, dataset), self.options.tries)
                found[side].append(value)
                disturbed |= was
                if side not in rates:
                    continue
                value, was = undisturbed(
                    lambda: decodes[side](shape, model, ids), self.options.tries)
                rates[side].append(value)
                disturbed |= was
        return summary(shape, found, rates, disturbed)


def tuner_flags(shape):
    """What LoraConfig calls r is --lora_rank; the other names are the same."""
    if "lora" not in shape:
        return {"tuner_type": "full"}
    names = {"r": "lora_rank"}
    return {"tuner_type": "lora", "lora_dropout": 0} | {
        names.get(name, name): value for name, value in shape["lora"].items()}


def make_peer_model(shape, settings, path):
    """A model of the proposed sizes, made by transformers, for trying the peer's side alone."""
    import transformers

    sys.path.insert(0, str(HERE.parents[1] / "tools" / "golden"))
    from golden_tokenizer import write_tokenizer

    name = {"qwen3": "Qwen3", "qwen3_5": "Qwen3_5"}[shape["like"]]
    config = getattr(transformers, name + ("TextConfig" if "3_5" in name else "Config"))
    values = settings["models"][f"{shape['like']}-{shape['size']}"]
    model = getattr(transformers, name + "ForCausalLM")(config(**values, eos_token_id=256))
    print(f"    {model.num_parameters() / 1e6:.1f} M parameters")
    import torch

    model.to(getattr(torch, shape["torch_dtype"])).save_pretrained(path)
    write_tokenizer(path)
    return path


def summary(shape, steps, rates, disturbed):
    middle = {side: (statistics.median(s for s, _ in found), statistics.median(m for _, m in found))
              for side, found in steps.items()}
    rate = {side: statistics.median(found) for side, found in rates.items()}
    result = {"shape": shape["name"], "disturbed": disturbed, "step_seconds": {},
              "peak_mb": {}, "decode_tokens_per_second": rate}
    for side, (seconds, memory) in middle.items():
        result["step_seconds"][side], result["peak_mb"][side] = seconds, memory
    if "lockstep" in middle:
        least = shape["least_ratio"]
        ratios = {"step": middle["peer"][0] / middle["lockstep"][0],
                  "memory": middle["peer"][1] / middle["lockstep"][1]}
        if rate:
            ratios["decode"] = rate["lockstep"] / rate["peer"]
        for ratio, (side, _) in VARIANTS.items():
            if side in middle:
                ratios[ratio] = middle[side][0] / middle["lockstep"][0]
        result["ratios"] = ratios
        result["missed"] = [kind for kind, value in ratios.items()
                            if value < least.get(kind, 1.0 if kind == "memory" else 0.0)]
    return result


def show(result):
    print(f"{result['shape']}{'  (disturbed: not to be quoted)' if result['disturbed'] else ''}")
    for side in result["step_seconds"]:
        rate = result["decode_tokens_per_second"].get(side)
        decode = f"decode {rate:8.0f} tokens/s" if rate else " " * 24
        print(f"  {side:9} step {result['step_seconds'][side]:8.2f} s   {decode}   peak "
              f"{result['peak_mb'][side]:7.0f} MB")
    if "ratios" in result:
        ratios = "   ".join(f"{kind} {value:.2f}" for kind, value in result["ratios"].items())
        verdict = "missed: " + ", ".join(result["missed"]) if result["missed"] else "all reached"
        print(f"  ratios    {ratios}   {verdict}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--program", help="the built program; without it the peer runs alone")
    parser.add_argument("--shapes", nargs="*", default=[""], help="parts of names of shapes")
    parser.add_argument("--settings", default=HERE / "shapes.json")
    parser.add_argument("--steps", type=int, default=3, help="timed steps a run, after the first")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--tries", type=int, default=3, help="runs until one is undisturbed")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--output", help="file for the results, JSON lines")
    options = parser.parse_args()
    settings = json.loads(pathlib.Path(options.settings).read_text())
    missed = False
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(options, settings, folder)
        for shape in settings["shapes"]:
            if not any(part in shape["name"] for part in options.shapes):
                continue
            result = bench.measure(shape)
            show(result)
            missed |= bool(result.get("missed"))
            append_lines([result], options.output)
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
