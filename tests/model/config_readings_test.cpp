// Configurations that say a thing in two places, in old words or not at all: read as transformers
// reads them (tests/data/configs, written by tools/golden/config_readings.py).
// SPDX-License-Identifier: Apache-2.0
#include "base/file.h"
#include "base/json.h"
#include "model/config.h"
#include "tests/model/published_configs.h"
#include "tests/support/expect_error.h"
#include "tests/support/json_lines.h"
#include "tests/support/source_dir.h"

namespace lockstep::model {
namespace {

ModelConfig parse(const Json& json) { return parse_model_config(json, "config.json"); }

/// What the golden file says of a configuration, as Lockstep reads it.
Json reading_of(const Json& json) {
  const ModelConfig config = parse(json);
  Json full = Json::array();
  for (const MixerKind mixer : config.mixers) full.push_back(mixer == MixerKind::kAttention);
  return {{"rope_theta", config.rope_theta},    {"rotary_dim", config.rotary_dim},
          {"head_dim", config.head_dim},        {"num_key_value_heads", config.num_key_value_heads},
          {"num_experts", config.num_experts},  {"full_attention", full},
          {"tied", config.tie_word_embeddings}, {"dtype", enum_name(config.dtype)}};
}

TEST(ConfigReadings, AreTransformers) {
  int64_t read = 0, refused = 0;
  for_each_json_line(
      testing::source_dir() / "tests/data/configs/readings.jsonl", [&](int64_t, const Json& row) {
        SCOPED_TRACE(row["name"].get<std::string>());
        const std::string differs = row.value("differs", "");
        Json expected = row["reading"];
        if (differs.starts_with("refused") || (expected.is_null() && differs.empty())) {
          EXPECT_THROW(parse(row["config"]), FormatError);
          ++refused;
          return;
        }
        Json got;
        ASSERT_NO_THROW(got = reading_of(row["config"]));
        ++read;
        if (!differs.empty() || expected.is_null()) return;
        // Without the key each tensor's own dtype holds.
        if (expected["dtype"] == "None") got["dtype"] = "None";
        EXPECT_EQ(got, expected);
      });
  EXPECT_GT(read, 150);
  EXPECT_GT(refused, 80);
}

TEST(ConfigReadings, FieldCasesAreRefusedByName) {
  int64_t cases = 0;
  for_each_json_line(testing::source_dir() / "tests/data/field_cases/checkpoints.jsonl",
                     [&](int64_t, const Json& row) {
                       if (!row.contains("config")) return;
                       ++cases;
                       for (const bool nested : {false, true}) {
                         Json config = nested ? testing::qwen35_config(testing::kQwen35Sizes[0])
                                              : testing::qwen3_config();
                         (nested ? config["text_config"] : config).update(row["config"]);
                         EXPECT_ERROR(parse(config), FormatError, "unsupported-config",
                                      "rope_scaling.rope_type: expected default");
                       }
                     });
  EXPECT_EQ(cases, 1);
}

TEST(ConfigReadings, FallBacksOfOurOwn) {
  Json config = testing::qwen35_config(testing::kQwen35Sizes[0]);
  Json& text = config["text_config"];
  text.erase("rope_parameters");
  config["rope_theta"] = 3e6;
  EXPECT_EQ(parse(config).rope_theta, 3e6);
  text["rope_scaling"] = {{"type", "mrope"}, {"rope_theta", 4e6}};
  EXPECT_EQ(parse(config).rope_theta, 4e6);
  text["rope_scaling"]["rope_theta"] = nullptr;
  EXPECT_EQ(parse(config).rope_theta, 3e6);
  text["rope_scaling"] = {{"rope_type", "default"}, {"rope_theta", 4e6}};
  config["rope_parameters"] = {{"rope_type", "yarn"}, {"factor", 4.0}};
  EXPECT_ERROR(parse(config), FormatError, "unsupported-config", "rope_parameters.rope_type");
}

}  // namespace
}  // namespace lockstep::model
