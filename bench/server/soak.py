# SPDX-License-Identifier: Apache-2.0
"""A server under load that real clients make: many connections, lengths of all sizes, and clients
that leave in the middle. What it answered must be what it answers when it is idle."""

import asyncio
import random
import statistics
import time

from client import ask, ask_together, call, metrics_of

IN_USE = ("vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc",
          "lockstep:state_slots_in_use")


class Lengths:
    """How long the prompts and completions of a load are: 2 to a power between two bounds."""

    def __init__(self, prompt, completion):
        self.bounds = {"prompt": prompt, "completion": completion}

    def draw(self, letters, name):
        return int(2 ** letters.uniform(*self.bounds[name]))


MIXED = Lengths(prompt=(0, 9), completion=(0, 7.5))
# Sequences that grow far beyond what they were admitted with. Where each holds a state besides its
# pages, the states bound how many run at once, and only long ones run out of pages.
GROWING = Lengths(prompt=(0, 7), completion=(6, 9))
GROWING_LONG = Lengths(prompt=(0, 7), completion=(9, 10.5))
COUNTS = (1, 1, 1, 2, 3)


def random_request(letters, seed, lengths):
    """A request whose answer is a function of itself: it has a seed."""
    body = {"prompt": [letters.randint(300, 1900) for _ in range(lengths.draw(letters, "prompt"))],
            "max_tokens": lengths.draw(letters, "completion"), "seed": seed, "logprobs": 0,
            "return_token_ids": True, "n": letters.choice(COUNTS),
            "stream": letters.random() < 0.7}
    if letters.random() < 0.3:
        body |= {"temperature": 0.7, "top_p": 0.9, "top_k": 50}
    return body


def load_bytes(config, connections, lengths, page_tokens=64):
    """What all sequences of the connections take together when they have come to their ends, on
    average. `config`: the model's config.json."""
    letters = random.Random(0)
    kinds = config.get("layer_types", ["full_attention"] * config["num_hidden_layers"])
    attention = sum(kind == "full_attention" for kind in kinds)
    page = attention * 2 * config["num_key_value_heads"] * config["head_dim"] * 2 * page_tokens
    state = 0
    if attention < len(kinds):  # float32
        state = 4 * (len(kinds) - attention) * config["linear_num_value_heads"] * (
            config["linear_key_head_dim"] * config["linear_value_head_dim"])
    sequence = statistics.mean(
        -(-(lengths.draw(letters, "prompt") + lengths.draw(letters, "completion")) // page_tokens)
        * page + state for _ in range(10000))
    return int(connections * statistics.mean(COUNTS) * sequence)


async def client(url, letters, end, lengths, done):
    while time.monotonic() < end:
        body = random_request(letters, len(done), lengths)
        cut = letters.uniform(0, 3) if letters.random() < 0.2 else None
        done.append((body, await ask(url, "/v1/completions", body, cut)))


async def load(url, connections, seconds, lengths, watch):
    done, end = [], time.monotonic() + seconds
    tasks = [asyncio.create_task(client(url, random.Random(i), end, lengths, done))
             for i in range(connections)]
    while not all(task.done() for task in tasks):
        watch()
        await asyncio.sleep(1)
    await asyncio.gather(*tasks)
    return done


def same(a, b):
    keys = ("ids", "logprobs", "finish")
    return [[choice[k] for k in keys] for choice in a.choices()] == [
        [choice[k] for k in keys] for choice in b.choices()]


def wait_for_rest(url, seconds=30):
    """Until nothing runs; the values that are not zero then."""
    end = time.monotonic() + seconds
    while True:
        values = metrics_of(url)
        left = {name: values[name] for name in IN_USE if values.get(name)}
        if not left or time.monotonic() > end:
            return left, values
        time.sleep(0.2)


def faults_of(done):
    """What was wrong in answers that were waited for."""
    faults = []
    for body, answer in done:
        if answer.is_cut:
            continue
        answer.read()
        wrong = answer.status != 200 or (body["stream"] and not answer.is_whole)
        if wrong or len(answer.choices()) != body["n"]:
            faults.append((answer.status, answer.events[-1:] or answer.pieces[-1:]))
    return faults


def soak(server, options, lengths, must_preempt=False):
    """Prints what was seen; whether all is well."""
    memory = []
    begin = metrics_of(server.url)
    done = asyncio.run(load(server.url, options.connections, options.seconds, lengths,
                            lambda: memory.append(server.resident_mb())))
    left, values = wait_for_rest(server.url)
    memory.append(server.resident_mb())
    faults = faults_of(done)
    whole = [(body, answer) for body, answer in done if not answer.is_cut]
    call(server.url, "POST", "/reset_prefix_cache")
    chosen = random.Random(1).sample(whole, min(options.checked, len(whole)))
    different = sum(not same(answer, ask_together(server.url, "/v1/completions", [body])[0])
                    for body, answer in chosen if answer.status == 200)
    middle = max(memory[:len(memory) // 2])
    growth = max(memory[len(memory) // 2:]) / middle - 1
    tokens = values["vllm:generation_tokens_total"] - begin["vllm:generation_tokens_total"]
    preemptions = values.get("vllm:num_preemptions_total", 0)
    print(f"  {len(done)} requests, {len(done) - len(whole)} of them left by their client; "
          f"{tokens:.0f} tokens, {preemptions:.0f} preemptions")
    print(f"  {len(faults)} errors {faults[:3] if faults else ''}")
    print(f"  {different} of {len(chosen)} answers differ from those of the idle server")
    print(f"  in use at the end: {left or 'nothing'}; memory {memory[0]:.0f} MB at first, "
          f"{middle:.0f} in the first half at most, {100 * growth:+.1f} % in the second")
    well = not faults and not different and not left and growth < 0.05
    return well and (preemptions > 0 or not must_preempt)
