# SPDX-License-Identifier: Apache-2.0
"""What the golden scripts share: names, seeds, and transformers run in true float64.

Golden names are those of a flat checkpoint with one tensor an expert ("canonical"):
`model.layers.0.mlp.experts.3.gate_proj.weight`, whatever the form of the checkpoint.
"""

import hashlib
import json
import pathlib
import re

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

ROOT = pathlib.Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "golden"
CHECKPOINTS = GOLDEN / "checkpoints"

NARROW = (torch.float32, torch.bfloat16, torch.float16)


class Float64Everywhere(TorchFunctionMode):
    """Turns every request for a narrower floating point type into one for float64.

    Transformers asks for float32 in norms, softmax, rotary angles and the delta rule; the truth
    that programs are compared with has no such roundings.
    """

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func in (torch.Tensor.float, torch.Tensor.bfloat16, torch.Tensor.half):
            return args[0].double()
        args = tuple(torch.float64 if _is_narrow(a) else a for a in args)
        kwargs = {k: torch.float64 if _is_narrow(v) else v for k, v in kwargs.items()}
        return func(*args, **kwargs)


def _is_narrow(value):
    return isinstance(value, torch.dtype) and value in NARROW


class NoNarrowResult(TorchDispatchMode):
    """Raises when any operator gives a float32, bfloat16 or float16 tensor: proof of float64."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for leaf in tree_flatten(out)[0]:
            if isinstance(leaf, torch.Tensor) and leaf.dtype in NARROW:
                raise AssertionError(f"{func} gave {leaf.dtype} in a float64 run")
        return out


class Truth:
    """`with Truth():` runs what is inside in float64 and proves it."""

    def __enter__(self):
        self.before = torch.get_default_dtype()
        torch.set_default_dtype(torch.float64)
        self.modes = [Float64Everywhere(), NoNarrowResult()]
        for mode in self.modes:
            mode.__enter__()
        return self

    def __exit__(self, *error):
        for mode in reversed(self.modes):
            mode.__exit__(*error)
        torch.set_default_dtype(self.before)


def load(directory, dtype):
    """The text model of a checkpoint; in float64 its rotary frequencies are float64 too."""
    from transformers import AutoModelForCausalLM

    # Experts one by one: the grouped product wants sizes that are multiples of 16 bytes.
    options = dict(dtype=dtype, experts_implementation="eager")
    if dtype != torch.float64:
        return AutoModelForCausalLM.from_pretrained(directory, **options).eval()
    model = AutoModelForCausalLM.from_pretrained(
        directory, attn_implementation="eager", **options)
    with Truth():
        model.model.rotary_emb = type(model.model.rotary_emb)(model.config.get_text_config())
    check_loaded_as_stored(model, directory)
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        assert tensor.dtype not in NARROW, name
    return model.eval()


def check_loaded_as_stored(model, directory):
    """Proves that float64 parameters hold the file's values, with no detour over a narrower
    type.
    """
    stored = canonical_tensors(read_tensors(directory))
    for name, value in canonical_tensors(dict(model.named_parameters())).items():
        if not torch.equal(value.detach(), stored[name].double()):
            raise AssertionError(f"{directory}: {name} is not loaded as stored")


def read_tensors(directory):
    """All tensors of a checkpoint directory, by the names in its files."""
    from safetensors import safe_open

    tensors = {}
    for path in sorted(pathlib.Path(directory).glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            for name in file.keys():
                tensors[name] = file.get_tensor(name)
    return tensors


def canonical_name(name):
    return name.replace("model.language_model.", "model.")


def canonical_tensors(tensors):
    """Text tensors under canonical names: one an expert, vision and MTP left out."""
    result = {}
    for name, tensor in tensors.items():
        if name.startswith(("mtp.", "model.visual.")):
            continue
        name = canonical_name(name)
        if name.endswith(".experts.gate_up_proj"):
            stem = name[: -len("gate_up_proj")]
            for expert, both in enumerate(tensor.unbind(0)):
                gate, up = both.chunk(2, 0)
                result[f"{stem}{expert}.gate_proj.weight"] = gate
                result[f"{stem}{expert}.up_proj.weight"] = up
        elif name.endswith(".experts.down_proj"):
            stem = name[: -len("down_proj")]
            for expert, down in enumerate(tensor.unbind(0)):
                result[f"{stem}{expert}.down_proj.weight"] = down
        else:
            result[name] = tensor
    return dict(sorted(result.items(), key=lambda item: natural_key(item[0])))


def natural_key(name):
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def generator(*key):
    """A generator of its own for each key, the same on every machine."""
    digest = hashlib.sha256("/".join(map(str, key)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "little"))


def token_logprobs(model, ids, temperature=1.0):
    """Log-probabilities [n - 1] and entropies [n - 1] of a sequence of n ids."""
    logits = model(input_ids=ids[None]).logits[0]
    if logits.dtype != torch.float64:
        logits = logits.float()
    all_logprobs = torch.log_softmax(logits / temperature, -1)[:-1]
    entropy = -(all_logprobs.exp() * all_logprobs).sum(-1)
    return all_logprobs.gather(-1, ids[1:, None])[:, 0], entropy


def sample_indices(numel, count=32):
    """Where a large tensor is sampled: `count` places, evenly spread. Part of the golden format."""
    return torch.tensor([i * numel // count for i in range(count)])


def write_json(path, value):
    pathlib.Path(path).write_text(json.dumps(value, indent=2) + "\n")
