# SPDX-License-Identifier: Apache-2.0
"""Writes run directories whose every number follows from its step."""
import json
import math

PROMPTS = ["What is 1 + 1?", "What is 2 + 3?", "Add 4 and 5.", "Sum: 6, 7"]
# What a model may write to break out of a page.
HOSTILE = "</script><script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'>"


def reward(step, steps, shift=0.0):
    return round(1 - math.exp(-4 * step / steps) + 0.05 * math.sin(step * 0.7) + shift, 6)


def line(step, steps, shift):
    value = reward(step, steps, shift)
    return {
        "loss": 0.01 / step, "reward": value, "reward_std": 0.4 / (1 + 3 * step / steps),
        "rewards/MathAccuracy/mean": value, "rewards/accuracy/mean": value,
        "rewards/format/mean": 0.5, "frac_reward_zero_std": step / steps,
        "completions/mean_length": 20 + 10 * math.cos(step / steps),
        "completions/min_length": 5, "completions/max_length": 40,
        "completions/clipped_ratio": 0.02, "kl": 0.001 * step / steps,
        "entropy/mean": 1.5 - step / steps, "entropy/max": 2.0, "entropy/min": 0.1,
        "clip_ratio/low_mean": 0.0, "clip_ratio/high_mean": 0.0, "clip_ratio/region_mean": 0.0,
        "train/sampler_logprob_max_diff": 0.0, "grad_norm": 1 + math.sin(step),
        "learning_rate": 1e-5 * (1 - step / steps), "num_tokens": 1000 * step,
        "tokens_per_second": 3000 + 10 * math.sin(step), "step_time": 0.5,
        "time/rollout": 0.3, "time/reward": 0.05, "time/train": 0.15,
        "fipo/future_kl_mean": 0.25, "fipo/safety_keep_ratio": 0.75, "own_metric": 7.0,
        "rollout_correction/kl": "nan" if step == 2 else 0.125,
        "epoch": step / steps, "elapsed_time": f"{step}s", "remaining_time": f"{steps - step}s",
        "memory(GiB)": 1.5, "train_speed(s/it)": 0.5, "global_step/max_steps": f"{step}/{steps}"}


def round_line(step, most):
    """A round of sampling: two prompts, four completions each."""
    columns = {name: [] for name in ("step", "prompt", "completion", "MathAccuracy", "advantages",
                                     "solution", "finish_reason", "token_ids")}
    for which in (0, 1):
        prompt = PROMPTS[(step + which) % len(PROMPTS)]
        for i in range(4):
            length = 1 + (step + 7 * i) % most
            answer = HOSTILE if step == 1 and i == 0 else f"answer {i} of step {step}"
            for name, value in (("step", str(step)), ("completion", answer),
                                ("prompt", f"<|im_start|>user\n{prompt}<|im_end|>\n"),
                                ("MathAccuracy", i % 2), ("advantages", i - 1.5),
                                ("solution", "42"), ("token_ids", list(range(length))),
                                ("finish_reason", "length" if length == most else "stop")):
                columns[name].append(value)
    return columns


def write(folder, steps, shift=0.0, is_over=True, first=1, **settings):
    """Logs steps from `first` on, an evaluation twenty times, and all rounds of sampling."""
    folder.mkdir(parents=True, exist_ok=True)
    last = steps if is_over else steps // 2
    with open(folder / "logging.jsonl", "a") as log, \
            open(folder / "completions.jsonl", "a") as completions:
        for step in range(first, last + 1):
            log.write(json.dumps(line(step, steps, shift)) + "\n")
            if step % max(1, steps // 10) == 0:
                value = reward(step, steps, shift) - 0.1
                log.write(json.dumps({"eval_reward": value, "eval_runtime": 0.5,
                                      "global_step/max_steps": f"{step}/{steps}"}) + "\n")
            completions.write(json.dumps(round_line(step, 32)) + "\n")
        if is_over:
            log.write(json.dumps({"last_model_checkpoint": None, "global_step": steps,
                                  "max_steps": steps, "train_runtime": 3725.0}) + "\n")
    known = {"model": "tiny", "beta": 0.04, "learning_rate": 1e-5, "report_to": ["none"],
             **settings}
    (folder / "args.json").write_text(json.dumps(known))
