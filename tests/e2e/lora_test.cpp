// Adapters from the first step to the last: trained, sampled, saved, resumed, scored.
// SPDX-License-Identifier: Apache-2.0
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/e2e/program_files.h"
#include "tests/e2e/training.h"

namespace lockstep::testing {
namespace {

namespace fs = std::filesystem;

class Lora : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    model_ = new_model(folder_, "model", {"--like", "qwen3_5_moe", "--torch_dtype", GetParam()});
    rows_ = write_rows(folder_, "rows.jsonl", sum_rows(12));
  }

  Arguments grpo(const fs::path& output) const {
    return Arguments{"grpo",
                     "--model",
                     model_,
                     "--dataset",
                     rows_,
                     "--output_dir",
                     output.string(),
                     "--learning_rate",
                     "1e-2",
                     "--max_steps",
                     "6",
                     "--save_steps",
                     "3",
                     "--logging_steps",
                     "1",
                     "--per_device_train_batch_size",
                     "8",
                     "--gradient_accumulation_steps",
                     "1",
                     "--beta",
                     "0.1",
                     "--threads",
                     "1",
                     "--quiet"} +
           short_completions();
  }

  TempDir folder_;
  std::string model_, rows_;
};

/// Sampler and trainer agree to the bit in every step, and the policy moves away from the
/// reference, which is the base.
void expect_exact_and_moved(const fs::path& run) {
  double kl = 0;
  for (const Json& line : timeless_rows(run)) {
    if (!line.contains("kl")) continue;
    EXPECT_EQ(line["train/sampler_logprob_max_diff"], 0.0);
    kl = std::max(kl, line["kl"].get<double>());
  }
  EXPECT_GT(kl, 0);
}

TEST_P(Lora, ARunTrainsItsAdapterAloneAndResumesToTheSameBytes) {
  const std::string before = slurp(fs::path(model_) / "model.safetensors");
  const fs::path run = folder_ / "run", resumed = folder_ / "resumed";
  const Arguments trained = {"--lora_experts", "true", "--lora_dropout", "0.1"};
  run_well(grpo(run) + trained);
  EXPECT_TRUE(slurp(fs::path(model_) / "model.safetensors") == before);
  const fs::path last = run / "checkpoint-6";
  EXPECT_FALSE(fs::exists(last / "model.safetensors"));
  const Json config = parse_json_file(last / "adapter_config.json");
  EXPECT_EQ(config["r"], 8);
  EXPECT_EQ(config["lora_alpha"], 32.0);
  EXPECT_EQ(config["target_parameters"], Json({"experts.down_proj", "experts.gate_up_proj"}));
  // B began at zero.
  int64_t moved = 0, all = 0;
  for (const auto& [name, values] : float_tensors(last / "adapter_model.safetensors")) {
    if (!name.ends_with(".lora_B.weight")) continue;
    ++all;
    moved += std::any_of(values.begin(), values.end(), [](float value) { return value != 0; });
  }
  EXPECT_GT(all, 20);
  EXPECT_EQ(moved, all);
  expect_exact_and_moved(run);

  run_well(grpo(resumed) + trained +
           Arguments{"--resume_from_checkpoint", (run / "checkpoint-3").string()});
  // The same step in other micro-batches.
  const fs::path cut = folder_ / "cut";
  Arguments others = grpo(cut) + trained;
  *(std::find(others.begin(), others.end(), "--per_device_train_batch_size") + 1) = "4";
  *(std::find(others.begin(), others.end(), "--gradient_accumulation_steps") + 1) = "2";
  run_well(others);
  EXPECT_TRUE(slurp(cut / "checkpoint-6" / "adapter_model.safetensors") ==
              slurp(last / "adapter_model.safetensors"));
  for (const char* file : {"adapter_model.safetensors", "training_state/optimizer.safetensors"})
    EXPECT_TRUE(slurp(resumed / "checkpoint-6" / file) == slurp(last / file)) << file;
}

