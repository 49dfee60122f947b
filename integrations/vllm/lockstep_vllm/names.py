# SPDX-License-Identifier: Apache-2.0
"""Which tensors a checkpoint of the served model has: their names, shapes and types.

vLLM's own loaders take a part of a model for the whole, so what they are given is compared with
this list first. Carried tensors (a vision tower, multi-token prediction) are not on it: they stay
as the server has loaded them.
"""

import itertools
import json
import math

from lockstep_vllm.block import DTYPES
from lockstep_vllm.refusal import Refused

# How names of the text model may begin, by architecture, as vLLM's loaders take them.
FLAT, NESTED = "model.", "model.language_model."
PREFIXES = {
    "Qwen3ForCausalLM": (FLAT,),
    "Qwen3MoeForCausalLM": (FLAT,),
    "Qwen3_5ForCausalLM": (FLAT, NESTED),
    "Qwen3_5MoeForCausalLM": (FLAT, NESTED),
    "Qwen3_5ForConditionalGeneration": (NESTED,),
    "Qwen3_5MoeForConditionalGeneration": (NESTED,),
}
EMBEDDING, HEAD = "embed_tokens.weight", "lm_head.weight"
# Checkpoints keep these in float32 whatever the model's type is. vLLM keeps the first so, too, and
# rounds the second to the model's type, also when it loads a checkpoint.
FLOAT32 = (".linear_attn.A_log", ".linear_attn.norm.weight")
SHOWN = 3


def mlp(prefix, width, inner):
    return {f"{prefix}.gate_proj.weight": (inner, width),
            f"{prefix}.up_proj.weight": (inner, width),
            f"{prefix}.down_proj.weight": (width, inner)}


def attention(prefix, config, is_hybrid):
    width, head = config.hidden_size, config.head_dim
    queries = config.num_attention_heads * head
    gated = 2 if is_hybrid and getattr(config, "attn_output_gate", True) else 1
    pairs = config.num_key_value_heads * head
    return {f"{prefix}.q_proj.weight": (gated * queries, width),
            f"{prefix}.k_proj.weight": (pairs, width), f"{prefix}.v_proj.weight": (pairs, width),
            f"{prefix}.o_proj.weight": (width, queries), f"{prefix}.q_norm.weight": (head,),
            f"{prefix}.k_norm.weight": (head,)}


def delta_rule(prefix, config):
    width, heads = config.hidden_size, config.linear_num_value_heads
    keys = config.linear_num_key_heads * config.linear_key_head_dim
    values = heads * config.linear_value_head_dim
    return {f"{prefix}.in_proj_qkv.weight": (2 * keys + values, width),
            f"{prefix}.in_proj_z.weight": (values, width),
            f"{prefix}.in_proj_b.weight": (heads, width),
            f"{prefix}.in_proj_a.weight": (heads, width),
            f"{prefix}.conv1d.weight": (2 * keys + values, 1, config.linear_conv_kernel_dim),
            f"{prefix}.A_log": (heads,), f"{prefix}.dt_bias": (heads,),
            f"{prefix}.norm.weight": (config.linear_value_head_dim,),
            f"{prefix}.out_proj.weight": (width, values)}


def experts(prefix, config, is_grouped):
    """Routed experts with their router: one tensor for all, or one for each."""
    width, inner, count = config.hidden_size, config.moe_intermediate_size, config.num_experts
    shapes = {f"{prefix}.gate.weight": (count, width)}
    if is_grouped:
        return shapes | {f"{prefix}.experts.gate_up_proj": (count, 2 * inner, width),
                         f"{prefix}.experts.down_proj": (count, width, inner)}
    for expert in range(count):
        shapes |= mlp(f"{prefix}.experts.{expert}", width, inner)
    return shapes


def has_experts(config, layer, is_hybrid):
    count = getattr(config, "num_experts", 0) or 0
    if is_hybrid or not count:
        return count > 0
    return (layer not in (getattr(config, "mlp_only_layers", None) or ())
            and (layer + 1) % getattr(config, "decoder_sparse_step", 1) == 0)


