// What must not change a result: packing, token budgets, threads, and how a step is split.
// SPDX-License-Identifier: Apache-2.0
#include <cmath>
#include <cstring>
#include <fstream>

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/e2e/of_model.h"

namespace lockstep::testing {
namespace {

namespace fs = std::filesystem;
using ::testing::Combine;
using ::testing::Values;

/// The bounds of the difference, relative to the norm of the whole gradient and of each tensor.
constexpr double kGradientBound = 1e-6, kTensorBound = 1e-5;

constexpr ModelKind kTwoFamilies[] = {{"qwen3_5", "float32"},
                                      {"qwen3_5", "bfloat16"},
                                      {"qwen3_moe", "float32"},
                                      {"qwen3_moe", "bfloat16"}};
constexpr ModelKind kAllFamilies[] = {{"qwen3", "float32"},       {"qwen3", "bfloat16"},
                                      {"qwen3_moe", "float32"},   {"qwen3_moe", "bfloat16"},
                                      {"qwen3_5", "float32"},     {"qwen3_5", "bfloat16"},
                                      {"qwen3_5_moe", "float32"}, {"qwen3_5_moe", "bfloat16"}};

// ---- score

using Score = OfModel;

TEST_P(Score, ARowHasTheSameBitsPackedAndAlone) {
  const std::vector<Json> rows = id_rows({1, 2, 63, 64, 65, 130, 3, 64}, 2048, 11);
  const auto score = [&](const std::vector<Json>& some, const Arguments& more) {
    const std::string path = write_rows(folder_, "ids.jsonl", some);
    return parse_rows(
        run_well(Arguments{"score", "--model", model_, "--dataset", path, "--entropy", "--quiet"} +
                 more)
            .out);
  };
  const std::vector<Json> packed = score(rows, {"--threads", "2"});
  ASSERT_EQ(packed.size(), rows.size());
  for (const Json& row : packed) EXPECT_EQ(row["logprobs"].size(), row["input_ids"].size());
  EXPECT_EQ(score(rows, {"--threads", "1"}), packed);
  EXPECT_EQ(score(rows, {"--max_tokens_per_micro_batch", "1"}), packed);  // each row alone
  EXPECT_EQ(score(rows, {"--max_tokens_per_micro_batch", "100"}), packed);
  EXPECT_EQ(score({rows[4]}, {}), std::vector<Json>{packed[4]});
  EXPECT_EQ(score({rows[5], rows[0]}, {}), (std::vector<Json>{packed[5], packed[0]}));
}
INSTANTIATE_TEST_SUITE_P(Models, Score, ::testing::ValuesIn(kTwoFamilies), kind_name);

// ---- grad

using Tensors = std::map<std::string, std::vector<double>>;

class Gradient : public OfModel {
 protected:
  Tensors gradient(const std::vector<Json>& rows, const Arguments& more) {
    const fs::path output = folder_ / fmt::format("gradient-{}", count_++);
    run_well(Arguments{"grad", "--model", model_, "--batch",
                       write_rows(folder_, "batch.jsonl", rows), "--loss_type", "dr_grpo",
                       "--output", output.string(), "--quiet"} +
             more);
    Tensors result;
    for (const auto& [name, values] : float_tensors(output))
      result[name].assign(values.begin(), values.end());
    return result;
  }
  int count_ = 0;
};

double squares(const std::vector<double>& values) {
  double sum = 0;
  for (const double value : values) sum += value * value;
  return sum;
}

struct Distance {
  double whole = 0, worst_tensor = 0;
  std::string worst_name;
};

/// Norms of a - b over norms of b.
Distance distance(const Tensors& a, const Tensors& b) {
  Distance result;
  double difference = 0, norm = 0;
  EXPECT_EQ(a.size(), b.size());
  for (const auto& [name, values] : b) {
    std::vector<double> rest = a.at(name);
    for (size_t i = 0; i < rest.size(); ++i) rest[i] -= values[i];
    const double part = squares(rest), own = squares(values);
    difference += part;
    norm += own;
    const double relative = part == 0 ? 0 : std::sqrt(part / own);
    if (!(relative <= result.worst_tensor)) {
      result.worst_tensor = relative;
      result.worst_name = name;
    }
  }
  EXPECT_GT(norm, 0);
  result.whole = std::sqrt(difference / norm);
  return result;
}

std::vector<Json> recorded_rows() {
  std::vector<Json> rows = id_rows({20, 5, 64, 33, 2, 70}, 2048, 12);
  for (size_t i = 0; i < rows.size(); ++i) {
    const size_t length = rows[i]["input_ids"].size();
    std::vector<int> mask(length, 1);
    for (size_t t = 0; t < std::max<size_t>(1, length / 3); ++t) mask[t] = 0;
    rows[i]["completion_mask"] = mask;
    rows[i]["advantage"] = i % 2 ? -0.5 - static_cast<double>(i) : 1.0 + static_cast<double>(i);
  }
  return rows;
}

TEST_P(Gradient, TheSumOverRowsIsTheSumOfRowsAlone) {
  const std::vector<Json> rows = recorded_rows();
  const Tensors packed = gradient(rows, {});
  // dr_grpo divides by rows and a constant: the gradient of all is the mean of those of one.
  Tensors mean;
  for (const Json& row : rows)
    for (const auto& [name, values] : gradient({row}, {})) {
      auto& sum = mean[name];
      sum.resize(values.size());
      for (size_t i = 0; i < values.size(); ++i)
        sum[i] += values[i] / static_cast<double>(rows.size());
    }
  const Distance found = distance(packed, mean);
  EXPECT_LE(found.whole, kGradientBound)
      << "worst tensor " << found.worst_name << " " << found.worst_tensor;
}

TEST_P(Gradient, ATokenBudgetChangesRoundingOnly) {
  const std::vector<Json> rows = recorded_rows();
  const Tensors whole = gradient(rows, {});
  for (const char* budget : {"1", "50", "100"}) {
    const Distance found =
        distance(gradient(rows, {"--max_tokens_per_micro_batch", budget, "--threads", "1"}), whole);
    EXPECT_LE(found.whole, kGradientBound) << budget;
    EXPECT_LE(found.worst_tensor, kTensorBound) << budget << " " << found.worst_name;
  }
}
INSTANTIATE_TEST_SUITE_P(Models,
                         Gradient,
                         Values(ModelKind{"qwen3", "float32"},
                                ModelKind{"qwen3_moe", "float32"},
                                ModelKind{"qwen3_5", "float32"},
                                ModelKind{"qwen3_5_moe", "float32"}),
                         kind_name);

// ---- grpo

using Split = OfModel;

/// With each loss that has a normaliser or a threshold of its own, and what is around it.
TEST_P(Split, AStepHasTheSameBitsHoweverItIsSplit) {
  const std::vector<Arguments> objectives = {
      {},
      {"--loss_type", "dapo", "--overlong_filter", "true", "--top_entropy_quantile", "0.6",
       "--entropy_coef", "0.02", "--rollout_importance_sampling_mode", "sequence_mask"},
      {"--loss_type", "real", "--num_iterations", "2"},
      {"--loss_type", "bnpo", "--num_iterations", "2", "--advantage_estimator",
       "reinforce_plus_plus", "--off_policy_sequence_mask_delta", "0", "--kl_estimator", "k2"}};
  struct Way {
    const char *size, *accumulation;
  };
  for (size_t i = 0; i < objectives.size(); ++i) {
    SCOPED_TRACE(::testing::Message() << "objective " << i);
    const auto run = [&](const Way& way) {
      const std::string name = fmt::format("split-{}-{}", i, way.size);
      run_well(grpo(
          name, Arguments{"--per_device_train_batch_size", way.size,
                          "--gradient_accumulation_steps", way.accumulation, "--max_steps", "2"} +
                    objectives[i]));
      return name;
    };
    const std::string whole = run({"16", "1"});
    const std::vector<Json> log = log_of(whole);
    EXPECT_GT(log.at(0).at("reward_std").get<double>(), 0);
    for (const Way& way : {Way{"8", "2"}, Way{"4", "4"}}) {
      const std::string parts = run(way);
      for (const char* file : {"last/model.safetensors",
                               "last/training_state/optimizer.safetensors", "completions.jsonl"})
        EXPECT_TRUE(slurp(folder_ / parts / file) == slurp(folder_ / whole / file))
            << way.size << " " << file;
      const std::vector<Json> other = log_of(parts);
      ASSERT_EQ(other.size(), log.size());
      for (size_t line = 0; line < log.size(); ++line)
        for (const char* key : {"loss", "grad_norm", "reward", "kl"})
          EXPECT_EQ(other[line].value(key, Json()), log[line].value(key, Json())) << key;
    }
  }
}

/// A list of a safetensors file.
template <class T>
std::vector<T> list_of(const TensorFile& file, const std::string& name) {
  const auto begin = file.header.at(name).at("data_offsets").at(0).get<size_t>(),
             end = file.header.at(name).at("data_offsets").at(1).get<size_t>();
  std::vector<T> values((end - begin) / sizeof(T));
  std::memcpy(values.data(), file.data.data() + begin, end - begin);
  return values;
}

/// The completions of a generation batch as rows of `grad`, in the order in which the run trains on
/// them: the checkpoint of a step in its middle has recorded it.
std::vector<Json> rows_of_buffer(const TensorFile& buffer) {
  constexpr size_t kListsOfARow = 7;  // lengths of ids and of six lists of what is said of tokens
  const auto ids = list_of<int64_t>(buffer, "ids"), lengths = list_of<int64_t>(buffer, "lengths");
  const auto mask = list_of<uint8_t>(buffer, "mask");
  const auto advantages = list_of<double>(buffer, "advantage");
  const auto groups = list_of<int64_t>(buffer, "group");
  std::vector<Json> rows;
  size_t first = 0;
  for (size_t i = 0; i < advantages.size(); ++i) {
    const size_t end = first + static_cast<size_t>(lengths.at(i * kListsOfARow));
    rows.push_back({{"input_ids", std::vector(ids.begin() + first, ids.begin() + end)},
                    {"completion_mask", std::vector(mask.begin() + first, mask.begin() + end)},
                    {"group", groups.at(i)},
                    {"advantage", advantages[i]}});
    first = end;
  }
  return rows;
}

/// Gives every completion another advantage, but for [first, end).
void bend_advantages(const fs::path& path, size_t first, size_t end) {
  const TensorFile buffer = read_tensors(path);
  std::vector<double> advantages = list_of<double>(buffer, "advantage");
  for (size_t i = 0; i < advantages.size(); ++i)
    if (i < first || i >= end) advantages[i] = 3.0 - advantages[i];
  std::string bytes = slurp(path);
  const size_t header = bytes.size() - buffer.data.size(),
               begin = buffer.header.at("advantage").at("data_offsets").at(0).get<size_t>();
  std::memcpy(bytes.data() + header + begin, advantages.data(), advantages.size() * sizeof(double));
  std::ofstream(path, std::ios::binary | std::ios::trunc) << bytes;
}

/// The normaliser belongs to the optimizer step, and so does everything else that a step learns
/// from: what else was sampled with it changes no bit.
TEST_P(Split, AStepDoesNotDependOnTheRestOfItsGeneration) {
  constexpr size_t kStep = 8, kSteps = 3;
  for (const std::string loss : {"grpo", "bnpo", "dr_grpo", "dapo", "gspo", "cispo", "sapo", "fipo",
                                 "real", "luspo", "vespo"}) {
    SCOPED_TRACE(loss);
    const Arguments flags{"--loss_type",
                          loss,
                          "--per_device_train_batch_size",
                          std::to_string(kStep),
                          "--steps_per_generation",
                          std::to_string(kSteps),
                          "--max_steps",
                          std::to_string(kSteps),
                          "--save_steps",
                          "1",
                          "--temperature",
                          "1",
                          "--beta",
                          "0"};
    run_well(grpo(loss, flags));
    const fs::path run = folder_ / loss, middle = run / "checkpoint-1";
    const char* const kBuffer = "training_state/rollout_buffer.safetensors";
    const std::vector<Json> rows = rows_of_buffer(read_tensors(middle / kBuffer));
    ASSERT_EQ(rows.size(), kStep * kSteps);

    // The first step is that of its own completions alone.
    const auto alone =
        run_well({"grad", "--model", model_, "--batch",
                  write_rows(folder_, "step.jsonl", {rows.begin(), rows.begin() + kStep}),
                  "--loss_type", loss, "--max_completion_length", "10", "--quiet"});
    const Json step = parse_rows(alone.out).at(0), logged = log_of(loss).at(0);
    constexpr double kLastDigit = 1e-8;  // of a logged number
    for (const char* key : {"loss", "grad_norm"})
      EXPECT_NEAR(step.at(key).get<double>(), logged.at(key).get<double>(), kLastDigit) << key;
    EXPECT_GT(logged.at("grad_norm").get<double>(), 0);

    // The second one does not see what the others learn from, and the third one does.
    const fs::path bent = folder_ / (loss + "-bent-1");
    fs::copy(middle, bent, fs::copy_options::recursive);
    bend_advantages(bent / kBuffer, kStep, 2 * kStep);
    const std::string other = loss + "-bent";
    run_well(grpo(other, flags + Arguments{"--resume_from_checkpoint", bent.string()}));
    const auto is_same = [&](const fs::path& file) {
      return slurp(folder_ / other / file) == slurp(run / file);
    };
    EXPECT_TRUE(is_same("checkpoint-2/model.safetensors"));
    EXPECT_TRUE(is_same("checkpoint-2/training_state/optimizer.safetensors"));
    EXPECT_FALSE(is_same("checkpoint-3/model.safetensors"));
  }
}

INSTANTIATE_TEST_SUITE_P(Models,
                         Split,
                         Values(ModelKind{"qwen3_5", "float32"},
                                ModelKind{"qwen3_moe", "bfloat16"}),
                         kind_name);

using OffPolicy = OfModel;

/// In the second round on a generation the policy has moved away from the one that sampled it:
/// ratios leave 1, and clip.
TEST_P(OffPolicy, RatiosAreToThePolicyThatSampled) {
  run_well(grpo("run", {"--num_iterations", "2", "--max_steps", "4", "--epsilon", "0.01",
                        "--learning_rate", "1e-2", "--beta", "0", "--loss_type", "dapo"}));
  const std::vector<Json> log = log_of("run");
  ASSERT_EQ(log.size(), 4u);
  for (size_t step = 0; step < 4; ++step) {
    const double clipped = log[step].at("clip_ratio/region_mean").get<double>();
    if (step % 2 == 0) {
      EXPECT_EQ(clipped, 0) << step;  // sampled by these very weights
    }
    if (step == 1) {
      EXPECT_GT(clipped, 0.1);
    }
    EXPECT_EQ(log[step].at("train/sampler_logprob_max_diff"), 0.0) << step;
  }
}

/// Three micro-steps a generation and two an optimizer step: the second step takes from two
/// generations.
TEST_P(OffPolicy, AStepMayTakeFromTwoGenerations) {
  run_well(grpo("run", {"--steps_per_generation", "3", "--gradient_accumulation_steps", "2",
                        "--max_steps", "3"}));
  const std::vector<Json> log = log_of("run");
  ASSERT_EQ(log.size(), 3u);
  for (const Json& line : log) EXPECT_EQ(line.at("train/sampler_logprob_max_diff"), 0.0);
}
INSTANTIATE_TEST_SUITE_P(Models, OffPolicy, Values(ModelKind{"qwen3_5", "float32"}), kind_name);

using Sampler = OfModel;

TEST_P(Sampler, AgreesWithTheTrainerBitForBitOnPolicy) {
  run_well(grpo("run", {"--max_steps", "3", "--gradient_accumulation_steps", "2"}));
  const std::vector<Json> log = log_of("run");
  ASSERT_EQ(log.size(), 3u);
  for (const Json& line : log) {
    EXPECT_EQ(line.at("train/sampler_logprob_max_diff"), 0.0);
    EXPECT_EQ(line.at("train/sampler_logprob_mean_diff"), 0.0);
  }
}

TEST_P(Sampler, WhatItsLayersReadIsTheTrainersForward) {
  const auto run = [&](const char* reuse) {
    run_well(
        grpo(reuse, {"--max_steps", "4", "--num_iterations", "2", "--per_device_train_batch_size",
                     "8", "--reuse_rollout_activations", reuse}));
    return log_of(reuse);
  };
  const std::vector<Json> kept = run("true"), own = run("false");
  for (const char* file : {"last/model.safetensors", "last/training_state/optimizer.safetensors"})
    EXPECT_TRUE(slurp(folder_ / "true" / file) == slurp(folder_ / "false" / file)) << file;
  for (size_t step = 0; step < 4; ++step) {
    // Layers are computed again where sampling's hidden states stand in for the forward.
    EXPECT_EQ(kept[step].contains("train/recomputed_layer_max_diff"), step % 2 == 0);
    EXPECT_EQ(kept[step].value("train/recomputed_layer_max_diff", 0.0), 0.0);
    EXPECT_FALSE(own[step].contains("train/recomputed_layer_max_diff"));
    for (const char* key : {"loss", "grad_norm", "train/sampler_logprob_max_diff"})
      EXPECT_EQ(kept[step][key], own[step][key]) << key;
  }
}
INSTANTIATE_TEST_SUITE_P(Models, Sampler, ::testing::ValuesIn(kAllFamilies), kind_name);

}  // namespace
}  // namespace lockstep::testing
