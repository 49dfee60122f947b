# SPDX-License-Identifier: Apache-2.0
"""A server under load that real clients make: many connections, lengths of all sizes, and clients
that leave in the middle. What it answered must be what it answers when it is idle."""

import asyncio
import random
import time

from client import ask, ask_together, call, metrics_of

# Of the answers under load, how many are asked for once more.
CHECKED = 200
IN_USE = ("vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc",
          "lockstep:state_slots_in_use")


def random_request(letters, seed):
    """A request whose answer is a function of itself: it has a seed."""
    body = {"prompt": [letters.randint(300, 1900) for _ in range(int(2 ** letters.uniform(0, 9)))],
            "max_tokens": int(2 ** letters.uniform(0, 7.5)), "seed": seed, "logprobs": 0,
            "return_token_ids": True, "n": letters.choice((1, 1, 1, 2, 3)),
            "stream": letters.random() < 0.7}
    if letters.random() < 0.3:
        body |= {"temperature": 0.7, "top_p": 0.9, "top_k": 50}
    return body


async def client(url, letters, end, done):
    while time.monotonic() < end:
        body = random_request(letters, len(done))
        cut = letters.uniform(0, 3) if letters.random() < 0.2 else None
        done.append((body, await ask(url, "/v1/completions", body, cut)))


async def load(url, connections, seconds, watch):
    done, end = [], time.monotonic() + seconds
    tasks = [asyncio.create_task(client(url, random.Random(i), end, done))
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


def soak(server, options):
    """Prints what was seen; whether all is well."""
    memory = []
    begin = metrics_of(server.url)
    done = asyncio.run(load(server.url, options.connections, options.seconds,
                            lambda: memory.append(server.resident_mb())))
    left, values = wait_for_rest(server.url)
    memory.append(server.resident_mb())
    faults = faults_of(done)
    whole = [(body, answer) for body, answer in done if not answer.is_cut]
    call(server.url, "POST", "/reset_prefix_cache")
    chosen = random.Random(1).sample(whole, min(CHECKED, len(whole)))
    different = sum(not same(answer, ask_together(server.url, "/v1/completions", [body])[0])
                    for body, answer in chosen if answer.status == 200)
    middle = max(memory[:len(memory) // 2])
    growth = max(memory[len(memory) // 2:]) / middle - 1
    tokens = values["vllm:generation_tokens_total"] - begin["vllm:generation_tokens_total"]
    print(f"  {len(done)} requests, {len(done) - len(whole)} of them left by their client; "
          f"{tokens:.0f} tokens, {values.get('vllm:num_preemptions_total', 0):.0f} preemptions")
    print(f"  {len(faults)} errors {faults[:3] if faults else ''}")
    print(f"  {different} of {len(chosen)} answers differ from those of the idle server")
    print(f"  in use at the end: {left or 'nothing'}; memory {memory[0]:.0f} MB at first, "
          f"{middle:.0f} in the first half at most, {100 * growth:+.1f} % in the second")
    return not faults and not different and not left and growth < 0.05
