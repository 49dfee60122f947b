// SPDX-License-Identifier: Apache-2.0
#include "model/config.h"

#include "tests/model/published_configs.h"
#include "tests/support/expect_error.h"

namespace lockstep::model {
namespace {

using testing::qwen35_config;
using testing::qwen3_config;
using testing::qwen3_moe_config;

ModelConfig parse(const Json& json) { return parse_model_config(json, "config.json"); }

Json dense_35() { return qwen35_config(testing::kQwen35Sizes[0]); }
Json moe_35() { return qwen35_config(testing::kQwen35Sizes[5]); }

/// The flat form of a nested config: what a text-only save writes.
Json flat(const Json& nested) {
  Json config = nested.at("text_config");
  config["architectures"] = {"Qwen3_5ForCausalLM"};
  return config;
}

/// A change that makes a config unsupported or bad, and words of the message.
struct Change {
  std::string key;
  Json value;
  std::string words;
};

void expect_refused(const Json& config,
                    const std::vector<Change>& changes,
                    const std::string& code) {
  for (const auto& [key, value, words] : changes) {
    SCOPED_TRACE(key + " = " + value.dump());
    Json changed = config;
    (changed.contains("text_config") ? changed["text_config"] : changed)[key] = value;
    EXPECT_ERROR(parse(changed), FormatError, code, words);
    EXPECT_ERROR(parse(changed), FormatError, code, "config.json: ");
  }
}

TEST(ModelConfig, ReadsPublishedQwen35) {
  const ModelConfig config = parse(dense_35());
  EXPECT_EQ(config.family, Family::kQwen3_5);
  EXPECT_TRUE(config.is_nested);
  EXPECT_EQ(config.vocab_size, 248320);
  EXPECT_EQ(config.hidden_size, 1024);
  EXPECT_EQ(config.intermediate_size, 3584);
  EXPECT_EQ(config.num_hidden_layers, 24);
  EXPECT_EQ(config.num_attention_heads, 8);
  EXPECT_EQ(config.num_key_value_heads, 2);
  EXPECT_EQ(config.head_dim, 256);
  EXPECT_EQ(config.max_position_embeddings, 262144);
  EXPECT_EQ(config.rms_norm_eps, 1e-6);
  EXPECT_TRUE(config.tie_word_embeddings);
  EXPECT_EQ(config.dtype, WeightDtype::kBFloat16);
  EXPECT_EQ(config.rope_theta, 1e7);
  EXPECT_EQ(config.rotary_dim, 64);
  EXPECT_EQ(config.linear_num_key_heads, 16);
  EXPECT_EQ(config.linear_num_value_heads, 16);
  EXPECT_EQ(config.conv_dim(), 6144);
  EXPECT_EQ(config.query_rows(), 4096);
  EXPECT_EQ(config.key_value_rows(), 512);
  EXPECT_EQ(config.eos_token_ids, std::vector<int64_t>{248044});
  EXPECT_EQ(config.num_experts, 0);
  for (size_t i = 0; i < 24; ++i) {
    EXPECT_EQ(config.mixers[i], i % 4 == 3 ? MixerKind::kAttention : MixerKind::kGatedDelta);
    EXPECT_FALSE(config.moe_layers[i]);
  }
}

TEST(ModelConfig, ReadsPublishedQwen35Moe) {
  const ModelConfig config = parse(moe_35());
  EXPECT_EQ(config.family, Family::kQwen3_5Moe);
  EXPECT_EQ(config.num_experts, 256);
  EXPECT_EQ(config.num_experts_per_tok, 8);
  EXPECT_EQ(config.moe_intermediate_size, 512);
  EXPECT_EQ(config.shared_expert_intermediate_size, 512);
  EXPECT_EQ(config.intermediate_size, 0);
  EXPECT_TRUE(config.norm_topk_prob);
  EXPECT_FALSE(config.tie_word_embeddings);
  EXPECT_EQ(config.moe_layers, std::vector<bool>(40, true));
}

TEST(ModelConfig, ReadsPublishedQwen3) {
  const ModelConfig config = parse(qwen3_config());
  EXPECT_EQ(config.family, Family::kQwen3);
  EXPECT_FALSE(config.is_nested);
  EXPECT_EQ(config.head_dim, 128);
  EXPECT_EQ(config.rotary_dim, 128);
  EXPECT_EQ(config.rope_theta, 1e6);
  EXPECT_EQ(config.query_rows(), 2048);
  EXPECT_EQ(config.conv_dim(), 0);
  EXPECT_EQ(config.mixers, std::vector<MixerKind>(28, MixerKind::kAttention));
  EXPECT_EQ(config.eos_token_ids, std::vector<int64_t>{151645});
  const ModelConfig moe = parse(qwen3_moe_config());
  EXPECT_EQ(moe.family, Family::kQwen3Moe);
  EXPECT_EQ(moe.num_experts, 128);
  EXPECT_EQ(moe.moe_intermediate_size, 768);
  EXPECT_EQ(moe.shared_expert_intermediate_size, 0);
  EXPECT_TRUE(moe.norm_topk_prob);
}

TEST(ModelConfig, FlatNestedAndMixedFormsSayTheSame) {
  for (const Json& nested : {dense_35(), moe_35()}) {
    // Keys of the text at the top level and in text_config by turns.
    Json mixed = nested;
    mixed["text_config"].clear();
    int turn = 0;
    for (const auto& [key, value] : nested["text_config"].items())
      (turn++ % 2 && key != "model_type" ? mixed : mixed["text_config"])[key] = value;
    const ModelConfig a = parse(nested), b = parse(flat(nested)), c = parse(mixed);
    EXPECT_TRUE(a.is_nested && c.is_nested);
    EXPECT_FALSE(b.is_nested);
    for (const ModelConfig& other : {b, c}) {
      EXPECT_EQ(other.family, a.family);
      EXPECT_EQ(other.hidden_size, a.hidden_size);
      EXPECT_EQ(other.head_dim, a.head_dim);
      EXPECT_EQ(other.rotary_dim, a.rotary_dim);
      EXPECT_EQ(other.rope_theta, a.rope_theta);
      EXPECT_EQ(other.mixers, a.mixers);
      EXPECT_EQ(other.moe_layers, a.moe_layers);
      EXPECT_EQ(other.num_experts, a.num_experts);
      EXPECT_EQ(other.intermediate_size, a.intermediate_size);
      EXPECT_EQ(other.conv_dim(), a.conv_dim());
      EXPECT_EQ(other.tie_word_embeddings, a.tie_word_embeddings);
      EXPECT_EQ(other.eos_token_ids, a.eos_token_ids);
    }
  }
}

TEST(ModelConfig, TextConfigWinsOverTheTopLevelButForTying) {
  Json config = dense_35();
  config["hidden_size"] = 77;
  EXPECT_EQ(parse(config).hidden_size, 1024);
  config["tie_word_embeddings"] = false;
  EXPECT_FALSE(parse(config).tie_word_embeddings);
  config["tie_word_embeddings"] = true;
  config["text_config"]["tie_word_embeddings"] = false;
  EXPECT_TRUE(parse(config).tie_word_embeddings);
  config.erase("tie_word_embeddings");
  EXPECT_FALSE(parse(config).tie_word_embeddings);
}

TEST(ModelConfig, VisionConfigsModelTypeAndRopeDoNotCount) {
  Json config = dense_35();
  config["vision_config"]["model_type"] = "qwen3_5_vision";
  config["vision_config"]["rope_parameters"] = {{"rope_type", "axial"}, {"rope_theta", 10000}};
  EXPECT_EQ(parse(config).rope_theta, 1e7);
}

TEST(ModelConfig, AnyRopeSpellingSaysTheSame) {
  const Json values{{"rope_theta", 5e6}, {"partial_rotary_factor", 0.5}};
  std::vector<std::pair<std::string, Json>> spellings;
  const auto add = [&](const std::string& name, const auto& change) {
    for (const bool nested : {true, false}) {
      Json config = nested ? dense_35() : flat(dense_35());
      Json& text = nested ? config["text_config"] : config;
      text.erase("rope_parameters");
      change(text);
      spellings.emplace_back(name + (nested ? ", nested" : ", flat"), config);
    }
  };
  const auto with = [&](Json more) {
    more.update(values);
    return more;
  };
  add("rope_parameters", [&](Json& text) { text["rope_parameters"] = values; });
  add("rope_type", [&](Json& text) { text["rope_parameters"] = with({{"rope_type", "default"}}); });
  add("type", [&](Json& text) { text["rope_parameters"] = with({{"type", "default"}}); });
  add("rope_scaling", [&](Json& text) {
    text["rope_scaling"] = with({{"type", "default"}, {"mrope_section", {11, 11, 10}}});
  });
  add("mrope", [&](Json& text) { text["rope_scaling"] = with({{"type", "mrope"}}); });
  add("siblings", [&](Json& text) { text.update(values); });
  add("siblings beside null", [&](Json& text) {
    text["rope_scaling"] = nullptr;
    text["rope_parameters"] = nullptr;
    text.update(values);
  });
  add("half a sibling", [&](Json& text) {
    text["rope_parameters"] = {{"rope_theta", 5e6}};
    text["partial_rotary_factor"] = 0.5;
  });
  add("inside wins", [&](Json& text) {
    text["rope_parameters"] = values;
    text.update(Json{{"rope_theta", 1}, {"partial_rotary_factor", 1.0}});
  });
  add("rope_scaling wins", [&](Json& text) {
    text["rope_parameters"] = {{"rope_theta", 1}, {"partial_rotary_factor", 1.0}};
    text["rope_scaling"] = values;
  });
  for (const auto& [name, config] : spellings) {
    EXPECT_EQ(parse(config).rope_theta, 5e6) << name;
    EXPECT_EQ(parse(config).rotary_dim, 128) << name;
  }
  Json top = dense_35();
  top["text_config"].erase("rope_parameters");
  top["rope_theta"] = 3e6;
  EXPECT_EQ(parse(top).rope_theta, 3e6);
  EXPECT_EQ(parse(top).rotary_dim, 64);  // the family's default is a quarter
}

TEST(ModelConfig, RopeDefaults) {
  Json config = qwen3_config();
  config.erase("rope_theta");
  EXPECT_EQ(parse(config).rope_theta, 10000);
  EXPECT_EQ(parse(config).rotary_dim, 128);
}

TEST(ModelConfig, HeadDimDefaultsByFamily) {
  Json dense = qwen3_config(), moe = qwen3_moe_config(), qwen35 = dense_35();
  dense.erase("head_dim");
  moe.erase("head_dim");
  qwen35["text_config"].erase("head_dim");
  EXPECT_EQ(parse(dense).head_dim, 128);
  EXPECT_EQ(parse(moe).head_dim, 64);
  EXPECT_EQ(parse(qwen35).head_dim, 256);
}

TEST(ModelConfig, NumLocalExpertsAloneIsEnough) {
  Json config = qwen3_moe_config();
  config["num_local_experts"] = config["num_experts"];
  config.erase("num_experts");
  EXPECT_EQ(parse(config).num_experts, 128);
  config.erase("num_local_experts");
  EXPECT_ERROR(parse(config), FormatError, "bad-config", "num_experts");
}

TEST(ModelConfig, NormTopkProbIsFalseUnlessSaidForQwen3MoeAndAlwaysTrueForQwen35) {
  Json config = qwen3_moe_config();
  config.erase("norm_topk_prob");
  EXPECT_FALSE(parse(config).norm_topk_prob);
  EXPECT_TRUE(parse(moe_35()).norm_topk_prob);
}

TEST(ModelConfig, SparseStepAndDenseLayersChooseTheExperts) {
  Json config = qwen3_moe_config();
  config["num_hidden_layers"] = 6;
  config["decoder_sparse_step"] = 2;
  config["mlp_only_layers"] = {3};
  const ModelConfig parsed = parse(config);
  EXPECT_EQ(parsed.moe_layers, (std::vector<bool>{false, true, false, false, false, true}));
  EXPECT_EQ(parsed.intermediate_size, 6144);
  config.erase("intermediate_size");
  EXPECT_ERROR(parse(config), FormatError, "bad-config", "intermediate_size");
  // Inert for Qwen3.5, whose layers all have experts.
  Json qwen35 = moe_35();
  qwen35["text_config"]["mlp_only_layers"] = {0};
  EXPECT_EQ(parse(qwen35).moe_layers, std::vector<bool>(40, true));
}

TEST(ModelConfig, LayerTypesWinOverTheInterval) {
  Json config = dense_35();
  config["text_config"]["full_attention_interval"] = 2;
  EXPECT_EQ(parse(config).mixers[1], MixerKind::kGatedDelta);
  config["text_config"].erase("layer_types");
  EXPECT_EQ(parse(config).mixers[1], MixerKind::kAttention);
  EXPECT_EQ(parse(config).mixers[2], MixerKind::kGatedDelta);
  config["text_config"].erase("full_attention_interval");
  EXPECT_EQ(parse(config).mixers[1], MixerKind::kGatedDelta);
  EXPECT_EQ(parse(config).mixers[3], MixerKind::kAttention);
  Json dense = qwen3_config();
  dense["layer_types"] = Json(std::vector<std::string>(28, "full_attention"));
  EXPECT_EQ(parse(dense).mixers, std::vector<MixerKind>(28, MixerKind::kAttention));
}

TEST(ModelConfig, EosIsAnIdAListOrNothing) {
  Json config = qwen3_config();
  config["eos_token_id"] = {5, 9};
  EXPECT_EQ(parse(config).eos_token_ids, (std::vector<int64_t>{5, 9}));
  config["eos_token_id"] = nullptr;
  EXPECT_TRUE(parse(config).eos_token_ids.empty());
  config["eos_token_id"] = "</s>";
  EXPECT_ERROR(parse(config), FormatError, "bad-config", "eos_token_id");
  // Two levels may each know some.
  Json nested = qwen35_config(testing::kQwen35Sizes[0]);
  nested["text_config"]["eos_token_id"] = 5;
  nested["eos_token_id"] = {9, 5};
  EXPECT_EQ(parse(nested).eos_token_ids, (std::vector<int64_t>{5, 9}));
  nested["text_config"].erase("eos_token_id");
  EXPECT_EQ(parse(nested).eos_token_ids, (std::vector<int64_t>{9, 5}));
}

TEST(ModelConfig, DtypeInOldAndNewSpelling) {
  Json config = qwen3_config();
  EXPECT_EQ(parse(config).dtype, WeightDtype::kBFloat16);
  config["dtype"] = "float32";  // the new key wins
  EXPECT_EQ(parse(config).dtype, WeightDtype::kFloat32);
  // float16 is computed with in float32, which has all its values.
  config["dtype"] = "float16";
  EXPECT_EQ(parse(config).dtype, WeightDtype::kFloat32);
  config["dtype"] = "float64";
  EXPECT_ERROR(parse(config), FormatError, "unsupported-config", "dtype");
}

TEST(ModelConfig, RopeValidationKeysAreIgnored) {
  Json config = dense_35();
  config["text_config"]["ignore_keys_at_rope_validation"] = {"mrope_section", "mrope_interleaved"};
  config["ignore_keys_at_rope_validation"] = Json::array();
  EXPECT_EQ(parse(config).rotary_dim, 64);
}

TEST(ModelConfig, UnknownKeysAreIgnored) {
  Json config = qwen3_config();
  config["something_new"] = {{"a", 1}};
  EXPECT_EQ(parse(config).hidden_size, 1024);
}

TEST(ModelConfig, KeysThatChangeTheMathsAreRefusedByName) {
  const std::vector<Change> everywhere{
      {"attention_bias", true, "attention_bias"},
      {"mlp_bias", true, "mlp_bias"},
      {"use_sliding_window", true, "use_sliding_window"},
      {"hidden_act", "gelu", "hidden_act"},
      {"attention_dropout", 0.1, "attention_dropout"},
      {"quantization_config", {{"quant_method", "fp8"}}, "quantization_config"},
      {"rope_scaling", {{"rope_type", "yarn"}, {"factor", 4.0}}, "rope_scaling.rope_type"},
      {"final_logit_softcapping", 30.0, "final_logit_softcapping"},
      {"is_causal", false, "is_causal"}};
  Json flat_35 = flat(dense_35());
  flat_35.erase("rope_parameters");
  for (const Json& config : {qwen3_config(), qwen3_moe_config(), flat_35})
    expect_refused(config, everywhere, "unsupported-config");
  Json sliding = Json(std::vector<std::string>(28, "full_attention"));
  sliding[4] = "sliding_attention";
  expect_refused(
      qwen3_config(),
      {{"layer_types", sliding, "layer_types[4]"}, {"model_type", "llama", "model_type"}},
      "unsupported-config");
  // Qwen3 has no gated delta layers.
  sliding[4] = "linear_attention";
  expect_refused(qwen3_config(), {{"layer_types", sliding, "layer_types[4]"}},
                 "unsupported-config");
  expect_refused(
      dense_35(),
      {{"attn_output_gate", false, "attn_output_gate"},
       {"rope_parameters", {{"rope_type", "yarn"}, {"factor", 4.0}}, "rope_parameters.rope_type"},
       {"rope_parameters", {{"type", "linear"}}, "rope_parameters.type"},
       {"output_gate_type", "sigmoid", "output_gate_type"}},
      "unsupported-config");
  expect_refused(moe_35(), {{"output_router_logits", true, "output_router_logits"}},
                 "unsupported-config");
}

TEST(ModelConfig, HarmlessValuesOfThoseKeysAreAccepted) {
  Json config = dense_35();
  config["text_config"].update(Json{
      {"quantization_config", nullptr}, {"attention_dropout", 0}, {"output_gate_type", "swish"}});
  EXPECT_EQ(parse(config).hidden_size, 1024);
  Json dense = qwen3_config();
  dense["attn_output_gate"] = false;  // Qwen3 has no such gate
  EXPECT_EQ(parse(dense).hidden_size, 1024);
}

TEST(ModelConfig, ImpossibleValuesAreErrorsThatNameTheKey) {
  expect_refused(qwen3_config(),
                 {{"hidden_size", nullptr, "hidden_size"},
                  {"hidden_size", 0, "hidden_size"},
                  {"hidden_size", "big", "hidden_size"},
                  {"hidden_size", 10.5, "hidden_size"},
                  {"vocab_size", -1, "vocab_size"},
                  {"num_hidden_layers", 0, "num_hidden_layers"},
                  {"num_key_value_heads", 3, "num_key_value_heads"},
                  {"rms_norm_eps", "small", "rms_norm_eps"},
                  {"tie_word_embeddings", "yes", "tie_word_embeddings"},
                  {"rope_theta", -1, "rope_theta"},
                  {"rope_theta", "big", "rope_theta"},
                  {"rope_scaling", "yarn", "rope_scaling"},
                  {"partial_rotary_factor", 0.001, "partial_rotary_factor"},
                  {"partial_rotary_factor", 2.0, "partial_rotary_factor"},
                  {"layer_types", {"full_attention"}, "layer_types"},
                  {"intermediate_size", nullptr, "intermediate_size"},
                  {"model_type", 3, "model_type"}},
                 "bad-config");
  expect_refused(qwen3_moe_config(),
                 {{"num_experts_per_tok", 129, "num_experts_per_tok"},
                  {"mlp_only_layers", {48}, "mlp_only_layers"},
                  {"mlp_only_layers", 3, "mlp_only_layers"},
                  {"decoder_sparse_step", 0, "decoder_sparse_step"}},
                 "bad-config");
  expect_refused(dense_35(),
                 {{"linear_num_value_heads", 24, "linear_num_value_heads"},
                  {"linear_conv_kernel_dim", 1, "linear_conv_kernel_dim"}},
                 "bad-config");
}

TEST(ModelConfig, AConfigThatIsNoObjectIsAnError) {
  EXPECT_ERROR(parse(Json::array()), FormatError, "bad-config", "object");
  EXPECT_ERROR(parse(Json{{"text_config", 3}}), FormatError, "bad-config", "text_config");
  EXPECT_ERROR(parse(Json::object()), FormatError, "bad-config", "model_type");
}

TEST(ModelConfig, FamilyNamesRoundTrip) {
  for (const Family family :
       {Family::kQwen3, Family::kQwen3Moe, Family::kQwen3_5, Family::kQwen3_5Moe})
    EXPECT_EQ(enum_of_name<Family>(enum_name(family)), family);
  EXPECT_EQ(enum_of_name<Family>("llama"), std::nullopt);
}

}  // namespace
}  // namespace lockstep::model
