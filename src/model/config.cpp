// SPDX-License-Identifier: Apache-2.0
#include "model/config.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <utility>

#include "base/check.h"
#include "base/json.h"

namespace lockstep::model {
namespace {

/// Limits far above every model. The tensors that a config.json promises are listed before they are
/// looked for, and the list has to fit into memory: experts are counted over all layers, and
/// queries are listed by head.
constexpr int64_t kLargest = int64_t{1} << 40, kMostLayers = 4096, kMostHeads = 65536,
                  kMostExperts = int64_t{1} << 17;

/// Looks keys up in text_config first and in the root second, and turns them into values with
/// errors that name them.
class Reader {
 public:
  Reader(const Json& config, std::string_view where) : root_(config), where_(where) {
    if (!config.is_object())
      fail<FormatError>("bad-config", where_, "expected an object, got {}", config.type_name());
    const auto text = config.find("text_config");
    if (text != config.end() && !text->is_null()) {
      if (!text->is_object())
        fail<FormatError>("bad-config", where_, "text_config: expected an object, got {}",
                          text->type_name());
      text_ = &*text;
    }
  }

  bool is_nested() const { return text_ != nullptr; }
  const Json& root() const { return root_; }
  std::string_view where() const { return where_; }
  /// The levels that are searched: text_config if there is one, then the root.
  std::vector<const Json*> levels() const {
    return text_ ? std::vector<const Json*>{text_, &root_} : std::vector<const Json*>{&root_};
  }

  /// Whether some level has `key`, even if its value is null.
  bool has(const char* key) const { return (text_ && text_->contains(key)) || root_.contains(key); }

  /// The value of `key`; a null pointer if no level has it or if it is null.
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
  // vision_config repeats the parent's model_type, so only the root's and the text's count.
  const auto root = reader.root().find("model_type");
  if (root != reader.root().end()) type = &*root;
  if (!type) type = reader.find("model_type");
  if (!type || !type->is_string())
    fail<FormatError>("bad-config", reader.where(), "model_type: expected a string, got none");
  std::string name = type->get<std::string>();
  if (name.ends_with("_text")) name.resize(name.size() - 5);
  if (const auto family = enum_of_name<Family>(name)) return *family;
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
        "query_pre_attn_scalar", "qkv_bias", "per_layer_config"}) {
    const Json* value = reader.find(key);
    const bool says_nothing =
        !value || *value == Json(false) || (value->is_structured() && value->empty());
    if (!says_nothing) reader.unsupported(key, "no such key", *value);
  }
  const Json* gate = reader.find("output_gate_type");
  if (gate && *gate != Json("swish") && *gate != Json("silu"))
    reader.unsupported("output_gate_type", "swish", *gate);
}

/// What one level of a config.json says about how heads rotate.
struct RopePlace {
  std::string name;
  const Json* values = nullptr;
};

/// transformers takes `rope_scaling or rope_parameters`: the old key replaces the new one as a
/// whole unless it says nothing (null, false, {}). Source: modeling_rope_utils.py,
/// convert_rope_params_to_dict.
RopePlace rope_place(const Reader& reader, const Json& level) {
  for (const char* name : {"rope_scaling", "rope_parameters"}) {
    const auto found = level.find(name);
    if (found == level.end() || found->is_null() || *found == Json(false) ||
        (found->is_structured() && found->empty()))
      continue;
    if (!found->is_object()) reader.bad(name, "an object", *found);
    return {name, &*found};
  }
  return {};
}

/// Refuses every rotation except the plain one, under both names of its type.
void check_rope_type(const Reader& reader, const RopePlace& place) {
  for (const auto& [key, value] : place.values->items()) {
    const bool is_type = key == "rope_type" || key == "type";
    // "mrope" is an old spelling of the default type with sections.
    if (is_type && !value.is_null() && value != Json("default") && value != Json("mrope"))
      reader.unsupported(fmt::format("{}.{}", place.name, key), "default", value);
    if (value.is_object())
      reader.unsupported(fmt::format("{}.{}", place.name, key), "numbers for all layers alike",
                         value);
  }
}

