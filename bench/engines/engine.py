# SPDX-License-Identifier: Apache-2.0
"""The other side of bench/engines/run.py: greedy decoding by one engine, in a process of its own.

    engine.py TASK      a JSON file: engine, model, dtype, threads, prompts, batches, new_tokens,
                        repeats

Prints one JSON line: the seconds of each run for each batch size, or why the engine cannot do it.
"""

import json
import sys
import time


def openvino(task):
    """OpenVINO GenAI's continuous batching."""
    import numpy
    import openvino
    import openvino_genai

    scheduler = openvino_genai.SchedulerConfig()
    scheduler.cache_size = 4
    scheduler.max_num_seqs = max(task["batches"])
    scheduler.max_num_batched_tokens = 4096
    scheduler.enable_prefix_caching = False
    # Without instructions for bfloat16 it has no bfloat16 cache, and computes in float32 whatever
    # it is told.
    has_bfloat16 = "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    precision = "bf16" if task["dtype"] == "bfloat16" and has_bfloat16 else "f32"
    pipeline = openvino_genai.ContinuousBatchingPipeline(
        task["model"], scheduler_config=scheduler, device="CPU",
        properties={"INFERENCE_PRECISION_HINT": precision, "KV_CACHE_PRECISION": precision,
                    "INFERENCE_NUM_THREADS": task["threads"]})
    config = openvino_genai.GenerationConfig()
    config.max_new_tokens = config.min_new_tokens = task["new_tokens"]
    config.ignore_eos = True

    def generate(prompts):
        ids = [openvino.Tensor(numpy.array([prompt], dtype=numpy.int64)) for prompt in prompts]
        found = pipeline.generate(ids, [config] * len(ids))
        return [len(result.m_generation_ids[0]) for result in found]

    return generate


def ctranslate2(task):
    import ctranslate2 as engine

    if task["dtype"] not in engine.get_supported_compute_types("cpu"):
        raise NotImplementedError("no such precision on this processor")
    generator = engine.Generator(task["model"], device="cpu", compute_type=task["dtype"],
                                 intra_threads=task["threads"], inter_threads=1)
    words = json.load(open(task["model"] + "/vocabulary.json"))

    def generate(prompts):
        found = generator.generate_batch(
            [[words[i] for i in prompt] for prompt in prompts], max_length=task["new_tokens"],
            min_length=task["new_tokens"], sampling_topk=1, include_prompt_in_result=False,
            max_batch_size=len(prompts))
        return [len(result.sequences_ids[0]) for result in found]

    return generate


def transformers(task):
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(task["threads"])
    model = AutoModelForCausalLM.from_pretrained(
        task["model"], dtype=getattr(torch, task["dtype"])).eval()

    @torch.no_grad()
    def generate(prompts):
        ids = torch.tensor(prompts)
        out = model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, pad_token_id=0,
            min_new_tokens=task["new_tokens"], max_new_tokens=task["new_tokens"])
        return [out.shape[1] - ids.shape[1]] * len(prompts)

    return generate


def main(task):
    engines = {f.__name__: f for f in (openvino, ctranslate2, transformers)}
    try:
        generate = engines[task["engine"]](task)
    except NotImplementedError as reason:
        return {"refused": str(reason)}
    seconds = {}
    for batch in task["batches"]:
        times = []
        for _ in range(task["repeats"] + 1):  # the first warms up
            start = time.perf_counter()
            lengths = generate(task["prompts"][:batch])
            times.append(time.perf_counter() - start)
            assert lengths == [task["new_tokens"]] * batch, lengths
        seconds[str(batch)] = times[1:]
    return {"seconds": seconds}


if __name__ == "__main__":
    print("\n" + json.dumps(main(json.load(open(sys.argv[1])))))
