# SPDX-License-Identifier: Apache-2.0
"""Writes tests/golden/checkpoints: tiny random models in every form in which checkpoints occur.

    python tools/golden/make_checkpoints.py [NAME…]

Transformers itself saves them; by hand are only added what it cannot write: MTP tensors, stored
float32 tensors among bfloat16 ones, the fused file that a vision-language model is loaded from,
and the spellings of published configurations. Checkpoints of one `weights` set hold the same text
weights, so one golden file serves them all.
"""

import dataclasses
import json
import pathlib
import shutil
import sys
import tempfile

import torch
import transformers
from safetensors.torch import save_file

from common import CHECKPOINTS, GOLDEN, canonical_name, generator, read_tensors, write_json
from golden_tokenizer import write_tokenizer

# Sets whose first random weights make the five SFT steps ill-conditioned: routers between two equal
# experts, or gradients about zero, where AdamW turns a rounding into a whole step.
WEIGHT_SEEDS = {"qwen3_untied": 2, "qwen3_moe": 1, "qwen3_5_moe": 7, "qwen3_5_moe_tied": 5}
EOS = 256  # <|endoftext|> of golden_tokenizer
ROPE_3 = {"rope_type": "default", "rope_theta": 5000.0}
QWEN3 = dict(
    vocab_size=307, hidden_size=40, intermediate_size=56, num_hidden_layers=4, head_dim=14,
    num_attention_heads=6, num_key_value_heads=2, max_position_embeddings=1024, eos_token_id=EOS,
    rope_parameters=ROPE_3)
QWEN3_MOE = dict(
    vocab_size=311, hidden_size=36, intermediate_size=52, num_hidden_layers=4, head_dim=10,
    num_attention_heads=6, num_key_value_heads=3, max_position_embeddings=1024, eos_token_id=EOS,
    rope_parameters=ROPE_3, num_experts=7, num_experts_per_tok=3, moe_intermediate_size=14,
    norm_topk_prob=True)
QWEN3_5 = dict(
    vocab_size=317, hidden_size=38, intermediate_size=54, num_hidden_layers=4, head_dim=20,
    num_attention_heads=5, num_key_value_heads=1, max_position_embeddings=1024, eos_token_id=EOS,
    linear_num_key_heads=2, linear_num_value_heads=6, linear_key_head_dim=12,
    linear_value_head_dim=10, linear_conv_kernel_dim=4,
    rope_parameters={"rope_type": "default", "rope_theta": 20000.0, "partial_rotary_factor": 0.5,
                     "mrope_section": [2, 2, 1], "mrope_interleaved": True})
QWEN3_5_MOE = dict(
    vocab_size=313, hidden_size=34, num_hidden_layers=4, head_dim=24, num_attention_heads=4,
    num_key_value_heads=2, max_position_embeddings=1024, eos_token_id=EOS,
    linear_num_key_heads=3, linear_num_value_heads=6, linear_key_head_dim=8,
    linear_value_head_dim=14, linear_conv_kernel_dim=4, num_experts=5, num_experts_per_tok=2,
    moe_intermediate_size=12, shared_expert_intermediate_size=18,
    rope_parameters={"rope_type": "default", "rope_theta": 20000.0, "partial_rotary_factor": 0.25,
                     "mrope_section": [1, 1, 1], "mrope_interleaved": True})
VISION = dict(
    depth=1, hidden_size=8, intermediate_size=10, num_heads=2, patch_size=2, spatial_merge_size=2,
    temporal_patch_size=2, num_position_embeddings=4)


@dataclasses.dataclass
class Entry:
    name: str
    family: str
    weights: str  # checkpoints of one set hold the same text weights
    form: str     # flat, nested, mixed; with the form of the experts
    values: dict
    dtype: torch.dtype = torch.float32
    make: str = "flat"