TEST_P(Lora, EmbeddingAndHeadHaveAdaptersThatResume) {
  const fs::path run = folder_ / "run", resumed = folder_ / "resumed";
  const Arguments trained = {"--target_modules", "embed_tokens", "lm_head", "--lora_dropout",
                             "0.1"};
  run_well(grpo(run) + trained);
  const fs::path last = run / "checkpoint-6";
  const auto tensors = float_tensors(last / "adapter_model.safetensors");
  EXPECT_EQ(tensors.size(), 4u);
  for (const char* name : {"model.embed_tokens.lora_embedding_A", "lm_head.lora_B.weight"}) {
    const auto& values = tensors.at(std::string("base_model.model.") + name);
    EXPECT_TRUE(std::any_of(values.begin(), values.end(), [](float value) { return value != 0; }));
  }
  for (const Json& line : timeless_rows(run))
    if (line.contains("kl")) {
      EXPECT_EQ(line["train/sampler_logprob_max_diff"], 0.0);
    }
  run_well(grpo(resumed) + trained +
           Arguments{"--resume_from_checkpoint", (run / "checkpoint-3").string()});
  for (const char* file : {"adapter_model.safetensors", "training_state/optimizer.safetensors"})
    EXPECT_TRUE(slurp(resumed / "checkpoint-6" / file) == slurp(last / file)) << file;
}

/// Embedding and head are one in this model, and two copies in the adapter.
TEST_P(Lora, ModulesThatAreTrainedWholeLieInItsFileAndResume) {
  const std::string before = slurp(fs::path(model_) / "model.safetensors");
  const fs::path run = folder_ / "run", resumed = folder_ / "resumed";
  const Arguments trained = {"--modules_to_save", "all-embedding", "lm_head", "k_proj", "all-norm"};
  run_well(grpo(run) + trained);
  EXPECT_TRUE(slurp(fs::path(model_) / "model.safetensors") == before);
  const fs::path last = run / "checkpoint-6";
  const Json header = read_tensors(last / "adapter_model.safetensors").header;
  const char* const stored = std::string(GetParam()) == "float32" ? "F32" : "BF16";
  for (const char* name : {"lm_head.weight", "model.embed_tokens.weight", "model.norm.weight",
                           "model.layers.0.input_layernorm.weight"})
    EXPECT_EQ(header.value(std::string("base_model.model.") + name, Json()).value("dtype", ""),
              stored)
        << name;
  for (const auto& [name, tensor] : header.items())
    EXPECT_EQ(name.find("k_proj.lora_"), name.npos) << name;
  expect_exact_and_moved(run);
  run_well(grpo(resumed) + trained +
           Arguments{"--resume_from_checkpoint", (run / "checkpoint-3").string()});
  for (const char* file : {"adapter_model.safetensors", "training_state/optimizer.safetensors"})
    EXPECT_TRUE(slurp(resumed / "checkpoint-6" / file) == slurp(last / file)) << file;
  // A training that begins with the file goes on with its modules.
  const fs::path next = folder_ / "next";
  run_well(grpo(next) + Arguments{"--adapters", last.string(), "--max_steps", "1"});
  const auto again = read_tensors(next / "last" / "adapter_model.safetensors");
  for (const auto& [name, tensor] : header.items()) EXPECT_TRUE(again.header.contains(name));
  EXPECT_FALSE(again.data == read_tensors(last / "adapter_model.safetensors").data);
}

/// The reference has modules of its own, beside those of the policy. What it said of completions
/// that the next step trains on lies in the checkpoint.
TEST_P(Lora, TheReferenceIsTheNamedAdapterWithItsModules) {
  const fs::path first = folder_ / "first", run = folder_ / "run";
  run_well({"sft", "--model", model_, "--dataset", rows_, "--output_dir", first.string(),
            "--max_steps", "2", "--learning_rate", "1e-2", "--modules_to_save", "embed_tokens",
            "lm_head", "norm", "k_proj", "--threads", "1", "--quiet"});
  const std::string adapter = (first / "last").string();
  run_well(grpo(run) + Arguments{"--ref_adapters", adapter, "--steps_per_generation", "2",
                                 "--max_steps", "1", "--temperature", "1", "--modules_to_save",
                                 "lm_head"});
  const TensorFile buffer = read_tensors(run / "last/training_state/rollout_buffer.safetensors");
  const auto ids = values_of<int64_t>(buffer, "ids"),
             lengths = values_of<int64_t>(buffer, "lengths");
  const auto mask = values_of<uint8_t>(buffer, "mask");
  // A row: the lengths of its lists, the first of which are its tokens.
  const size_t num_samples = values_of<double>(buffer, "advantage").size(),
               lists = lengths.size() / num_samples;
  ASSERT_EQ(num_samples, 16u);
  std::vector<Json> rows;
  for (size_t i = 0, at = 0; i < num_samples; at += static_cast<size_t>(lengths[lists * i++]))
    rows.push_back({{"input_ids", std::vector<int64_t>(ids.begin() + static_cast<int64_t>(at),
                                                       ids.begin() + static_cast<int64_t>(at) +
                                                           lengths[lists * i])}});
  const std::string path = write_rows(folder_, "sampled.jsonl", rows);
  const auto scores = [&](const Arguments& more) {
    std::vector<float> found;
    size_t at = 0;
    for (const Json& row :
         parse_rows(run_well(Arguments{"score", "--model", model_, "--dataset", path} + more).out))
      for (const Json& value : row["logprobs"])
        if (mask[at++]) found.push_back(value.get<float>());
    return found;
  };
  EXPECT_EQ(values_of<float>(buffer, "ref"), scores({"--adapters", adapter}));
  EXPECT_NE(values_of<float>(buffer, "ref"), scores({}));
}

