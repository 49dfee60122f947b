# SPDX-License-Identifier: Apache-2.0
"""Compares the layout vllm:version=0.32 with the parameters of the real vLLM.

    python tools/parity/vllm_layouts.py --program build/bin/lockstep [--only NAME…]

For each case vLLM loads a new model, and its parameters are written down as its loader has left
them and as they stand when it serves (vllm_dump.py). `layout verify` has to find in the first every
tensor of the layout, byte for byte, and in the second all but those that vLLM has changed, which it
has to name. An engine with a fault, in which gate and up of one expert have changed places, must be
told from one without: the check can fail. Prints each figure with its bound, and exits 1 if one is
over it.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from program import Program, ProgramError
from vllm_adapters import HEADS, new_model
from vllm_server import PYTHON, environment

from model import Report

DUMP = pathlib.Path(__file__).parent / "vllm_dump.py"
DUMP_SECONDS = 600
# By name: family and precision of a model, the engine's dtype where it is another, and its ranks.
CASES = {
    "qwen3 tied": dict(like="qwen3", tied=True),
    # Rows that pad the vocabulary.
    "qwen3 float32": dict(like="qwen3", dtype="float32", changes=dict(vocab_size=2090)),
    "qwen3 float32 as bfloat16": dict(like="qwen3", dtype="float32", engine="bfloat16", tied=True),
    "qwen3_moe": dict(like="qwen3_moe", fault="swapped"),
    "qwen3_moe float32 tied": dict(like="qwen3_moe", dtype="float32", tied=True),
    "qwen3_5": dict(like="qwen3_5", changes=HEADS),
    "qwen3_5 of one dtype": dict(like="qwen3_5", changes=HEADS, narrow=True),
    "qwen3_5 float32 as bfloat16": dict(like="qwen3_5", changes=HEADS, dtype="float32",
                                        engine="bfloat16"),
    "qwen3_5 nested tied": dict(like="qwen3_5", changes=HEADS, nested=True, tied=True,
                                text_only=True),
    "qwen3_5_moe tied": dict(like="qwen3_5_moe", changes=HEADS, tied=True),
    "qwen3_5_moe nested": dict(like="qwen3_5_moe", changes=HEADS, nested=True, fault="swapped"),
    "qwen3_moe tied, two ranks": dict(like="qwen3_moe", tied=True, ranks=2, fault="swapped"),
    # It cannot compute so on a processor, but it loads.
    "qwen3_moe, whole experts": dict(like="qwen3_moe", ranks=2, whole_experts=True,
                                     fault="swapped"),
    # Ranks share out the vision tower, which the layout carries whole.
    "qwen3_5_moe nested, two ranks": dict(like="qwen3_5_moe", changes=HEADS, nested=True, ranks=2,
                                          text_only=True),
}


class DumpError(Exception):
    pass


def with_uneven_values(model, narrow):
    """Norms of the delta rule that bfloat16 cannot hold; with `narrow` decays in bfloat16, which
    vLLM widens. A new model's are all 1, and its decays float32.
    """
    path, letters = model / "model.safetensors", torch.Generator().manual_seed(3)
    tensors = load_file(path)
    for name, value in tensors.items():
        if name.endswith("linear_attn.norm.weight"):
            tensors[name] = value + 0.1 * torch.randn(value.shape, generator=letters)
        if name.endswith("linear_attn.A_log") and narrow:
            tensors[name] = value.to(torch.bfloat16)
    save_file(tensors, path, metadata={"format": "pt"})


class Case:
    def __init__(self, program, title, report):
        self.program, self.title, self.report = program, title, report
        self.about = CASES[title]
        dtype = self.about.get("dtype", "bfloat16")
        self.dtype, self.ranks = self.about.get("engine", dtype), self.about.get("ranks", 1)
        self.model = new_model(program, self.about["like"], dtype, self.about.get("changes", {}),
                               self.about.get("nested", False), self.about.get("tied", False))
        with_uneven_values(self.model, self.about.get("narrow", False))
        self.layout = f"vllm:version=0.32,dtype={self.dtype},tp={self.ranks}"
        if self.about.get("whole_experts"):
            self.layout += f",ep={self.ranks}"

    def dump(self, *words):
        """The folder of both dumps of a new engine."""
        output, log = self.program.new_path(), self.program.new_path(".log")
        with log.open("w") as file:
            done = subprocess.run(
                [str(PYTHON), str(DUMP), "--model", str(self.model), "--output_dir", str(output),
                 "--dtype", self.dtype, "--ranks", str(self.ranks),
                 *(["--text_only"] if self.about.get("text_only") else []),
                 *(["--expert_parallel"] if self.about.get("whole_experts") else []), *words],
                env=environment(), stdout=file, stderr=subprocess.STDOUT, timeout=DUMP_SECONDS)
        if done.returncode != 0:
            lines = log.read_text(errors="replace").strip().splitlines() or ["(no message)"]
            raise DumpError(f"expected a dump, got exit {done.returncode}: {lines[-1]}")
        return output

    def path(self, output, state):
        return output / (state if self.ranks > 1 else f"{state}.safetensors")

    def verify(self, output, state, partial=False):
        """Exit code and lines of `layout verify`."""
        done = subprocess.run(
            [str(self.program.path), "layout", "verify", "--layout", self.layout, "--input",
             str(self.path(output, state)), "--model", str(self.model), "--partial",
             str(partial).lower(), "--quiet", "true"], capture_output=True, text=True, timeout=300)
        return done.returncode, (done.stdout + done.stderr).strip().splitlines()

    def files(self, output, state):
        path = self.path(output, state)
        return sorted(path.glob("*.safetensors")) if self.ranks > 1 else [path]

    def zero(self, what, figure):
        self.report.add("layouts", self.title, what, float(figure), 0)


def set_aside(path):
    """Names that the dump lists as changed, and how many others it has."""
    with safe_open(path, "pt") as file:
        reasons = json.loads(file.metadata()["not_comparable"])
        return set(reasons), len(set(file.keys()) - reasons.keys())


def check_served(case, output):
    """All but what vLLM has changed is as it was loaded, and that is named."""
    code, _ = case.verify(output, "served")
    case.zero("served: passes without --partial", code != 1)
    code, lines = case.verify(output, "served", partial=True)
    faults = [line for line in lines if not line.startswith("not-comparable: ")]
    case.zero("served: differs" + (f": {faults[0]}" if code else ""), code)
    named, compared = 0, 0
    for path in case.files(output, "served"):
        names, others = set_aside(path)
        compared += others
        named += sum(not any(line.startswith("not-comparable: ") and path.name in line
                             and f" {name}: " in line for line in lines) for name in names)
        case.zero("served: nothing that vLLM has changed", not names)
    case.zero("served: changed, but not named", named)
    case.zero(f"served: tensors compared are not the {compared} others",
              not any(line.startswith(f"the same weights in {compared} of ") for line in lines))


def check_fault(case):
    output = case.dump("--fault", case.about["fault"])
    code, lines = case.verify(output, "loaded")
    case.zero("fault: gate and up of an expert swapped, not seen", code != 1)
    case.zero("fault: another tensor named, or none",
              not any(line.startswith("digest-mismatch: ") and "layers.0.mlp.experts." in line
                      and "element [1, 0, 0] (layers.0.experts.1.gate" in line for line in lines))
    case.zero("fault: tensors named besides",
              sum(line.startswith("digest-mismatch: ") for line in lines) - case.ranks)


def check_case(case):
    output = case.dump()
    code, lines = case.verify(output, "loaded")
    case.zero("loaded: differs" + (f": {lines[0]}" if code else ""), code)
    # Else the comparison would say nothing about the names.
    older = case.layout.replace("version=0.32,", "").replace(f"dtype={case.dtype},", "")
    if "moe" in case.about["like"]:
        case.layout, layout = older, case.layout
        case.zero("loaded: also has the names of older versions",
                  case.verify(output, "loaded")[0] != 1)
        case.layout = layout
    check_served(case, output)
    if "fault" in case.about:
        check_fault(case)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--program", default="build/bin/lockstep")
    parser.add_argument("--only", nargs="*", default=list(CASES), choices=list(CASES))
    options = parser.parse_args()
    report = Report()
    with tempfile.TemporaryDirectory() as folder:
        program = Program(options.program, folder)
        for title in options.only:
            try:
                check_case(Case(program, title, report))
            except (ProgramError, DumpError, OSError, subprocess.TimeoutExpired) as error:
                report.fail("layouts", title, f"{type(error).__name__}: {error}")
    sys.exit(0 if report.end() else 1)


if __name__ == "__main__":
    main()
