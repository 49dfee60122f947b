#!/usr/bin/env python3
"""What transformers reads in configurations that say a thing in two places, in old words, or not at
all, for tests/model/config_test.cpp.

Writes tests/data/configs/readings.jsonl: {"name", "config", "reading"}, where "reading" is null for
what transformers cannot build or what Lockstep has no maths for. Where Lockstep refuses what
transformers takes, or takes what transformers does not, "differs" says why. transformers 5.23.

SPDX-License-Identifier: Apache-2.0
"""

import json
import pathlib
import tempfile

import transformers
from transformers import AutoConfig
from transformers.models.qwen3.modeling_qwen3 import Qwen3RotaryEmbedding
from transformers.models.qwen3_5.modeling_qwen3_5 import Qwen3_5TextRotaryEmbedding
from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeRotaryEmbedding

DATA = pathlib.Path(__file__).parents[2] / "tests" / "data" / "configs"

SIZES = {
    "hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2,
    "head_dim": 32,
    "vocab_size": 256, "intermediate_size": 64, "max_position_embeddings": 4096,
}  # fmt: skip
FAMILIES = {
    "qwen3": {"model_type": "qwen3", **SIZES},
    "qwen3_moe": {"model_type": "qwen3_moe", **SIZES, "num_experts": 8, "num_experts_per_tok": 2},
    "qwen3_5": {"model_type": "qwen3_5_text", **SIZES},
    "qwen3_5_moe": {"model_type": "qwen3_5_moe_text", **SIZES, "num_experts": 8,
                    "num_experts_per_tok": 2},
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 2048}
PLAIN = {"rope_type": "default", "rope_theta": 1e6}
BARE = {"rope_type": "default"}

