#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What updates of the weights cost those who sample meanwhile.

    update.py --program lockstep --model FOLDER [--seconds 6] [--rounds 5] [--streams 8]

Streams decode on `lockstep rollout --threads 1`. Their rate is taken with nothing beside them and
while updates are staged one after another (verified and loaded, never finished), in turn. Then
updates are committed, and the longest gap between two tokens of a stream around a commit is
compared with the median gap: with requests that go on from their caches
(/pause?mode=keep&clear_cache=false before, /resume behind). Needs torch, safetensors and xxhash.
"""

import argparse
import asyncio
import json
import pathlib
import statistics
import subprocess
import sys
import threading
import time

from safetensors.torch import load_file

from client import ask, call, metrics_of

sys.path.append(str(pathlib.Path(__file__).resolve().parents[2] / "tools" / "parity"))
from weight_block import WeightBlock  # noqa: E402


def started(program, model):
    """A server that is ready, and its URL."""
    server = subprocess.Popen(
        [program, "rollout", "--model", model, "--port", "0", "--threads", "1"],
        stderr=subprocess.PIPE, text=True)
    for line in server.stderr:
        if "ready at " in line:
            threading.Thread(target=server.stderr.read, daemon=True).start()
            return server, line.split("ready at ")[1].split(",")[0]
    raise RuntimeError("the server did not start")


def post(url, path, body=None):
    status, answer = call(url, "POST", path, {} if body is None else body)
    if status != 200:
        raise RuntimeError(f"{path}: {status} {answer}")


def generated(url):
    return metrics_of(url)["vllm:generation_tokens_total"]


def rate(url, seconds, beside=None):
    begin, count = time.perf_counter(), generated(url)
    end, updates = begin + seconds, 0
    while time.perf_counter() < end:
        if beside:
            beside()
            updates += 1
        else:
            time.sleep(0.05)
    return (generated(url) - count) / (time.perf_counter() - begin), updates


def decode_for_ever(url, streams, stop):
    async def one(number):
        while not stop.is_set():
            await ask(url, "/v1/completions",
                      {"prompt": [300 + number] * 16, "max_tokens": 400, "ignore_eos": True,
                       "seed": number})

    async def all_of_them():
        await asyncio.gather(*[one(number) for number in range(streams)])

    thread = threading.Thread(target=lambda: asyncio.run(all_of_them()), daemon=True)
    thread.start()
    return thread


def gaps_around_commits(url, info, commits):
    """The gaps of one stream, and for each commit the largest that it lies in."""
    answer = {}

    async def stream():
        answer["it"] = await ask(url, "/v1/completions",
                                 {"prompt": [7] * 16, "max_tokens": 1500, "ignore_eos": True,
                                  "seed": 1, "stream": True, "logprobs": 0})

    thread = threading.Thread(target=lambda: asyncio.run(stream()))
    thread.start()
    time.sleep(1)
    spans = []
    for _ in range(commits):
        post(url, "/start_weight_update")
        post(url, "/update_weights", {"update_info": info})
        begin = time.perf_counter()
        post(url, "/pause?mode=keep&clear_cache=false")
        post(url, "/finish_weight_update")
        post(url, "/resume")
        spans.append((begin, time.perf_counter()))
        time.sleep(0.1)
    thread.join()
    times = [when for when, _ in answer["it"].read().events]
    gaps = [(a, b) for a, b in zip(times, times[1:])]
    inside = [max((b - a for a, b in gaps if b > begin and a < end), default=None)
              for begin, end in spans]
    return [b - a for a, b in gaps], [gap for gap in inside if gap is not None]


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--seconds", type=float, default=6)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--streams", type=int, default=8)
    parser.add_argument("--commits", type=int, default=10)
    options = parser.parse_args()
    server, url = started(options.program, options.model)
    try:
        tensors = load_file(pathlib.Path(options.model) / "model.safetensors")
        with WeightBlock(tensors) as block:
            info = {key: block.info()[key] for key in ("transport", "name", "bytes", "digest")}

            def stage():
                post(url, "/init_weight_transfer_engine", {"init_info": {"backend": "lockstep"}})
                post(url, "/start_weight_update")
                post(url, "/update_weights", {"update_info": info})

            stop = threading.Event()
            thread = decode_for_ever(url, options.streams, stop)
            time.sleep(2)
            alone, beside, updates = [], [], 0
            for _ in range(options.rounds):
                alone.append(rate(url, options.seconds)[0])
                tokens, count = rate(url, options.seconds, stage)
                beside.append(tokens)
                updates += count
            stop.set()
            thread.join()
            post(url, "/init_weight_transfer_engine", {"init_info": {"backend": "lockstep"}})
            gaps, inside = gaps_around_commits(url, info, options.commits)
    finally:
        server.terminate()
        server.wait()
    print(json.dumps({
        "gigabytes": info["bytes"] / 1e9, "streams": options.streams,
        "tokens_per_second": {"alone": round(statistics.median(alone), 1),
                              "while_staged": round(statistics.median(beside), 1)},
        "ratio": round(statistics.median(b / a for a, b in zip(alone, beside)), 3),
        "updates_staged": updates,
        "milliseconds": {"median_step": round(1e3 * statistics.median(gaps), 2),
                         "median_gap_at_commit": round(1e3 * statistics.median(inside), 2),
                         "longest_gap_at_commit": round(1e3 * max(inside), 2)}}, indent=2))


if __name__ == "__main__":
    main()