def layer_shapes(config, layer, is_hybrid, is_grouped):
    prefix, width = f"layers.{layer}", config.hidden_size
    shapes = {f"{prefix}.input_layernorm.weight": (width,),
              f"{prefix}.post_attention_layernorm.weight": (width,)}
    if is_hybrid and config.layer_types[layer] == "linear_attention":
        shapes |= delta_rule(f"{prefix}.linear_attn", config)
    else:
        shapes |= attention(f"{prefix}.self_attn", config, is_hybrid)
    if not has_experts(config, layer, is_hybrid):
        return shapes | mlp(f"{prefix}.mlp", width, config.intermediate_size)
    shapes |= experts(f"{prefix}.mlp", config, is_grouped)
    if is_hybrid:
        shapes |= mlp(f"{prefix}.mlp.shared_expert", width, config.shared_expert_intermediate_size)
        shapes[f"{prefix}.mlp.shared_expert_gate.weight"] = (1, width)
    return shapes


def expected_shapes(architecture, config, is_tied, prefix=FLAT, is_grouped=False):
    """The shape of each tensor by name. `config` is the text model's, as transformers reads it."""
    is_hybrid = architecture.startswith("Qwen3_5")
    shapes = {EMBEDDING: (config.vocab_size, config.hidden_size),
              "norm.weight": (config.hidden_size,)}
    for layer in range(config.num_hidden_layers):
        shapes |= layer_shapes(config, layer, is_hybrid, is_grouped)
    shapes = {prefix + name: shape for name, shape in shapes.items()}
    if not is_tied:
        shapes[HEAD] = (config.vocab_size, config.hidden_size)
    return shapes


def unsupported(architecture, config):
    """What of a model is not on this list, or None."""
    if architecture not in PREFIXES:
        return f"architecture {architecture}"
    flags = ("attention_bias", "qkv_bias", "layer_scale")
    return next((f"{flag} in its configuration" for flag in flags if getattr(config, flag, False)),
                None)


def listed(names):
    names = sorted(names)
    rest = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {rest} others" if rest > 0 else "")


def check_names(found, expected, where):
    missing, unknown = expected.keys() - found, found - expected.keys()
    if missing:
        raise Refused("missing-tensor", f"{where}: {min(missing)}",
                      f"expected {len(expected)} tensors, got none named {listed(missing)}")
    if unknown:
        raise Refused("unknown-tensor", f"{where}: {min(unknown)}",
                      f"expected {len(expected)} tensors, got {listed(unknown)} besides")


def dtypes_for(name, dtype):
    """The types that this model takes without a change of value that a checkpoint would not see."""
    if dtype == "F32":
        return ("F32", "BF16", "F16")
    return (dtype, "F32") if name.endswith(FLOAT32) else (dtype,)


def forms_of(architecture, config, is_tied):
    """The shapes by name, for each way in which a checkpoint of the model may name its tensors."""
    reason = unsupported(architecture, config)
    if reason:
        raise Refused("unsupported-model", architecture, f"expected a model with updates, got one "
                      f"with {reason}")
    return [expected_shapes(architecture, config, is_tied, prefix, is_grouped)
            for prefix, is_grouped in itertools.product(PREFIXES[architecture], (False, True))]


def largest_bytes(architecture, config, is_tied, dtype):
    """What all tensors of the model have at most."""
    def size(name, shape):
        return math.prod(shape) * max(DTYPES[one].itemsize for one in dtypes_for(name, dtype))

    return max(sum(size(name, shape) for name, shape in form.items())
               for form in forms_of(architecture, config, is_tied))


def check_entries(entries, architecture, config, is_tied, dtype, where):
    """Refuses tensors that are not just those of the model.

    `dtype` is that of the served model, as safetensors calls it. Names may begin as the loader of
    the architecture takes them, and experts be in one tensor or one by one, all in the same way.
    """
    forms = forms_of(architecture, config, is_tied)
    found = {entry.name for entry in entries}
    # Names are compared with those of the form that is nearest.
    expected = min(forms, key=lambda form: len(form.keys() ^ found))
    check_names(found, expected, where)
    for entry in entries:
        if entry.shape != expected[entry.name]:
            raise Refused("wrong-shape", f"{where}: {entry.name}",
                          f"expected {json.dumps(expected[entry.name])}, got "
                          f"{json.dumps(entry.shape)}")
        accepted = dtypes_for(entry.name, dtype)
        if entry.dtype not in accepted:
            raise Refused("wrong-dtype", f"{where}: {entry.name}",
                          f"expected {' or '.join(accepted)}, got {entry.dtype}")
