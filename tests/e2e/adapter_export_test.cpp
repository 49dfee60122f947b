// lockstep export with an adapter: merged into its model, and written in another form.
// SPDX-License-Identifier: Apache-2.0
#include <cmath>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/e2e/program_files.h"

namespace lockstep::testing {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

class AdapterExport : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    model_ = new_model(folder_, "model", {"--like", GetParam()});
    ids_ = write_rows(folder_, "ids.jsonl", id_rows({30, 7}, 2048, 1));
    run_well({"sft", "--model", model_, "--dataset", write_rows(folder_, "rows.jsonl", sum_rows(8)),
              "--output_dir", path("run"), "--tuner_type", "lora", "--lora_experts", "true",
              "--max_steps", "3", "--learning_rate", "3e-2", "--quiet"});
    adapter_ = path("run/last");
  }
  std::string path(const std::string& name) const { return (folder_ / name).string(); }
  std::string exported(const std::string& name, const Arguments& more) const {
    run_well(Arguments{"export", "--model", model_, "--output_dir", path(name)} + more);
    return path(name);
  }
  std::vector<double> scores(const std::string& model, const Arguments& more = {}) const {
    std::vector<double> all;
    const Arguments score = {"score", "--model", model, "--dataset", ids_};
    for (const Json& row : parse_rows(run_well(score + more).out))
      for (const Json& value : row["logprobs"])
        if (value.is_number()) all.push_back(value.get<double>());
    return all;
  }
  static double distance(const std::vector<double>& a, const std::vector<double>& b) {
    EXPECT_EQ(a.size(), b.size());
    double most = 0;
    for (size_t i = 0; i < a.size(); ++i) most = std::max(most, std::abs(a[i] - b[i]));
    return most;
  }

  TempDir folder_;
  std::string model_, ids_, adapter_;
};

TEST_P(AdapterExport, AMergedModelSaysWhatModelAndAdapterDo) {
  const auto before = tree_of(model_), adapter = tree_of(adapter_);
  const std::string merged = exported("merged", {"--adapters", adapter_, "--merge_lora", "true"});
  // The base is as it was.
  EXPECT_TRUE(tree_of(model_) == before);
  EXPECT_TRUE(tree_of(adapter_) == adapter);
  const auto with = scores(model_, {"--adapters", adapter_}), without = scores(model_);
  EXPECT_LT(distance(scores(merged), with), 2e-5);
  EXPECT_GT(distance(without, with), 1e-3);
  // All that no adapter is beside is there byte for byte.
  const auto base = float_tensors(fs::path(model_) / "model.safetensors"),
             after = float_tensors(fs::path(merged) / "model.safetensors");
  ASSERT_EQ(base.size(), after.size());
  int64_t changed_experts = 0;
  for (const auto& [name, values] : base) {
    const bool is_product = name.ends_with("_proj.weight") || name.ends_with("_proj") ||
                            name.find(".in_proj_") != name.npos ||
                            name.ends_with("shared_expert_gate.weight");
    const bool is_adapted = is_product && name.find("visual.") == name.npos;
    const bool is_expert = name.find(".experts.") != name.npos;
    const bool has_changed = values != after.at(name);
    // An expert that no token has come to is as it was.
    EXPECT_TRUE(has_changed == is_adapted || (is_expert && is_adapted)) << name;
    changed_experts += is_expert && has_changed;
  }
  EXPECT_GT(changed_experts, 0);
  auto companions = tree_of(merged);
  for (const auto& [name, bytes] : before) {
    if (name == "model.safetensors") continue;
    EXPECT_TRUE(companions[name] == bytes) << name;
  }
}

