# SPDX-License-Identifier: Apache-2.0
"""Decoding against the CPU engines that pip installs: tokens a second at batch 1, 8 and 64.

    bench/engines/setup.sh
    .deps/engines/bin/python bench/engines/run.py --program build-bench/bin/lockstep \
        --decode build-bench/bench/lockstep_decode [--dtypes float32] [--output FILE]

A checkpoint of `lockstep new-model` is converted for each engine; then all engines in turn get the
same prompts (32 tokens, 64 new ones, greedy, no early end). Prefill counts. Ours runs in exact
mode; the others are not exact. A run during which other processes used more than 5 % of the machine
is discarded and repeated.
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
from child import Run, append_lines, undisturbed  # noqa: E402

ENGINES = ("lockstep", "openvino", "ctranslate2", "transformers")
LEAST_RATIO = 1.2


def convert(options, folder):
    """The checkpoint, and for each engine the folder that it loads."""
    python = pathlib.Path(sys.executable).parent
    model = folder / "model"
    made = {"lockstep": model, "transformers": model, "openvino": folder / "openvino",
            "ctranslate2": folder / "ctranslate2"}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "check": True}
    subprocess.run([options.program, "new-model", "--like", "qwen3", "--size", options.size,
                    "--output_dir", model], **quiet)
    subprocess.run([python / "optimum-cli", "export", "openvino", "--model", model, "--task",
                    "text-generation-with-past", "--weight-format", "fp32", made["openvino"]],
                   **quiet)
    subprocess.run([python / "ct2-transformers-converter", "--model", model, "--output_dir",
                    made["ctranslate2"]], **quiet)
    return made


def measure(options, engine, task):
    """Seconds of each run for each batch size, or the reason why there are none."""
    words = ([options.decode] if engine == "lockstep" else [sys.executable, HERE / "engine.py"])
    environment = {"OMP_NUM_THREADS": str(options.threads), "HF_HUB_OFFLINE": "1",
                   "TOKENIZERS_PARALLELISM": "false"}

    def once():
        with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
            json.dump(task, file)
            file.flush()
            run = Run(words + [file.name], environment)
        return json.loads(run.out.splitlines()[-1]), [run]

    return undisturbed(once, options.tries)


def compare(options, models, dtype, prompts):
    """Tokens a second of each engine and batch size, medians over all rounds."""
    seconds, refused, disturbed = {}, {}, False
    for _ in range(options.rounds):  # in turn, so that slow drifts of the machine meet all
        for engine in options.engines:
            task = {"engine": engine, "model": str(models[engine]), "dtype": dtype,
                    "threads": options.threads, "prompts": prompts, "batches": options.batches,
                    "new_tokens": options.new_tokens, "repeats": options.repeats}
            answer, was = measure(options, engine, task)
            disturbed |= was
            if "refused" in answer:
                refused[engine] = answer["refused"]
                continue
            for batch, times in answer["seconds"].items():
                seconds.setdefault(engine, {}).setdefault(batch, []).extend(times)
    rates = {engine: {batch: int(batch) * options.new_tokens / statistics.median(times)
                      for batch, times in found.items()} for engine, found in seconds.items()}
    return {"dtype": dtype, "size": options.size, "disturbed": disturbed, "refused": refused,
            "tokens_per_second": rates}


def show(result):
    """Prints the table; returns whether ours missed the ratio somewhere."""
    rates = result["tokens_per_second"]
    batches = list(rates["lockstep"])
    print(f"{result['size']} {result['dtype']}"
          f"{'  (disturbed: not to be quoted)' if result['disturbed'] else ''}")
    for engine, found in rates.items():
        print(f"  {engine:13}" + "".join(f"{found[batch]:10.0f}" for batch in batches))
    for engine, reason in result["refused"].items():
        print(f"  {engine:13} {reason}")
    best = {b: max((r[b] for e, r in rates.items() if e != "lockstep"), default=0) for b in batches}
    ratios = [rates["lockstep"][b] / best[b] for b in batches if best[b]]
    print("  over the best" + "".join(f"{ratio:10.2f}" for ratio in ratios), flush=True)
    return any(ratio < LEAST_RATIO for ratio in ratios)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--program", required=True, help="the built program")
    parser.add_argument("--decode", required=True, help="the built lockstep_decode")
    parser.add_argument("--size", default="100m")
    parser.add_argument("--dtypes", nargs="*", default=["float32", "bfloat16"])
    parser.add_argument("--engines", nargs="*", default=ENGINES, choices=ENGINES)
    parser.add_argument("--batches", nargs="*", type=int, default=[1, 8, 64])
    parser.add_argument("--prompt_tokens", type=int, default=32)
    parser.add_argument("--new_tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=2, help="timed runs a round")
    parser.add_argument("--tries", type=int, default=3, help="runs until one is undisturbed")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--output", help="file for the results, JSON lines")
    options = parser.parse_args()
    letters, missed = random.Random(7), False
    with tempfile.TemporaryDirectory() as folder:
        models = convert(options, pathlib.Path(folder))
        prompts = [[letters.randint(300, 8000) for _ in range(options.prompt_tokens)]
                   for _ in range(max(options.batches))]
        for dtype in options.dtypes:
            result = compare(options, models, dtype, prompts)
            missed |= show(result)
            append_lines([result], options.output)
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