# Changes of the text model's keys; each is tried on every family, flat and, where there is one,
# nested.
ANYWHERE = {
    "nothing": {},
    "rope_parameters": {"rope_parameters": PLAIN},
    "rope_scaling yarn beside rope_parameters": {"rope_parameters": PLAIN, "rope_scaling": YARN},
    "rope_scaling plain beside yarn": {"rope_parameters": YARN, "rope_scaling": PLAIN},
    "rope_scaling without theta replaces rope_parameters": {"rope_parameters": PLAIN,
                                                            "rope_scaling": BARE},
    "rope_scaling without theta beside rope_theta": {"rope_parameters": PLAIN, "rope_scaling": BARE,
                                                     "rope_theta": 5e5},
    "rope_scaling {}": {"rope_parameters": PLAIN, "rope_scaling": {}},
    "rope_scaling false": {"rope_parameters": PLAIN, "rope_scaling": False},
    "rope_scaling null": {"rope_parameters": PLAIN, "rope_scaling": None},
    "rope_scaling null beside yarn": {"rope_parameters": YARN, "rope_scaling": None},
    "rope_parameters null beside yarn": {"rope_parameters": None, "rope_scaling": YARN},
    "both null": {"rope_parameters": None, "rope_scaling": None, "rope_theta": 2e6},
    "rope_parameters {}": {"rope_parameters": {}, "rope_theta": 2e6},
    "rope_theta alone": {"rope_theta": 2e6},
    "rope_theta an integer": {"rope_theta": 2000000},
    "rope_theta beside rope_parameters": {"rope_parameters": PLAIN, "rope_theta": 2e6},
    "rope_theta null": {"rope_theta": None},
    "rope_theta null inside": {"rope_parameters": {"rope_type": "default", "rope_theta": None},
                               "rope_theta": 2e6},
    "old word yarn": {"rope_scaling": {"type": "yarn", "factor": 4.0}},
    "old word plain": {"rope_scaling": {"type": "default", "rope_theta": 3e6}},
    "old word beside new one": {"rope_scaling": {"rope_type": "yarn", "type": "yarn",
                                                 "factor": 4.0}},
    "words that contradict, new one plain": {
        "rope_scaling": {"rope_type": "default", "type": "yarn", "factor": 4.0}},
    "words that contradict, new one yarn": {
        "rope_scaling": {"rope_type": "yarn", "type": "default", "factor": 4.0}},
    "new word null": {"rope_scaling": {"rope_type": None, "type": "yarn", "factor": 4.0}},
    "linear": {"rope_scaling": {"type": "linear", "factor": 2.0}},
    "dynamic": {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e6}},
    "llama3": {"rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
                                "high_freq_factor": 4.0, "original_max_position_embeddings": 2048}},
    "longrope": {"rope_scaling": {"rope_type": "longrope", "factor": 2.0,
                                  "short_factor": [1.0] * 16, "long_factor": [2.0] * 16,
                                  "original_max_position_embeddings": 2048}},
    "an unknown type": {"rope_scaling": {"rope_type": "su", "factor": 4.0}},
    "a factor that the plain type ignores": {
        "rope_scaling": {"rope_type": "default", "factor": 4.0, "rope_theta": 1e6}},
    "old word mrope": {"rope_scaling": {"type": "mrope", "mrope_section": [4, 6, 6],
                                        "rope_theta": 1e6}},
    "by layer type": {"rope_parameters": {"full_attention": PLAIN}},
    "by layer type, yarn": {"rope_parameters": {"full_attention": YARN,
                                                "sliding_attention": PLAIN}},
    "partial_rotary_factor": {"rope_theta": 1e6, "partial_rotary_factor": 0.5},
    "partial_rotary_factor inside": {"rope_parameters": {**PLAIN, "partial_rotary_factor": 0.75},
                                     "partial_rotary_factor": 0.5},
    "partial_rotary_factor of the replaced object": {
        "rope_parameters": {**PLAIN, "partial_rotary_factor": 0.75}, "rope_scaling": PLAIN},
    "num_key_value_heads null": {"num_key_value_heads": None},
    "num_key_value_heads missing": {"num_key_value_heads": "missing"},
    "head_dim missing": {"head_dim": "missing"},
    "dtype": {"dtype": "float32"},
    "dtype beside torch_dtype": {"dtype": "float32", "torch_dtype": "bfloat16"},
    "dtype null beside torch_dtype": {"dtype": None, "torch_dtype": "float32"},
    "torch_dtype": {"torch_dtype": "float32"},
    "layer_types by the older name": {"layer_types": ["attention"] * 4},
    "layer_types null": {"layer_types": None},
    "layer_types beside an interval": {"layer_types": ["full_attention"] * 4,
                                       "full_attention_interval": 2},
    "an interval": {"full_attention_interval": 2},
    "tied": {"tie_word_embeddings": True},
    "per_layer_config": {"per_layer_config": {"0": {"head_dim": 16}}},
    "num_local_experts beside num_experts": {"num_local_experts": 4},
    "num_local_experts alone": {"num_experts": "missing", "num_local_experts": 4},
}  # fmt: skip
# Changes of the root of a nested configuration, in addition to those of its text_config.
AT_ROOT = {
    "tied at the root alone": ({"tie_word_embeddings": True}, {}),
    "tied in text_config alone": ({}, {"tie_word_embeddings": True}),
    "untied at the root": ({"tie_word_embeddings": False}, {"tie_word_embeddings": True}),
    "dtype at the root": ({"dtype": "float32"}, {}),
    "dtype at the root and in text_config": ({"dtype": "float32"}, {"dtype": "bfloat16"}),
    "torch_dtype at the root, dtype in text_config": ({"torch_dtype": "float32"},
                                                      {"dtype": "bfloat16"}),
    "yarn at the root": ({"rope_scaling": YARN}, {"rope_parameters": PLAIN}),
    "yarn at the root, new word": ({"rope_parameters": YARN}, {"rope_parameters": PLAIN}),
    "other numbers at the root": ({"rope_parameters": {**PLAIN, "rope_theta": 5e5}},
                                  {"rope_parameters": PLAIN}),
    "rope_theta at the root": ({"rope_theta": 5e5}, {"rope_parameters": PLAIN}),
    "rope_theta at the root alone": ({"rope_theta": 5e5}, {}),
}