def entries():
    f32, bf16 = torch.float32, torch.bfloat16
    tied = dict(tie_word_embeddings=True)
    sparse = dict(decoder_sparse_step=2, mlp_only_layers=[3], norm_topk_prob=False,
                  num_hidden_layers=6, tie_word_embeddings=True)
    q35_tied, moe = QWEN3_5 | tied, QWEN3_5_MOE
    return [
        Entry("qwen3_tied", "qwen3", "qwen3_tied", "flat", QWEN3 | tied),
        Entry("qwen3_untied", "qwen3", "qwen3_untied", "flat", QWEN3),
        Entry("qwen3_bf16", "qwen3", "qwen3_bf16", "flat", QWEN3 | tied, bf16, "published"),
        Entry("qwen3_moe", "qwen3_moe", "qwen3_moe", "flat per-expert", QWEN3_MOE),
        Entry("qwen3_moe_sparse_step", "qwen3_moe", "qwen3_moe_sparse_step", "flat per-expert",
              QWEN3_MOE | sparse),
        Entry("qwen3_moe_bf16", "qwen3_moe", "qwen3_moe_bf16", "flat per-expert", QWEN3_MOE, bf16,
              "published"),
        Entry("qwen3_5_tied", "qwen3_5", "qwen3_5_tied", "flat", q35_tied),
        Entry("qwen3_5_tied_nested", "qwen3_5", "qwen3_5_tied", "nested", q35_tied, f32, "nested"),
        Entry("qwen3_5_tied_mixed", "qwen3_5", "qwen3_5_tied", "mixed", q35_tied, f32, "mixed"),
        Entry("qwen3_5_untied", "qwen3_5", "qwen3_5_untied", "flat", QWEN3_5),
        Entry("qwen3_5_bf16", "qwen3_5", "qwen3_5_bf16", "nested", q35_tied, bf16,
              "nested_published"),
        Entry("qwen3_5_moe", "qwen3_5_moe", "qwen3_5_moe", "flat per-expert", moe),
        Entry("qwen3_5_moe_nested_per_expert", "qwen3_5_moe", "qwen3_5_moe", "nested per-expert",
              moe, f32, "nested"),
        Entry("qwen3_5_moe_nested_fused", "qwen3_5_moe", "qwen3_5_moe", "nested fused", moe, f32,
              "nested_fused"),
        Entry("qwen3_5_moe_mixed_fused", "qwen3_5_moe", "qwen3_5_moe", "mixed fused", moe, f32,
              "mixed_fused"),
        Entry("qwen3_5_moe_mixed_per_expert", "qwen3_5_moe", "qwen3_5_moe", "mixed per-expert",
              moe, f32, "mixed"),
        Entry("qwen3_5_moe_tied", "qwen3_5_moe", "qwen3_5_moe_tied", "flat per-expert", moe | tied),
        Entry("qwen3_5_moe_bf16", "qwen3_5_moe", "qwen3_5_moe_bf16", "nested fused", moe, bf16,
              "nested_published"),
    ]


CLASSES = {"qwen3": "Qwen3", "qwen3_moe": "Qwen3Moe", "qwen3_5": "Qwen3_5",
           "qwen3_5_moe": "Qwen3_5Moe"}


def fresh_text_model(entry):
    stem = CLASSES[entry.family]
    config_class = stem + ("TextConfig" if "3_5" in stem else "Config")
    config = getattr(transformers, config_class)(**entry.values)
    model = getattr(transformers, stem + "ForCausalLM")(config)
    fill(model, entry.weights)
    return model


def fresh_nested_model(entry):
    stem = CLASSES[entry.family]
    config = getattr(transformers, stem + "Config")(
        text_config=dict(entry.values),
        vision_config=VISION | dict(out_hidden_size=entry.values["hidden_size"]),
        tie_word_embeddings=entry.values.get("tie_word_embeddings", False),
        image_token_id=290, video_token_id=291, vision_start_token_id=292, vision_end_token_id=293)
    model = getattr(transformers, stem + "ForConditionalGeneration")(config)
    fill(model, entry.weights)
    return model


@torch.no_grad()
def fill(model, weights):
    """Random values, the same for the same canonical name, with nothing left at its first value."""
    for name, parameter in model.named_parameters():
        name = canonical_name(name)
        key = (WEIGHT_SEEDS.get(weights, 0), weights, name)
        random = torch.randn(parameter.shape, generator=generator(*key))
        parameter.copy_(spread(name, random, model.config.get_text_config()))


def spread(name, random, config):
    """Gives standard normal values the mean and width that suit the parameter of that name."""
    zero_centred = "qwen3_5" in config.model_type and "linear_attn.norm" not in name
    if name.endswith("A_log"):
        return -3 + random  # a state of ten tokens to hundreds: one token alone is ill-conditioned
    if name.endswith("dt_bias"):
        return -0.5 + 0.5 * random
    if "norm" in name and random.dim() == 1 and not name.startswith("model.visual"):
        return 0.25 * random + (0.0 if zero_centred else 1.0)
    if random.dim() == 1:
        return 0.1 * random
    if "embed" in name or name.startswith("lm_head"):
        return 2 * random / config.hidden_size**0.5  # logits about 2 wide
    if name.endswith("mlp.gate.weight"):
        return 2 * random / random.shape[-1]**0.5  # a router that chooses
    if "conv1d" in name:
        return 0.5 * random
    into_residual = any(part in name for part in ("o_proj", "out_proj", "down_proj"))
    return (0.5 if into_residual else 1.0) * random / random.shape[-1]**0.5


