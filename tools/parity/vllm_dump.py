# SPDX-License-Identifier: Apache-2.0
"""Writes the parameters of a real vLLM as files for `lockstep layout verify`.

    .deps/vllm/bin/python tools/parity/vllm_dump.py --model M --output_dir OUT [--ranks 2]
    lockstep layout verify --layout vllm:version=0.32 --input OUT/loaded.safetensors --model M

OUT gets two dumps: `loaded`, as vLLM's loader has left the parameters, and `served`, as they stand
in an engine that is ready to serve. What vLLM has changed in between (it packs experts, and gives
linear layers a packed form beside which the parameter is empty) is named in the metadata of
`served`, so that nobody compares it, nor takes it for compared. A dump of several ranks is a folder
with a file for each.
"""

import argparse
import hashlib
import json
import os
import pathlib
import sys
import tempfile

FOLDER, FAULT = "LOCKSTEP_DUMP_FOLDER", "LOCKSTEP_DUMP_FAULT"
EMPTIED = "vLLM computes with a packed form that it made after loading; the parameter is empty"
CHANGED = "vLLM has changed it after loading: its bytes are those of a packed form"
# The digest of each parameter as it was loaded.
LOADED = {}


def digest(tensor):
    import torch

    plain = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
    return hashlib.sha256(plain.numpy()).hexdigest(), list(tensor.shape), str(tensor.dtype)


def write(state, model, metadata):
    from safetensors.torch import save_file
    from vllm.distributed.parallel_state import get_world_group

    group, folder = get_world_group(), pathlib.Path(os.environ[FOLDER])
    path = folder / f"{state}.safetensors"
    if group.world_size > 1:
        path = folder / state / f"rank-{group.rank:05}-of-{group.world_size:05}.safetensors"
        path.parent.mkdir(exist_ok=True)
    # Copies: parameters may share memory, which files do not.
    tensors = {name: value.detach().cpu().contiguous().clone()
               for name, value in model.named_parameters()}
    save_file(tensors, path, metadata=metadata)


def engine():
    import vllm

    return {"engine": f"vllm {vllm.__version__}"}


def swap_halves(model):
    """Plants a fault: gate and up of one expert change places."""
    for name, value in model.named_parameters():
        if name.endswith("w13_weight"):
            expert = value.data[1]
            expert.copy_(expert.roll(expert.shape[0] // 2, 0).clone())
            return
    raise SystemExit("expected a model with experts for the fault, got none")


def dump_served(worker):
    """A method of vLLM's worker; every rank runs it."""
    model = worker.model_runner.get_model()
    reasons = {name: CHANGED if value.numel() else EMPTIED
               for name, value in model.named_parameters() if LOADED.get(name) != digest(value)}
    write("served", model, engine() | {"not_comparable": json.dumps(reasons)})
    return len(reasons)


def register():
    """vLLM calls this in each of its processes, as a plugin."""
    from vllm.model_executor.model_loader import base_loader
    from vllm.v1.worker.gpu_worker import Worker

    process = base_loader.process_weights_after_loading

    def dump_loaded(model, *arguments):
        if os.environ.get(FAULT) == "swapped":
            swap_halves(model)
        LOADED.update((name, digest(value)) for name, value in model.named_parameters())
        write("loaded", model, engine())
        process(model, *arguments)

    base_loader.process_weights_after_loading = dump_loaded
    Worker.lockstep_dump_served = dump_served


def install(folder):
    """A package in `folder` that vLLM finds as a plugin, in this process and in its workers."""
    info = folder / "vllm_dump-0.dist-info"
    info.mkdir()
    (folder / "vllm_dump.py").symlink_to(pathlib.Path(__file__).resolve())
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: vllm-dump\nVersion: 0\n")
    (info / "entry_points.txt").write_text(
        "[vllm.general_plugins]\ndump = vllm_dump:register\n")
    others = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(folder), *([others] if others else [])])
    sys.path.insert(0, str(folder))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", required=True, type=pathlib.Path)
    parser.add_argument("--output_dir", required=True, type=pathlib.Path)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument("--expert_parallel", action="store_true",
                        help="vLLM's --enable-expert-parallel: ranks have whole experts")
    parser.add_argument("--text_only", action="store_true",
                        help="vLLM's --language-model-only: without the vision tower")
    parser.add_argument("--fault", choices=["swapped"],
                        help="gate and up of one expert change places before anything is dumped")
    options = parser.parse_args()
    options.output_dir.mkdir(parents=True, exist_ok=True)
    os.environ |= {FOLDER: str(options.output_dir.resolve()), "HF_HUB_OFFLINE": "1",
                   "VLLM_NO_USAGE_STATS": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    if options.fault:
        os.environ[FAULT] = options.fault
    if options.ranks > 1:
        # Threads of two ranks on one node want a place each.
        os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND",
                              "|".join(map(str, range(options.ranks))))
    with tempfile.TemporaryDirectory() as folder:
        install(pathlib.Path(folder))
        from vllm import LLM

        text_only = {"language_model_only": True} if options.text_only else {}
        llm = LLM(model=str(options.model), dtype=options.dtype, max_model_len=512, max_num_seqs=8,
                  enforce_eager=True, tensor_parallel_size=options.ranks, seed=0,
                  enable_expert_parallel=options.expert_parallel, **text_only)
        changed = llm.collective_rpc("lockstep_dump_served")
    print(f"{options.output_dir}: loaded and served by {options.ranks} ranks; parameters that vLLM "
          f"has changed after loading, by rank: {changed}")


if __name__ == "__main__":
    main()