/// Reads the numbers of the rotation: those inside its object win over a sibling key, which wins
/// over the default. What the root of a nested configuration says counts where text_config says
/// nothing, and is checked in any case: who writes YaRN there means it, and no engine would apply
/// it.
void read_rope(const Reader& reader, ModelConfig& config) {
  RopePlace inside;
  for (const Json* level : reader.levels()) {
    RopePlace place = rope_place(reader, *level);
    if (!place.values) continue;
    check_rope_type(reader, place);
    if (!inside.values) inside = std::move(place);
  }
  const auto number = [&](const char* key, double standard) {
    if (inside.values) {
      const auto found = inside.values->find(key);
      if (found != inside.values->end() && !found->is_null()) {
        if (!found->is_number())
          reader.bad(fmt::format("{}.{}", inside.name, key), "a number", *found);
        return found->get<double>();
      }
    }
    // transformers cannot compute with a null, and a default instead of it would be a guess.
    if (reader.has(key) && !reader.find(key)) reader.bad(key, "a number", Json());
    return reader.number(key, standard);
  };
  config.rope_theta = number("rope_theta", 10000.0);
  const double factor = number("partial_rotary_factor", config.is_qwen3_5() ? 0.25 : 1.0);
  if (!(config.rope_theta > 0) || !std::isfinite(config.rope_theta))
    fail<FormatError>("bad-config", reader.where(),
                      "rope_theta: expected a positive number, got {}", config.rope_theta);
  const double rotated = static_cast<double>(config.head_dim) * factor;
  // Compared before the cast, which is undefined for a number outside int64.
  if (rotated >= 2 && rotated < static_cast<double>(config.head_dim) + 1)
    config.rotary_dim = static_cast<int64_t>(rotated);
  else
    config.rotary_dim = 0;
  if (config.rotary_dim < 2 || config.rotary_dim % 2)
    fail<FormatError>("bad-config", reader.where(),
                      "partial_rotary_factor: expected an even number of rotated dimensions of 2 "
                      "to head_dim {}, got {}",
                      config.head_dim, rotated);
  // transformers ignores the key for these families, vLLM obeys it.
  if (!config.is_qwen3_5() && factor != 1)
    reader.unsupported("partial_rotary_factor", "1", Json(factor));
}

/// The default of the family's class in transformers, for a config.json without the key; null means
/// as many as there are query heads.
int64_t default_key_value_heads(const Reader& reader, const ModelConfig& config) {
  if (reader.has("num_key_value_heads")) return config.num_attention_heads;
  if (config.family == Family::kQwen3) return 32;
  return config.family == Family::kQwen3_5Moe ? 2 : 4;
}

void read_attention(const Reader& reader, ModelConfig& config) {
  config.num_attention_heads = reader.integer("num_attention_heads", {}, 1, kMostHeads);
  config.num_key_value_heads =
      reader.integer("num_key_value_heads", default_key_value_heads(reader, config));
  // The default differs by class. Source: transformers 5.23, configuration_qwen3*.py.
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
      // "attention" is the older name.
      full = type == Json("full_attention") || type == Json("attention");
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
  // transformers 5 writes num_local_experts alone for qwen3_moe, and reads it before num_experts
  // there; qwen3_5_moe has num_experts.
  const bool is_local = reader.find("num_local_experts") &&
                        (config.family == Family::kQwen3Moe || !reader.find("num_experts"));
  config.num_experts = reader.integer(is_local ? "num_local_experts" : "num_experts", {}, 1,
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

/// The root decides before text_config, and in each the new key before the old one, as in
/// transformers.
void read_dtype(const Reader& reader, ModelConfig& config) {
  const auto levels = reader.levels();
  for (auto level = levels.rbegin(); level != levels.rend(); ++level) {
    for (const char* key : {"dtype", "torch_dtype"}) {
      const auto found = (*level)->find(key);
      if (found == (*level)->end() || found->is_null()) continue;
      // Every float16 value is a float32.
      if (*found == Json("float32") || *found == Json("float16"))
        config.dtype = WeightDtype::kFloat32;
      else if (*found != Json("bfloat16"))
        reader.unsupported(key, "float32, bfloat16 or float16", *found);
      return;
    }
  }
}

void read_tail(const Reader& reader, ModelConfig& config) {
  // In the nested form the top level decides; text_config only carries a copy.
  const auto top = reader.root().find("tie_word_embeddings");
  config.tie_word_embeddings = top != reader.root().end() && top->is_boolean()
                                   ? top->get<bool>()
                                   : reader.boolean("tie_word_embeddings", false);
  // What one level alone knows ends a text as well.
  for (const Json* level : reader.levels()) {
    const auto eos = level->find("eos_token_id");
    if (eos == level->end() || eos->is_null()) continue;
    for (const Json& id : eos->is_array() ? *eos : Json::array({*eos})) {
      if (!id.is_number_integer()) reader.bad("eos_token_id", "an id or a list of ids", *eos);
      auto& ids = config.eos_token_ids;
      if (std::find(ids.begin(), ids.end(), id.get<int64_t>()) == ids.end())
        ids.push_back(id.get<int64_t>());
    }
  }
  read_dtype(reader, config);
}

}  // namespace

std::span<const EnumName<Family>> enum_names(Family) {
  static constexpr EnumName<Family> kNames[] = {{Family::kQwen3, "qwen3"},
                                                {Family::kQwen3Moe, "qwen3_moe"},
                                                {Family::kQwen3_5, "qwen3_5"},
                                                {Family::kQwen3_5Moe, "qwen3_5_moe"}};
  return kNames;
}

std::span<const EnumName<WeightDtype>> enum_names(WeightDtype) {
  static constexpr EnumName<WeightDtype> kNames[] = {{WeightDtype::kFloat32, "float32"},
                                                     {WeightDtype::kBFloat16, "bfloat16"}};
  return kNames;
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
