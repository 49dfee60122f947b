# SPDX-License-Identifier: Apache-2.0
"""The plugin's engine without vLLM: what it asks of vLLM is stood in for, and a model is a dict.

tools/parity/vllm_updates.py tests the same with vLLM itself.
"""

import contextlib
import logging
import os
import pathlib
import sys
import types

import torch

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "integrations" / "vllm"), str(ROOT / "tools" / "parity")]

SEED = int(os.environ.get("LOCKSTEP_TEST_SEED", "20251"))
CONFIG = types.SimpleNamespace(
    vocab_size=200, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
    num_key_value_heads=1, head_dim=8, intermediate_size=24)


class WeightTransferEngine:
    def __init__(self, config, vllm_config, device, model):
        self.vllm_config, self.model_config = vllm_config, vllm_config.model_config
        self.model = model


class Model(dict):
    """What is served, by name. `fault(tensors)` makes others of what is loaded."""

    fault = staticmethod(lambda tensors: tensors)


def load(model, model_config, tensors):
    for name, tensor in model.fault(tensors):
        model[name] = tensor.clone()


def install():
    base = types.ModuleType("vllm.distributed.weight_transfer.base")
    base.WeightTransferEngine = WeightTransferEngine
    base.WeightTransferInitInfo = base.WeightTransferUpdateInfo = object
    reload = types.ModuleType("lockstep_vllm.reload")
    reload.tied_heads, reload.apply = lambda model: [], load
    modules = {"vllm": types.ModuleType("vllm"), base.__name__: base, reload.__name__: reload}
    modules["vllm"].__version__ = "0"
    for name in ("vllm.distributed", "vllm.distributed.weight_transfer"):
        modules[name] = types.ModuleType(name)
    sys.modules.update(modules)


install()

import lockstep_vllm  # noqa: E402
import lockstep_vllm.engine  # noqa: E402
from lockstep_vllm import names  # noqa: E402

lockstep_vllm.reload = sys.modules["lockstep_vllm.reload"]
# What the engine warns of stands in its status, too, where the tests look.
logging.getLogger("vllm.lockstep").addHandler(logging.NullHandler())
logging.getLogger("vllm.lockstep").propagate = False


def new_engine():
    model_config = types.SimpleNamespace(architecture="Qwen3ForCausalLM", dtype=torch.float32,
                                         hf_text_config=CONFIG)
    vllm_config = types.SimpleNamespace(
        model_config=model_config, quant_config=None, lora_config=None,
        parallel_config=types.SimpleNamespace(pipeline_parallel_size=1))
    return lockstep_vllm.engine.LockstepEngine(None, vllm_config, "cpu", Model())


def new_tensors(seed):
    """Weights of the model, of two widths."""
    letters = torch.Generator().manual_seed(seed)
    shapes = names.expected_shapes("Qwen3ForCausalLM", CONFIG, False)
    return {name: torch.randn(shape, generator=letters).to(
        torch.bfloat16 if "proj" in name else torch.float32) for name, shape in shapes.items()}


def nudged(tensors, seed, share=0.05):
    """A share of the elements as after an optimizer step; one tensor in three stays as it is."""
    letters = torch.Generator().manual_seed(seed)
    found = {}
    for i, (name, value) in enumerate(tensors.items()):
        is_changed = torch.rand(value.shape, generator=letters) < share
        noise = torch.randn(value.shape, generator=letters) * 2.0 ** torch.randint(
            -20, 20, value.shape, generator=letters)
        change = value * noise if i % 3 else torch.zeros_like(value)
        found[name] = torch.where(is_changed, (value + change).to(value.dtype), value)
    return found


def offer(engine, info):
    engine.start_weight_update()
    engine.update_weights(info)
    return engine.status()


def update(engine, info):
    offer(engine, info)
    engine.finish_weight_update()
    return engine.status()


@contextlib.contextmanager
def changed(owner, **values):
    """Attributes with other values for a while."""
    before = {name: getattr(owner, name) for name in values}
    try:
        for name, value in values.items():
            setattr(owner, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(owner, name, value)
