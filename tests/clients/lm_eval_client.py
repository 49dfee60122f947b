# SPDX-License-Identifier: Apache-2.0
"""lm-eval runs a small local task of multiple choice through its local-completions model, and gets
the scores that `lockstep score` gives for the same tokens."""

import json
import math
import os
import pathlib
import subprocess
import tempfile

os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
import lm_eval  # noqa: E402
from lm_eval.tasks import TaskManager  # noqa: E402

from server_under_test import TIMEOUT, models, options_of, run_checks  # noqa: E402
from taught_model import HELLO, SUM  # noqa: E402

QUESTIONS = [
    ("Hello", [" there, friend!", " nobody at all", " weather"], 0),
    ("Two and two", [" is Paris", " make four.", " hello friend"], 1),
    ("The sum", [" of weather", " friend there", " is four."], 2),
    (HELLO[0], [" " + SUM[2], " " + HELLO[1]], 1),
    ("What is the weather in", [" Paris?", " four?"], 0),
]
TASK = """
task: local_choice
dataset_path: json
dataset_kwargs:
  data_files: {{test: {file}}}
test_split: test
output_type: multiple_choice
doc_to_text: question
doc_to_choice: choices
doc_to_target: answer
target_delimiter: ""
metric_list:
  - metric: acc
"""


def evaluate(options, folder):
    """The task's results, and lm-eval's own model, which knows how it turned text into ids."""
    rows = pathlib.Path(folder) / "rows.jsonl"
    rows.write_text("".join(json.dumps({"question": q, "choices": c, "answer": a}) + "\n"
                            for q, c, a in QUESTIONS))
    (pathlib.Path(folder) / "local_choice.yaml").write_text(TASK.format(file=rows))
    model = lm_eval.api.registry.get_model("local-completions")(
        base_url=options.url + "/v1/completions", model=models(options.url)[0]["id"],
        tokenizer_backend="huggingface", tokenizer=str(options.model_folder), num_concurrent=4,
        max_length=1024, tokenized_requests=True, timeout=TIMEOUT)
    tasks = TaskManager(include_path=folder, include_defaults=False)
    return lm_eval.simple_evaluate(model=model, tasks=["local_choice"], task_manager=tasks,
                                   bootstrap_iters=0), model


def scores_of_program(options, model, folder):
    """For each question the log-probability of each choice, by `lockstep score`."""
    pairs = [(q, choice) for q, choices, _ in QUESTIONS for choice in choices]
    ids = [model._encode_pair(*pair) for pair in pairs]
    rows, out = pathlib.Path(folder) / "ids.jsonl", pathlib.Path(folder) / "scores.jsonl"
    rows.write_text("".join(json.dumps({"input_ids": a + b}) + "\n" for a, b in ids))
    subprocess.run([options.program, "score", "--model", options.model_folder, "--dataset", rows,
                    "--output", out, "--quiet", "true"], check=True, timeout=TIMEOUT)
    sums = [sum(json.loads(line)["logprobs"][-len(b):])
            for line, (_, b) in zip(out.read_text().splitlines(), ids, strict=True)]
    counts = iter(sums)
    return [[next(counts) for _ in choices] for _, choices, _ in QUESTIONS]


def gets_the_same_scores(options):
    with tempfile.TemporaryDirectory() as folder:
        results, model = evaluate(options, folder)
        samples = sorted(results["samples"]["local_choice"], key=lambda s: s["doc_id"])
        got = [[float(value) for value, _ in sample["filtered_resps"]] for sample in samples]
        want = scores_of_program(options, model, folder)
    assert len(got) == len(QUESTIONS)
    # The same bits from our own server: what differs is how decimals of float32 are added.
    tolerance = 1e-4 if options.is_vllm else 1e-9
    for mine, theirs in zip(got, want, strict=True):
        for a, b in zip(mine, theirs, strict=True):
            assert math.isclose(a, b, rel_tol=0, abs_tol=tolerance), (got, want)
    right = [max(range(len(row)), key=row.__getitem__) == answer
             for row, (_, _, answer) in zip(want, QUESTIONS)]
    accuracy = results["results"]["local_choice"]["acc,none"]
    assert accuracy == sum(right) / len(right), (accuracy, right)
    # The model knows some of the answers: a task that it gets all wrong would prove little.
    assert 0 < accuracy, right


if __name__ == "__main__":
    run_checks([gets_the_same_scores], options_of(__doc__.split("\n")[0]))
