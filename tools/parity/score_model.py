#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Holds reward models of grpo against transformers.

A small classifier of random weights is written by transformers, two labels wide, and judges the
completions of a step of `lockstep grpo`. Each value is the first logit that transformers gives to
the same conversation, within 1e-5.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

import torch
import transformers

FAMILIES = {"qwen3": ["Qwen3ForSequenceClassification"],
            "qwen3_moe": ["Qwen3MoeForSequenceClassification"],
            "qwen3_5": ["Qwen3_5TextForSequenceClassification"]}


def run(program, *arguments):
    command = [program, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"expected exit code 0 of {command}, got {done.returncode}: {done.stderr}")
    return done.stderr


def write_classifier(base, folder, class_name):
    """A classifier beside the tokenizer and the template of a model."""
    config = transformers.AutoConfig.from_pretrained(base)
    config.num_labels = 2
    config.pad_token_id = 0
    torch.manual_seed(11)
    model = getattr(transformers, class_name)(config).float().eval()
    with torch.no_grad():
        # Weights of the usual size would give logits near zero.
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                parameter.mul_(4)
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (folder / name).write_bytes((base / name).read_bytes())
    return model


def expected_values(model, folder, prompts, completions):
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    values = []
    for prompt, completion in zip(prompts, completions):
        messages = [dict(role="user", content=prompt), dict(role="assistant", content=completion)]
        text = tokenizer.apply_chat_template(messages, tokenize=False)
        ids = tokenizer(text, add_special_tokens=False, return_tensors="pt")
        with torch.no_grad():
            values.append(model(**ids).logits[0, 0].item())
    return values


def compare(program, family, class_name, folder):
    base, judge = folder / "model", folder / "judge"
    run(program, "new-model", "--like", family, "--size", "tiny", "--output_dir", base)
    model = write_classifier(base, judge, class_name)
    prompts = [f"What is {a} + {b}?" for a, b in [(1, 2), (30, 4), (5, 66), (7, 8)]]
    rows = [dict(messages=[dict(role="user", content=prompt)]) for prompt in prompts]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    run(program, "grpo", "--model", base, "--tuner_type", "full", "--dataset",
        folder / "rows.jsonl", "--reward_model", judge, "--num_generations", 4,
        "--per_device_train_batch_size", 16, "--max_completion_length", 24, "--max_steps", 1,
        "--beta", 0, "--save_strategy", "no", "--stop_words", "e", "a", "--threads", 2,
        "--output_dir", folder / "run", "--dataset_shuffle", "false")
    line = json.loads((folder / "run" / "completions.jsonl").read_text().splitlines()[0])
    asked = [prompt for prompt in prompts for _ in range(4)]
    found = line["judge"]
    expected = expected_values(model, judge, asked, line["completion"])
    worst = max(abs(one - other) / max(1, abs(other)) for one, other in zip(found, expected))
    spread = max(expected) - min(expected)
    print(f"{family}: {len(found)} values between {min(expected):.4f} and {max(expected):.4f}, "
          f"largest difference {worst:.2e}")
    return len(found) == len(expected) == 16 and worst < 1e-5 and spread > 0.01


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--program", required=True)
    arguments = parser.parse_args()
    good = True
    for family, classes in FAMILIES.items():
        for class_name in classes:
            with tempfile.TemporaryDirectory() as folder:
                good &= compare(arguments.program, family, class_name, pathlib.Path(folder))
    return 0 if good else 1


if __name__ == "__main__":
    raise SystemExit(main())
