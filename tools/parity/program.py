# SPDX-License-Identifier: Apache-2.0
"""Running the built program on rows, and reading golden files, for the parity scripts."""

import json
import pathlib
import subprocess
import sys

from safetensors import safe_open

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "golden"))


class ProgramError(Exception):
    pass


class Program:
    """`lockstep` with a folder for its files. Options are written as keyword arguments."""

    def __init__(self, path, folder):
        self.path, self.folder = pathlib.Path(path), pathlib.Path(folder)
        self.count = 0

    def run(self, command, timeout=300, **options):
        words = [str(self.path), command]
        for name, value in options.items():
            words.append("--" + name)
            values = value if isinstance(value, list) else [value]
            words += [str(v).lower() if isinstance(v, bool) else str(v) for v in values]
        done = subprocess.run(words, capture_output=True, text=True, timeout=timeout)
        if done.returncode != 0:
            lines = done.stderr.strip().splitlines() or ["(no message)"]
            raise ProgramError(f"{' '.join(words)}: exit {done.returncode}: {lines[-1]}")
        return done.stdout

    def new_path(self, suffix=""):
        self.count += 1
        return self.folder / f"{self.count}{suffix}"

    def write_rows(self, rows):
        path = self.new_path(".jsonl")
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path

    def map_rows(self, command, model, rows, output_flag, **options):
        """Runs a command that turns rows into rows, and returns these."""
        output = self.new_path(".jsonl")
        options |= {"model": model, "dataset": self.write_rows(rows), output_flag: output}
        self.run(command, **options)
        # A text may hold other ends of lines than that of the file, at which splitlines() splits.
        return [json.loads(line) for line in output.read_text().split("\n") if line]

    def score(self, model, prompts, **options):
        rows = [{"input_ids": list(map(int, prompt))} for prompt in prompts]
        return self.map_rows("score", model, rows, "output", **options)

    def infer(self, model, prompts, **options):
        rows = [{"input_ids": list(map(int, prompt))} for prompt in prompts]
        result = self.map_rows("infer", model, rows, "result_path", **options)
        return [row["responses"] for row in result]

    def grad(self, model, rows, **options):
        output = self.new_path(".safetensors")
        stdout = self.run("grad", model=model, batch=self.write_rows(rows), output=output,
                          **options)
        with safe_open(output, "pt") as file:
            return json.loads(stdout), {name: file.get_tensor(name) for name in file.keys()}


class Golden:
    """A file of tests/golden: tensors by name, JSON values of its metadata."""

    def __init__(self, path):
        self.file = safe_open(path, "pt")
        self.keys = set(self.file.keys())
        metadata = self.file.metadata()
        self.names = json.loads(metadata.get("names", "[]"))
        self.values = json.loads(metadata.get("values", "{}"))
        self.metadata = metadata

    def __getitem__(self, name):
        return self.file.get_tensor(name)
