#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Compares our safetensors files with those of the safetensors package and transformers.

  golden FILE   writes the golden file of tests/io with the safetensors package
  check DIR     loads a checkpoint that we wrote: every shard by safetensors.torch, the index
                against the shards, and the model by transformers where there is a config.json
  events DIR    prints the scalars of our event files as TensorBoard reads them
"""
import json
import pathlib
import sys

import torch
from safetensors.torch import load_file, save_file


def golden_tensors():
    """Dtypes and shapes that tests/io/safetensors_test.cpp makes again.

    Value i of a tensor is i - 3.
    """
    def values(dtype, *shape):
        count = torch.Size(shape).numel()
        return (torch.arange(count, dtype=torch.float64) - 3).to(dtype).reshape(shape)

    return {
        "weights.f32": values(torch.float32, 2, 3),
        "weights.bf16": values(torch.bfloat16, 3, 5),
        "weights.f16": values(torch.float16, 7),
        "weights.f64": values(torch.float64, 1, 2, 1),
        "weights.f8": values(torch.float8_e4m3fn, 3),
        "ids.i64": values(torch.int64, 4),
        "ids.i32": values(torch.int32, 2, 2),
        "mask.bool": values(torch.float32, 5) > 0,
        "scalar.f32": values(torch.float32),
        "empty.f32": values(torch.float32, 0, 4),
        "name \u00e9 \"quoted\".u8": torch.arange(6, dtype=torch.uint8),
    }


def check(directory):
    directory = pathlib.Path(directory)
    index_path = directory / "model.safetensors.index.json"
    shards = sorted(directory.glob("*.safetensors"))
    tensors = {}
    for shard in shards:
        loaded = load_file(shard)
        assert not tensors.keys() & loaded.keys(), f"{shard}: tensors doubled"
        tensors.update(loaded)
    if index_path.exists():
        text = index_path.read_text()
        index = json.loads(text)
        as_written = json.dumps(index, indent=2, sort_keys=True) + "\n"
        assert text == as_written, "the index is not as transformers writes it"
        assert index["weight_map"].keys() == tensors.keys()
        assert index["metadata"]["total_size"] == sum(t.nbytes for t in tensors.values())
    print(
        f"{directory}: {len(shards)} files, {len(tensors)} tensors, "
        f"{sum(t.nbytes for t in tensors.values())} bytes")
    if (directory / "config.json").exists():
        from transformers import AutoModelForCausalLM
        model, report = AutoModelForCausalLM.from_pretrained(directory, output_loading_info=True)
        print(type(model).__name__, {key: sorted(value) for key, value in report.items() if value})


def events(directory):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    accumulator = EventAccumulator(directory).Reload()
    for tag in accumulator.Tags()["scalars"] + accumulator.Tags()["tensors"]:
        for event in accumulator.Scalars(tag):
            print(tag, event.step, event.value)


if __name__ == "__main__":
    command, path = sys.argv[1:]
    if command == "golden":
        save_file(golden_tensors(), path, metadata={"format": "pt"})
    else:
        {"check": check, "events": events}[command](path)