CONTRADICTION = "refused: one of two words asks for a scaled rotation"
DIFFERS = {
    "words that contradict, new one plain": CONTRADICTION,
    "yarn at the root, new word": "refused: YaRN is asked for, be it where no engine looks",
    "old word mrope": "read as the plain type, which it is for text",
    "rope_theta null inside": "a null says nothing, so the sibling key speaks",
    "rope_theta at the root alone": "text_config is silent, so the root speaks",
    "tied in text_config alone": "the root is silent, so text_config speaks",
    "by layer type": "refused: transformers fails, or takes a theta of 10000",
    "by layer type, yarn": "refused: transformers fails, or takes a theta of 10000",
    "num_key_value_heads null": "as many as query heads, as dense Qwen3 reads it",
}


def reading(config):
    """What transformers makes of `config`, or None."""
    with tempfile.TemporaryDirectory() as folder:
        (pathlib.Path(folder) / "config.json").write_text(json.dumps(config))
        try:
            whole = AutoConfig.from_pretrained(folder)
            text = whole.get_text_config()
            classes = {"qwen3": Qwen3RotaryEmbedding, "qwen3_moe": Qwen3MoeRotaryEmbedding}
            rotary = classes.get(text.model_type, Qwen3_5TextRotaryEmbedding)(text)
            heads = text.num_attention_heads
            head_dim = getattr(text, "head_dim", None) or text.hidden_size // heads
            if text.num_attention_heads % text.num_key_value_heads or rotary.rope_type != "default":
                return None
            layers = getattr(text, "layer_types", None)
            layers = layers or ["full_attention"] * text.num_hidden_layers
            return {
                "rope_theta": text.rope_parameters["rope_theta"],
                "rotary_dim": 2 * len(rotary.inv_freq),
                "head_dim": head_dim,
                "num_key_value_heads": text.num_key_value_heads,
                "num_experts": getattr(text, "num_experts", 0),
                "full_attention": [layer == "full_attention" for layer in layers],
                "tied": whole.tie_word_embeddings,
                "dtype": str(whole.dtype).removeprefix("torch."),
            }
        except Exception:
            return None


def cases():
    """Names and configurations."""
    for family, base in FAMILIES.items():
        for name, changes in ANYWHERE.items():
            if "experts" in name and "moe" not in family:
                continue
            text = {k: v for k, v in {**base, **changes}.items() if v != "missing"}
            yield f"{family}: {name}", name, text
            if "3_5" in family:
                yield f"{family}, nested: {name}", name, {"model_type": family, "text_config": text}
        for name, (root, changes) in AT_ROOT.items() if "3_5" in family else ():
            yield f"{family}: {name}", name, {"model_type": family, **root,
                                              "text_config": {**base, **changes}}


def difference(title, name):
    """Why Lockstep reads a case in another way, or None."""
    if name in DIFFERS:
        return DIFFERS[name]
    if name == "tied" and "nested" in title:
        return DIFFERS["tied in text_config alone"]
    if name == "num_local_experts alone" and "3_5" in title:
        return "the one number that is there is taken; the class has a default of 256"
    if name in ("partial_rotary_factor", "partial_rotary_factor inside") and "3_5" not in title:
        return "refused: transformers ignores the key for this family, vLLM obeys it"
    return None


def main():
    transformers.logging.set_verbosity_error()
    DATA.mkdir(exist_ok=True)
    count = 0
    with (DATA / "readings.jsonl").open("w", encoding="utf-8") as file:
        for title, name, config in cases():
            row = {"name": title, "config": config,
                   "reading": reading(json.loads(json.dumps(config)))}
            if why := difference(title, name):
                row["differs"] = why
            file.write(json.dumps(row) + "\n")
            count += 1
    print(f"{count} configurations")


if __name__ == "__main__":
    main()