def mtp_tensors(entry, per_expert):
    """The tensors of a multi-token-prediction head, with the names of the published files."""
    c, h = entry.values, entry.values["hidden_size"]
    heads, kv, dim = (c["num_attention_heads"], c["num_key_value_heads"], c["head_dim"])
    layer = "mtp.layers.0."
    shapes = {"mtp.fc.weight": (h, 2 * h), "mtp.norm.weight": (h,),
              "mtp.pre_fc_norm_embedding.weight": (h,), "mtp.pre_fc_norm_hidden.weight": (h,),
              layer + "input_layernorm.weight": (h,),
              layer + "post_attention_layernorm.weight": (h,),
              layer + "self_attn.q_proj.weight": (2 * heads * dim, h),
              layer + "self_attn.k_proj.weight": (kv * dim, h),
              layer + "self_attn.v_proj.weight": (kv * dim, h),
              layer + "self_attn.o_proj.weight": (h, heads * dim),
              layer + "self_attn.q_norm.weight": (dim,), layer + "self_attn.k_norm.weight": (dim,)}
    mlp = layer + "mlp."
    if entry.family == "qwen3_5":
        shapes |= gated_mlp(mlp, c["intermediate_size"], h)
    else:
        experts, inner = c["num_experts"], c["moe_intermediate_size"]
        shapes |= gated_mlp(mlp + "shared_expert.", c["shared_expert_intermediate_size"], h)
        shapes |= {mlp + "gate.weight": (experts, h), mlp + "shared_expert_gate.weight": (1, h)}
        if per_expert:
            for expert in range(experts):
                shapes |= gated_mlp(f"{mlp}experts.{expert}.", inner, h)
        else:
            shapes |= {mlp + "experts.gate_up_proj": (experts, 2 * inner, h),
                       mlp + "experts.down_proj": (experts, h, inner)}
    return {name: 0.1 * torch.randn(shape, generator=generator(entry.weights, name)).to(entry.dtype)
            for name, shape in shapes.items()}


def gated_mlp(prefix, inner, hidden):
    return {prefix + "gate_proj.weight": (inner, hidden),
            prefix + "up_proj.weight": (inner, hidden),
            prefix + "down_proj.weight": (hidden, inner)}


def fuse_experts(tensors):
    """The published form of experts: [E, 2I, H] and [E, H, I] instead of one tensor an expert."""
    experts = {}
    result = {}
    for name, tensor in tensors.items():
        stem, found, rest = name.partition(".mlp.experts.")
        if not found or name.startswith("mtp."):
            result[name] = tensor
            continue
        expert, part = rest.split(".")[:2]
        experts.setdefault(stem, {}).setdefault(int(expert), {})[part] = tensor
    for stem, by_expert in experts.items():
        parts = [by_expert[expert] for expert in sorted(by_expert)]
        result[stem + ".mlp.experts.gate_up_proj"] = torch.stack(
            [torch.cat([part["gate_proj"], part["up_proj"]]) for part in parts])
        result[stem + ".mlp.experts.down_proj"] = torch.stack([part["down_proj"] for part in parts])
    return result


def replace_tensors(directory, tensors, shard_bytes=None, shard_name=None):
    """Puts `tensors` in place of a checkpoint's files, in shards if a size is given."""
    for path in [*directory.glob("*.safetensors"), *directory.glob("*.index.json")]:
        path.unlink()
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    if shard_bytes is None:
        save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
        return
    shards = [{}]
    for name, tensor in tensors.items():
        if sum(t.nbytes for t in shards[-1].values()) + tensor.nbytes > shard_bytes and shards[-1]:
            shards.append({})
        shards[-1][name] = tensor
    names = {}
    for index, shard in enumerate(shards):
        file = shard_name.format(index + 1, len(shards))
        save_file(shard, directory / file, metadata={"format": "pt"})
        names |= dict.fromkeys(shard, file)
    total = sum(tensor.nbytes for tensor in tensors.values())
    write_json(directory / "model.safetensors.index.json",
               {"metadata": {"total_size": total}, "weight_map": dict(sorted(names.items()))})