TEST_P(Lora, ARunMergesItsLastAdapterAsExportDoes) {
  const fs::path run = folder_ / "run", merged = run / "checkpoint-6-merged";
  run_well(grpo(run) + Arguments{"--merge_lora", "true", "--save_total_limit", "1"});
  run_well({"export", "--model", model_, "--adapters", (run / "last").string(), "--merge_lora",
            "true", "--output_dir", (folder_ / "exported").string()});
  EXPECT_TRUE(tree_of(merged) == tree_of(folder_ / "exported"));
  EXPECT_EQ(fs::canonical(run / "last"), fs::canonical(run / "checkpoint-6"));
  // It belongs to the run, which may replace it.
  run_well(grpo(run) + Arguments{"--overwrite", "true", "--max_steps", "3"});
  EXPECT_FALSE(fs::exists(merged));
}

class WhatIsSampled : public Lora {
 protected:
  void scores_the_same(const Arguments& trained);
};

TEST_P(WhatIsSampled, ScoresTheSameToTheBit) { scores_the_same({}); }

TEST_P(WhatIsSampled, ScoresTheSameToTheBitWithAdaptersOfEmbeddingAndHead) {
  scores_the_same({"--target_modules", "all-linear", "embed_tokens", "lm_head"});
}

TEST_P(WhatIsSampled, ScoresTheSameToTheBitWithModulesThatAreTrainedWhole) {
  scores_the_same({"--modules_to_save", "embed_tokens", "norm", "layers.1.mlp"});
}

void WhatIsSampled::scores_the_same(const Arguments& trained) {
  const fs::path run = folder_ / "run";
  run_well(grpo(run) + trained);
  const std::string prompts = write_rows(folder_, "prompts.jsonl", id_rows({3, 40, 17}, 2048, 1)),
                    adapter = (run / "last").string();
  const fs::path sampled = folder_ / "sampled.jsonl";
  run_well({"infer", "--model", model_, "--adapters", adapter, "--dataset", prompts,
            "--result_path", sampled.string(), "--max_new_tokens", "9", "--ignore_eos", "true"});
  std::vector<Json> whole;
  std::vector<std::vector<double>> expected;
  for (const Json& row : read_rows(sampled)) {
    Json ids = row["input_ids"];
    const Json& response = row["responses"][0];
    for (const Json& id : response["token_ids"]) ids.push_back(id);
    whole.push_back({{"input_ids", ids}});
    expected.push_back(response["logprobs"].get<std::vector<double>>());
  }
  const std::string rows = write_rows(folder_, "whole.jsonl", whole);
  const auto scores = [&](const Arguments& more) {
    std::vector<std::vector<double>> found;
    const Arguments score = {"score", "--model", model_, "--dataset", rows};
    for (const Json& row : parse_rows(run_well(score + more).out)) {
      const std::vector<Json> all = row["logprobs"].get<std::vector<Json>>();
      found.emplace_back();
      for (size_t t = all.size() - 9; t < all.size(); ++t)
        found.back().push_back(all[t].get<double>());
    }
    return found;
  };
  EXPECT_EQ(scores({"--adapters", adapter}), expected);
  EXPECT_NE(scores({}), expected);
}

INSTANTIATE_TEST_SUITE_P(Dtypes, Lora, ::testing::Values("float32", "bfloat16"));
INSTANTIATE_TEST_SUITE_P(Dtypes, WhatIsSampled, ::testing::Values("float32", "bfloat16"));

}  // namespace
}  // namespace lockstep::testing
