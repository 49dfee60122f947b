// SPDX-License-Identifier: Apache-2.0
#include "model/config.h"

#include <array>
#include <cmath>
#include <utility>

#include "base/check.h"
#include "base/json.h"

namespace lockstep::model {
namespace {

/// Far above every model. The tensors that a file promises are listed before they are looked for,
/// and such a list has to fit into memory: experts are counted over all layers, and queries are
/// listed by head.
constexpr int64_t kLargest = int64_t{1} << 40, kMostLayers = 4096, kMostHeads = 65536,
                  kMostExperts = int64_t{1} << 17;

constexpr std::array<std::pair<Family, std::string_view>, 4> kFamilies{{
    {Family::kQwen3, "qwen3"},
    {Family::kQwen3Moe, "qwen3_moe"},
    {Family::kQwen3_5, "qwen3_5"},
    {Family::kQwen3_5Moe, "qwen3_5_moe"},
}};

/// Looks keys up in text_config first and in the root second, and turns them into values with
/// errors that name them.
class Reader {
 public:
  Reader(const Json& config, std::string_view where) : root_(config), where_(where) {
    if (!config.is_object())
      fail<FormatError>("bad-config", where_, "expected an object, got {}", config.type_name());
    const auto text = config.find("text_config");
    if (text != config.end()) {
      if (!text->is_object())
        fail<FormatError>("bad-config", where_, "text_config: expected an object, got {}",
                          text->type_name());
      text_ = &*text;
    }
  }

  bool is_nested() const { return text_ != nullptr; }
  const Json& root() const { return root_; }
  std::string_view where() const { return where_; }

  /// The value of `key`, or null where neither level has it or it is null.
  const Json* find(const char* key) const {
    for (const Json* level : {text_, &root_}) {
      if (!level) continue;
      const auto found = level->find(key);
      if (found != level->end() && !found->is_null()) return &*found;
    }
    return nullptr;
  }

  int64_t integer(const char* key,
                  std::optional<int64_t> standard = {},
                  int64_t low = 1,
                  int64_t high = kLargest) const {
    const Json* value = find(key);
    if (!value) return required(key, standard);
    if (!value->is_number_integer() || value->get<int64_t>() < low || value->get<int64_t>() > high)
      bad(key, fmt::format("an integer from {} to {}", low, high), *value);
    return value->get<int64_t>();
  }

  double number(const char* key, std::optional<double> standard = {}) const {
    const Json* value = find(key);
    if (!value) return required(key, standard);
    if (!value->is_number()) bad(key, "a number", *value);
    return value->get<double>();
  }

  bool boolean(const char* key, std::optional<bool> standard = {}) const {
    const Json* value = find(key);
    if (!value) return required(key, standard);
    if (!value->is_boolean()) bad(key, "true or false", *value);
    return value->get<bool>();
  }

  [[noreturn]] void bad(std::string_view key, std::string_view expected, const Json& value) const {
    fail<FormatError>("bad-config", where_, "{}: expected {}, got {}", key, expected,
                      dump_json(value).substr(0, 80));
  }
  [[noreturn]] void unsupported(std::string_view key,
                                std::string_view expected,
                                const Json& value) const {
    fail<FormatError>("unsupported-config", where_,
                      "{}: expected {}, got {} (it changes the model's maths and is not built)",
                      key, expected, dump_json(value).substr(0, 80));
  }

 private:
  template <class T>
  T required(const char* key, const std::optional<T>& standard) const {
    if (!standard) fail<FormatError>("bad-config", where_, "{}: expected a value, got none", key);
    return *standard;
  }