/// Embedding and head are one in the base, and two in the merged model.
TEST_P(AdapterExport, ModulesThatAreTrainedWholeAreMergedAndWritten) {
  run_well({"sft", "--model", model_, "--dataset", (folder_ / "rows.jsonl").string(),
            "--output_dir", path("whole"), "--tuner_type", "lora", "--modules_to_save",
            "embed_tokens", "norm", "layers.1.mlp.experts", "--max_steps", "3", "--learning_rate",
            "1e-3", "--quiet"});
  const std::string adapter = path("whole/last");
  const std::string merged = exported("both", {"--adapters", adapter, "--merge_lora", "true"}),
                    written = exported("alone", {"--adapters", adapter});
  EXPECT_TRUE(slurp(fs::path(written) / "adapter_model.safetensors") ==
              slurp(fs::path(adapter) / "adapter_model.safetensors"));
  const Json config = parse_json_file(fs::path(merged) / "config.json");
  EXPECT_EQ(config.value("tie_word_embeddings", true), false);
  const auto tensors = float_tensors(fs::path(merged) / "model.safetensors"),
             base = float_tensors(fs::path(model_) / "model.safetensors");
  const auto embedding = std::find_if(base.begin(), base.end(), [](const auto& tensor) {
    return tensor.first.ends_with("embed_tokens.weight");
  });
  ASSERT_TRUE(embedding != base.end());
  EXPECT_EQ(tensors.at("lm_head.weight"), embedding->second);
  EXPECT_NE(tensors.at(embedding->first), embedding->second);
  const auto with = scores(model_, {"--adapters", adapter});
  EXPECT_LT(distance(scores(merged), with), 2e-5);
  EXPECT_GT(distance(scores(model_), with), 1e-3);
}

TEST_P(AdapterExport, AMergedModelMayHaveAnotherPrecision) {
  const Arguments narrow = {"--torch_dtype", "bfloat16"};
  const Arguments merge = {"--adapters", adapter_, "--merge_lora", "true"};
  const std::string once = exported("once", merge + narrow), wide = exported("wide", merge);
  run_well(Arguments{"export", "--model", wide, "--output_dir", path("twice")} + narrow);
  // Both are the sum in float64, and float32 lies between them at most.
  EXPECT_TRUE(slurp(fs::path(once) / "model.safetensors") ==
              slurp(folder_ / "twice" / "model.safetensors"));
}

TEST_P(AdapterExport, AnAdapterIsWrittenInBothForms) {
  const std::string peft = exported("peft", {"--adapters", adapter_}),
                    single = exported("single",
                                      {"--adapters", adapter_, "--adapter_format", "per-expert"}),
                    again = exported("again", {"--adapters", single, "--adapter_format", "peft"});
  const auto file = [](const std::string& folder) {
    return slurp(fs::path(folder) / "adapter_model.safetensors");
  };
  EXPECT_TRUE(file(peft) == file(adapter_));
  EXPECT_TRUE(file(again) == file(adapter_));
  EXPECT_EQ(tree_of(peft).size(), 2u);
  const auto with = scores(model_, {"--adapters", adapter_});
  EXPECT_EQ(scores(model_, {"--adapters", peft}), with);
  EXPECT_EQ(scores(model_, {"--adapters", single}), with);
  int64_t gates = 0;
  const auto tensors = float_tensors(fs::path(single) / "adapter_model.safetensors");
  for (const auto& [name, values] : tensors) {
    EXPECT_EQ(name.find(".experts.lora_"), name.npos) << name;
    const size_t gate = name.find("gate_proj.lora_A");
    if (name.find(".experts.") == name.npos || gate == name.npos) continue;
    ++gates;
    EXPECT_EQ(values, tensors.at(std::string(name).replace(gate, 4, "up"))) << name;
  }
  EXPECT_GT(gates, 8);
  // An adapter is replaced like a checkpoint.
  run_well({"export", "--model", model_, "--adapters", adapter_, "--output_dir", single,
            "--overwrite", "true"});
  EXPECT_TRUE(file(single) == file(adapter_));
}

INSTANTIATE_TEST_SUITE_P(Families, AdapterExport, ::testing::Values("qwen3_moe", "qwen3_5_moe"));

}  // namespace
}  // namespace lockstep::testing
