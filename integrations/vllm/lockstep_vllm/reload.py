# SPDX-License-Identifier: Apache-2.0
"""Gives a running model new weights, so that it is what a fresh process would have loaded.

This is vLLM's layerwise reload with what it leaves out. It runs the post-load work of each layer
once, but that of routed experts belongs to their kernel, which it calls at the first load only (the
packed weights would be overwritten by plain ones); and a tied head has a packed copy of its own,
which stays old. It also takes a layer of which a part is missing.
"""

import contextlib
import logging

import torch
from vllm.model_executor.layers.fused_moe.unquantized_fused_moe_method import (
    UnquantizedFusedMoEMethod)
from vllm.model_executor.layers.vocab_parallel_embedding import (ParallelLMHead,
                                                                 VocabParallelEmbedding)
from vllm.model_executor.model_loader.reload import layerwise
from vllm.model_executor.model_loader.reload.meta import SKIP_LOAD_TENSORS

from lockstep_vllm.refusal import Refused


def tied_heads(model):
    """The heads whose weight is that of an embedding. A reload takes the two apart while it runs.
    """
    modules = list(model.modules())
    weights = {id(one.weight) for one in modules if isinstance(one, VocabParallelEmbedding)
               and not isinstance(one, ParallelLMHead)}
    return [one for one in modules if isinstance(one, ParallelLMHead) and id(one.weight) in weights]


def text_model(model):
    """What is updated: of a model with a vision tower, the language model."""
    return model.get_language_model() if hasattr(model, "visual") else model


def process_experts(method, process, layer):
    process(layer)
    if method.moe_kernel is not None:
        method.moe_kernel.fused_experts.process_weights_after_loading(layer)


@contextlib.contextmanager
def experts_processed(model):
    """While it lasts, the post-load work of routed experts includes that of their kernel."""
    methods = {id(one.quant_method): one.quant_method for one in model.modules()
               if isinstance(getattr(one, "quant_method", None), UnquantizedFusedMoEMethod)}
    for method in methods.values():
        process = method.process_weights_after_loading
        method.process_weights_after_loading = (
            lambda layer, method=method, process=process: process_experts(method, process, layer))
    try:
        yield
    finally:
        for method in methods.values():
            # What was set on the object hides the method of its class.
            del method.process_weights_after_loading


def process_heads(heads):
    for head in heads:
        head.quant_method.process_weights_after_loading(head)


def expect_complete(model, heads):
    """Each layer got all of its elements; but for the rows that pad a vocabulary."""
    for name, layer in model.named_modules():
        info = layerwise.get_layerwise_info(layer)
        parameters = info.restore_metadata[0].keys() - SKIP_LOAD_TENSORS
        if not info.can_load() or not parameters or layer in heads:
            continue
        is_padded = isinstance(layer, VocabParallelEmbedding) and info.load_numel > 0
        if not is_padded and info.load_numel < info.load_numel_total:
            raise Refused("incomplete", name, f"expected {info.load_numel_total} elements, got "
                          f"{info.load_numel}")


@contextlib.contextmanager
def quiet(heads):
    """Without the warning that a tied head has not been loaded; what is missing is an error."""
    silenced = logging.getLogger(layerwise.__name__)
    level = silenced.level
    if heads:
        silenced.setLevel(logging.ERROR)
    try:
        yield
    finally:
        silenced.setLevel(level)


def abandon(model):
    """Puts a reload that was broken off back, so that the model can compute and be loaded again.
    """
    for layer in model.modules():
        info = layerwise.get_layerwise_info(layer)
        if info.can_load() and info.kernel_tensors is not None:
            layerwise._place_kernel_tensors(layer, info)
        info.reset()
    layerwise.LOADING_LAYERS.clear()


def apply(model, model_config, tensors):
    """Loads tensors, (name, tensor) under checkpoint names. After an exception the model holds some
    of the old weights and some of the new ones.
    """
    part, heads = text_model(model), tied_heads(model)
    try:
        with torch.no_grad(), experts_processed(part), quiet(heads):
            layerwise.initialize_layerwise_reload(part)
            model.load_weights(tensors)
            expect_complete(part, heads)
            layerwise.finalize_layerwise_reload(part, model_config)
            process_heads(heads)
    except BaseException:
        abandon(part)
        raise