def make_flat(entry, directory):
    fresh_text_model(entry).save_pretrained(directory)


def make_published(entry, directory):
    """As on the hub before transformers 5: bfloat16, RoPE and expert count under their old keys."""
    fresh_text_model(entry).to(entry.dtype).save_pretrained(directory)
    path = directory / "config.json"
    config = json.loads(path.read_text())
    config["rope_theta"] = config.pop("rope_parameters")["rope_theta"]
    config["rope_scaling"] = None
    config["torch_dtype"] = config.pop("dtype")
    if "num_local_experts" in config:
        config["num_experts"] = config.pop("num_local_experts")
    config.pop("layer_types", None)
    write_json(path, config)


def make_nested(entry, directory):
    fresh_nested_model(entry).save_pretrained(directory)
    if entry.family == "qwen3_5":
        replace_tensors(directory, read_tensors(directory) | mtp_tensors(entry, True))
    else:  # as transformers saves it when it cuts shards
        replace_tensors(directory, read_tensors(directory), 150_000,
                        "model-{:05d}-of-{:05d}.safetensors")


def make_nested_fused(entry, directory, per_expert_mtp=True):
    """A vision-language model loaded from a fused file and saved, MTP tensors put back."""
    with tempfile.TemporaryDirectory() as source:
        save_fused_source(entry, source, mtp=None)
        name = CLASSES[entry.family] + "ForConditionalGeneration"
        getattr(transformers, name).from_pretrained(source).save_pretrained(directory)
    replace_tensors(directory, read_tensors(directory) | mtp_tensors(entry, per_expert_mtp))


def save_fused_source(entry, source, mtp):
    source = pathlib.Path(source)
    fresh_nested_model(entry).save_pretrained(source)
    tensors = fuse_experts(read_tensors(source))
    if mtp is not None:
        tensors |= mtp_tensors(entry, mtp == "per-expert")
    replace_tensors(source, tensors)


def make_mixed(entry, directory, mtp="per-expert"):
    """The text class loaded from a vision-language file and saved."""
    with tempfile.TemporaryDirectory() as source:
        save_fused_source(entry, source, mtp)
        name = CLASSES[entry.family] + "ForCausalLM"
        getattr(transformers, name).from_pretrained(source).save_pretrained(directory)


def make_mixed_fused(entry, directory):
    make_mixed(entry, directory, mtp="fused")


def make_nested_published(entry, directory):
    """As Qwen3.5 on the hub: bfloat16 but for A_log and the gated norm, fused experts, MTP, and
    shards under their unusual name."""
    make_nested_fused(entry, directory)
    tensors = {
        name: tensor if name.endswith(("A_log", "linear_attn.norm.weight")) else tensor.bfloat16()
        for name, tensor in read_tensors(directory).items()}
    replace_tensors(directory, tensors, 100_000, "model.safetensors-{:05d}-of-{:05d}.safetensors")
    path = directory / "config.json"
    config = json.loads(path.read_text())
    config["text_config"] |= {"dtype": "bfloat16", "attn_output_gate": True, "mlp_only_layers": [],
                              "mamba_ssm_dtype": "float32", "full_attention_interval": 4,
                              "mtp_num_hidden_layers": 1, "mtp_use_dedicated_embeddings": False}
    config["vision_config"]["model_type"] = config["model_type"]
    for key in ("rope_parameters", "dtype"):
        config["vision_config"].pop(key, None)
    config.pop("dtype", None)
    config["transformers_version"] = "4.57.0.dev0"
    write_json(path, config)


def main():
    chosen = sys.argv[1:]
    manifest = []
    for entry in entries():
        manifest.append({"name": entry.name, "family": entry.family, "weights": entry.weights,
                         "form": entry.form, "dtype": str(entry.dtype).split(".")[1]})
        if chosen and entry.name not in chosen:
            continue
        directory = CHECKPOINTS / entry.name
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        globals()["make_" + entry.make](entry, directory)
        (directory / "generation_config.json").write_text(
            '{"eos_token_id": [258, 256], "do_sample": true, "temperature": 0.6, "top_k": 20}\n')
        write_tokenizer(directory)
        size = sum(path.stat().st_size for path in directory.iterdir())
        print(f"{entry.name:32} {entry.form:20} {size / 1000:7.0f} kB")
    write_json(GOLDEN / "manifest.json", manifest)


if __name__ == "__main__":
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    main()
