# SPDX-License-Identifier: Apache-2.0
"""The other side of bench/peer/run.py: TRL's GRPOTrainer and transformers' generate.

Runs in a process of its own, so that its peak memory is its own. Prints one JSON line.
"""

import json
import re
import sys
import time

import torch


def last_number_is(completions, solution, **_):
    """The accuracy reward: 1 where the last number of the completion is the solution."""
    scores = []
    for completion, expected in zip(completions, solution):
        numbers = re.findall(r"\d+", completion[-1]["content"])
        scores.append(float(bool(numbers) and numbers[-1] == expected))
    return scores


def steps(task):
    """Seconds of each optimizer step of GRPO, and of generating in it."""
    from datasets import Dataset
    from transformers import AutoTokenizer, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    class Clock(TrainerCallback):
        seconds = []

        def on_step_begin(self, *_, **__):
            self.start = time.perf_counter()

        def on_step_end(self, *_, **__):
            self.seconds.append(time.perf_counter() - self.start)

    rows = [json.loads(line) for line in open(task["dataset"])]
    data = Dataset.from_list(
        [{"prompt": row["messages"], "solution": row["solution"]} for row in rows])
    batch = task["prompts"] * task["completions"]
    config = GRPOConfig(
        output_dir=task["output_dir"], use_cpu=True, bf16=False, report_to="none",
        save_strategy="no", logging_steps=1, max_steps=task["steps"], learning_rate=1e-6,
        per_device_train_batch_size=batch, gradient_accumulation_steps=1,
        num_generations=task["completions"], max_completion_length=task["new_tokens"],
        temperature=1.0, top_k=0, top_p=1.0, beta=0.0, loss_type="grpo", num_iterations=1,
        gradient_checkpointing=False, dataloader_pin_memory=False,
        model_init_kwargs={"dtype": task["torch_dtype"]})
    adapter = None
    if task.get("lora"):
        from peft import LoraConfig

        # PEFT takes experts with a dropout of 0 alone.
        adapter = LoraConfig(task_type="CAUSAL_LM", lora_dropout=0.0, **task["lora"])
    trainer = GRPOTrainer(
        model=task["model"], args=config, train_dataset=data, reward_funcs=last_number_is,
        processing_class=AutoTokenizer.from_pretrained(task["model"]), callbacks=[Clock()],
        peft_config=adapter)
    generate, generating = trainer._generate_and_score_completions, []

    def timed(inputs):
        start = time.perf_counter()
        result = generate(inputs)
        generating.append(time.perf_counter() - start)
        return result

    trainer._generate_and_score_completions = timed
    trainer.train()
    lengths = [entry["completions/mean_length"] for entry in trainer.state.log_history
               if "completions/mean_length" in entry]
    return {"seconds": Clock.seconds, "generating": generating, "mean_length": lengths}


@torch.no_grad()
def decode(task):
    """Seconds of generate for a short and a long completion: the difference is decoding alone."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(
        task["model"], dtype=getattr(torch, task["torch_dtype"])).eval()
    prompts = torch.tensor([json.loads(line)["input_ids"] for line in open(task["ids"])])
    seconds = {}
    for _ in range(2):  # the first round warms up
        for length in task["lengths"]:
            start = time.perf_counter()
            out = model.generate(
                prompts, attention_mask=torch.ones_like(prompts), do_sample=True, temperature=1.0,
                top_k=0, top_p=1.0, min_new_tokens=length, max_new_tokens=length,
                pad_token_id=model.config.get_text_config().eos_token_id or 0)
            seconds[length] = time.perf_counter() - start
            assert out.shape[1] == prompts.shape[1] + length
    return {"seconds": [seconds[length] for length in task["lengths"]]}


if __name__ == "__main__":
    todo = json.loads(sys.argv[1])
    torch.set_num_threads(todo["threads"])
    print("\n" + json.dumps({"step": steps, "decode": decode}[todo["kind"]](todo)))