  const Json& root_;
  const Json* text_ = nullptr;
  std::string where_;
};

Family read_family(const Reader& reader) {
  const Json* type = nullptr;
  // vision_config repeats the parent's model_type, so only the root's and the text's count (spec
  // models.md 1.1).
  const auto root = reader.root().find("model_type");
  if (root != reader.root().end()) type = &*root;
  if (!type) type = reader.find("model_type");
  if (!type || !type->is_string())
    fail<FormatError>("bad-config", reader.where(), "model_type: expected a string, got none");
  std::string name = type->get<std::string>();
  if (name.ends_with("_text")) name.resize(name.size() - 5);
  if (const auto family = family_of_name(name)) return *family;
  fail<FormatError>("unsupported-config", reader.where(),
                    "model_type: expected qwen3, qwen3_moe, qwen3_5 or qwen3_5_moe, got {}", name);
}

/// Refuses what would change the maths: keys that must have one value, and keys that must be
/// absent, false or neutral.
void refuse_unsupported(const Reader& reader, bool is_qwen3_5) {
  const auto must_be = [&](const char* key, const Json& wanted) {
    const Json* value = reader.find(key);
    if (value && *value != wanted) reader.unsupported(key, dump_json(wanted), *value);
  };
  must_be("hidden_act", "silu");
  must_be("attention_bias", false);
  must_be("mlp_bias", false);
  must_be("use_sliding_window", false);
  if (is_qwen3_5) must_be("attn_output_gate", true);
  must_be("use_qk_norm", true);
  must_be("is_causal", true);
  for (const char* key :
       {"attention_dropout", "hidden_dropout", "residual_dropout", "embd_pdrop"}) {
    const Json* value = reader.find(key);
    if (value && value->is_number() && value->get<double>() != 0)
      reader.unsupported(key, "0", *value);
  }
  for (const char* key :
       {"quantization_config", "final_logit_softcapping", "attn_logit_softcapping", "logit_scale",
        "embedding_multiplier", "residual_multiplier", "attention_multiplier", "logits_scaling",
        "query_pre_attn_scalar", "qkv_bias"}) {
    const Json* value = reader.find(key);
    if (value && *value != Json(false)) reader.unsupported(key, "no such key", *value);
  }
  const Json* gate = reader.find("output_gate_type");
  if (gate && *gate != Json("swish") && *gate != Json("silu"))
    reader.unsupported("output_gate_type", "swish", *gate);
}

/// rope_parameters (new) or rope_scaling (old); inside it wins over a sibling key, which wins over
/// the default.
void read_rope(const Reader& reader, ModelConfig& config) {
  const Json* inside = reader.find("rope_parameters");
  const char* name = "rope_parameters";
  if (!inside) {
    inside = reader.find("rope_scaling");
    name = "rope_scaling";
  }
  if (inside && !inside->is_object()) reader.bad(name, "an object", *inside);
  const auto lookup = [&](const char* key) -> const Json* {
    if (inside) {
      const auto found = inside->find(key);
      if (found != inside->end() && !found->is_null()) return &*found;
    }
    return nullptr;
  };
  for (const char* key : {"rope_type", "type"}) {
    const Json* type = lookup(key);
    // "mrope" is an old spelling of the default type with sections.
    if (type && *type != Json("default") && *type != Json("mrope"))
      reader.unsupported(fmt::format("{}.{}", name, key), "default", *type);
  }
  const auto number = [&](const char* key, double standard) {
    const Json* value = lookup(key);
    if (!value) return reader.number(key, standard);
    if (!value->is_number()) reader.bad(fmt::format("{}.{}", name, key), "a number", *value);
    return value->get<double>();
  };
  config.rope_theta = number("rope_theta", 10000.0);
  const double factor = number("partial_rotary_factor", config.is_qwen3_5() ? 0.25 : 1.0);
  if (!(config.rope_theta > 0) || !std::isfinite(config.rope_theta))
    fail<FormatError>("bad-config", reader.where(),
                      "rope_theta: expected a positive number, got {}", config.rope_theta);
  const double rotated = static_cast<double>(config.head_dim) * factor;
  // Compared before the cast: a number outside int64 has none.
  if (rotated >= 2 && rotated < static_cast<double>(config.head_dim) + 1)
    config.rotary_dim = static_cast<int64_t>(rotated);
  else
    config.rotary_dim = 0;
  if (config.rotary_dim < 2 || config.rotary_dim % 2)
    fail<FormatError>("bad-config", reader.where(),
                      "partial_rotary_factor: expected an even number of rotated dimensions of 2 "
                      "to head_dim {}, got {}",
                      config.head_dim, rotated);
}

void read_attention(const Reader& reader, ModelConfig& config) {
  config.num_attention_heads = reader.integer("num_attention_heads", {}, 1, kMostHeads);
  config.num_key_value_heads = reader.integer("num_key_value_heads", config.num_attention_heads);
  // The missing key's value differs by class (spec models.md 1.8).
  const int64_t head_dim = config.family == Family::kQwen3Moe
                               ? config.hidden_size / config.num_attention_heads
                           : config.is_qwen3_5() ? 256
                                                 : 128;
  config.head_dim = reader.integer("head_dim", head_dim);
  if (config.num_attention_heads % config.num_key_value_heads)
    fail<FormatError>("bad-config", reader.where(),
                      "num_key_value_heads: expected a divisor of num_attention_heads {}, got {}",
                      config.num_attention_heads, config.num_key_value_heads);
  read_rope(reader, config);
}

void read_mixers(const Reader& reader, ModelConfig& config) {
  const int64_t layers = config.num_hidden_layers;
  const Json* types = reader.find("layer_types");
  if (types && (!types->is_array() || static_cast<int64_t>(types->size()) != layers))
    reader.bad("layer_types", fmt::format("a list of {} entries", layers), *types);
  const int64_t interval = config.is_qwen3_5() ? reader.integer("full_attention_interval", 4) : 1;
  for (int64_t i = 0; i < layers; ++i) {
    bool full = (i + 1) % interval == 0;
    if (types) {
      const Json& type = (*types)[static_cast<size_t>(i)];
      full = type == Json("full_attention");
      if (!full && !(config.is_qwen3_5() && type == Json("linear_attention")))
        reader.unsupported(
            fmt::format("layer_types[{}]", i),
            config.is_qwen3_5() ? "full_attention or linear_attention" : "full_attention", type);
    }
    config.mixers.push_back(full ? MixerKind::kAttention : MixerKind::kGatedDelta);
  }
  if (!config.is_qwen3_5()) return;
  config.linear_num_key_heads = reader.integer("linear_num_key_heads", 16, 1, kMostHeads);
  config.linear_num_value_heads = reader.integer("linear_num_value_heads", 32, 1, kMostHeads);
  config.linear_key_head_dim = reader.integer("linear_key_head_dim", 128);
  config.linear_value_head_dim = reader.integer("linear_value_head_dim", 128);
  config.linear_conv_kernel_dim = reader.integer("linear_conv_kernel_dim", 4, 2);
  if (config.linear_num_value_heads % config.linear_num_key_heads)
    fail<FormatError>(
        "bad-config", reader.where(),
        "linear_num_value_heads: expected a multiple of linear_num_key_heads {}, got {}",
        config.linear_num_key_heads, config.linear_num_value_heads);
}

void read_experts(const Reader& reader, ModelConfig& config) {
  const bool is_moe = config.family == Family::kQwen3Moe || config.family == Family::kQwen3_5Moe;
  config.moe_layers.assign(static_cast<size_t>(config.num_hidden_layers), false);
  if (!is_moe) {
    config.intermediate_size = reader.integer("intermediate_size");
    return;
  }
  // transformers 5 writes num_local_experts alone for qwen3_moe (spec models.md 1.8).
  config.num_experts =
      reader.integer(reader.find("num_experts") ? "num_experts" : "num_local_experts", {}, 1,
                     kMostExperts / config.num_hidden_layers);
  config.num_experts_per_tok = reader.integer("num_experts_per_tok", 8);
  config.moe_intermediate_size =
      reader.integer("moe_intermediate_size", config.is_qwen3_5() ? 512 : 768);
  if (config.num_experts_per_tok > config.num_experts)
    fail<FormatError>("bad-config", reader.where(),
                      "num_experts_per_tok: expected at most num_experts {}, got {}",
                      config.num_experts, config.num_experts_per_tok);
  const Json* router_loss = reader.find("output_router_logits");
  if (router_loss && *router_loss == Json(true))
    reader.unsupported("output_router_logits", "false", *router_loss);
  if (config.is_qwen3_5()) {
    config.shared_expert_intermediate_size = reader.integer("shared_expert_intermediate_size", 512);
    config.moe_layers.assign(static_cast<size_t>(config.num_hidden_layers), true);
    return;
  }
  config.norm_topk_prob = reader.boolean("norm_topk_prob", false);
  const int64_t step = reader.integer("decoder_sparse_step", 1);
  std::vector<bool> dense(config.moe_layers.size(), false);
  if (const Json* only = reader.find("mlp_only_layers")) {
    if (!only->is_array()) reader.bad("mlp_only_layers", "a list", *only);
    for (const Json& layer : *only) {
      if (!layer.is_number_integer() || layer.get<int64_t>() < 0 ||
          layer.get<int64_t>() >= config.num_hidden_layers)
        reader.bad("mlp_only_layers", "layer numbers", *only);
      dense[layer.get<size_t>()] = true;
    }
  }
  bool any_dense = false;
  for (size_t i = 0; i < config.moe_layers.size(); ++i) {
    config.moe_layers[i] = !dense[i] && (static_cast<int64_t>(i) + 1) % step == 0;
    any_dense |= !config.moe_layers[i];
  }
  if (any_dense) config.intermediate_size = reader.integer("intermediate_size");
}

void read_tail(const Reader& reader, ModelConfig& config) {
  // For the nested form the top level decides; text_config only carries a copy (spec
  // models.md 1.1).
  const auto top = reader.root().find("tie_word_embeddings");
  config.tie_word_embeddings = top != reader.root().end() && top->is_boolean()
                                   ? top->get<bool>()
                                   : reader.boolean("tie_word_embeddings", false);
  if (const Json* eos = reader.find("eos_token_id")) {
    const Json list = eos->is_array() ? *eos : Json::array({*eos});
    for (const Json& id : list) {
      if (!id.is_number_integer()) reader.bad("eos_token_id", "an id or a list of ids", *eos);
      config.eos_token_ids.push_back(id.get<int64_t>());
    }
  }
  const Json* dtype = reader.find("dtype");
  if (!dtype) dtype = reader.find("torch_dtype");
  if (!dtype) return;
  if (*dtype == Json("float32"))
    config.dtype = WeightDtype::kFloat32;
  else if (*dtype != Json("bfloat16"))
    reader.unsupported("dtype", "float32 or bfloat16", *dtype);
}

}  // namespace

std::string_view family_name(Family family) {
  for (const auto& [value, name] : kFamilies)
    if (value == family) return name;
  LOCKSTEP_CHECK(false, "family {}", static_cast<int>(family));
  return {};
}

std::optional<Family> family_of_name(std::string_view name) {
  for (const auto& [value, text] : kFamilies)
    if (text == name) return value;
  return {};
}

ModelConfig parse_model_config(const Json& json, std::string_view where) {
  const Reader reader(json, where);
  ModelConfig config;
  config.family = read_family(reader);
  config.is_nested = reader.is_nested();
  refuse_unsupported(reader, config.is_qwen3_5());
  config.vocab_size = reader.integer("vocab_size");
  config.hidden_size = reader.integer("hidden_size");
  config.num_hidden_layers = reader.integer("num_hidden_layers", {}, 1, kMostLayers);
  config.max_position_embeddings = reader.integer("max_position_embeddings", 32768);
  config.rms_norm_eps = reader.number("rms_norm_eps", 1e-6);
  config.initializer_range = reader.number("initializer_range", 0.02);
  read_attention(reader, config);
  read_mixers(reader, config);
  read_experts(reader, config);
  read_tail(reader, config);
  return config;
}

}  // namespace lockstep::model
