// The built program against transformers' float64 values, for every checkpoint form.
// SPDX-License-Identifier: Apache-2.0
//
// Bounds and meaning of the goldens: tests/golden/README.md. tools/parity/model.py does the same
// with a report, and loads what the program wrote into transformers.
#include <algorithm>
#include <cmath>
#include <fstream>

#include <gtest/gtest.h>

#include "tests/e2e/golden_files.h"
#include "tests/support/expect_close.h"
#include "tests/support/json_lines.h"
#include "tests/support/run_program.h"

namespace lockstep::testing {
namespace {

constexpr double kLogprobBound = 2e-5, kFloat32Factor = 1.5, kGreedyTie = 1e-4;
constexpr double kLossBound = 1e-5, kGradientBound = 1e-4, kChangeBound = 1e-3, kBf16Factor = 1.1;
constexpr int kPromptLengths[] = {1, 2, 63, 64, 65, 500};
constexpr int kGreedyLengths[] = {1, 2, 63, 65};
constexpr int64_t kNumGreedy = 64;
constexpr int64_t kBatchRows = 4;

double worst(const at::Tensor& a, const at::Tensor& b) {
  return (a.to(at::kDouble) - b.to(at::kDouble)).abs().max().item<double>();
}
double norm(const at::Tensor& tensor) {
  return tensor.to(at::kDouble).square().sum().sqrt().item<double>();
}

class Parity : public ::testing::TestWithParam<GoldenCheckpoint> {
 protected:
  const GoldenCheckpoint& checkpoint() const { return GetParam(); }
  GoldenFile golden() const { return GoldenFile(checkpoint().weights); }

  std::filesystem::path write_rows(const std::vector<Json>& rows) {
    std::string text;
    for (const auto& row : rows) text += dump_json(row) + "\n";
    return folder_.write("rows-" + std::to_string(++count_) + ".jsonl", text);
  }
  std::filesystem::path new_path(const std::string& name) {
    return folder_ / (std::to_string(++count_) + name);
  }
  /// Runs a command that turns rows into rows.
  std::vector<Json> map_rows(const std::string& command,
                             const std::vector<Json>& rows,
                             const std::string& output_flag,
                             const std::vector<std::string>& more) {
    const auto output = new_path(".jsonl");
    std::vector<std::string> arguments = {command,     "--model",        checkpoint().directory(),
                                          "--dataset", write_rows(rows), output_flag,
                                          output};
    arguments.insert(arguments.end(), more.begin(), more.end());
    const auto result = run_program(arguments);
    EXPECT_EQ(result.exit_code, 0) << result.err;
    std::vector<Json> found;
    if (result.exit_code == 0)
      for_each_json_line(output, [&](int64_t, Json&& row) { found.push_back(std::move(row)); });
    EXPECT_EQ(found.size(), rows.size());
    found.resize(rows.size());
    return found;
  }
  std::vector<Json> score(const std::vector<Json>& rows) {
    return map_rows("score", rows, "--output", {"--entropy", "true"});
  }

  struct Step {
    Json answer;
    TensorMap gradients;
  };
  /// One step's loss and gradients, under the checkpoint's names.
  Step grad(const std::vector<Json>& rows, const std::vector<std::string>& more) {
    const auto output = new_path(".safetensors");
    std::vector<std::string> arguments = {"grad",    "--model",        checkpoint().directory(),
                                          "--batch", write_rows(rows), "--output",
                                          output};
    arguments.insert(arguments.end(), more.begin(), more.end());
    const auto result = run_program(arguments);
    EXPECT_EQ(result.exit_code, 0) << result.err;
    if (result.exit_code != 0) return {};
    Step step{parse_json(result.out, "stdout"), {}};
    const io::SafetensorsFile file(output);
    for (const auto& entry : file.entries()) step.gradients[entry.name] = file.tensor(entry);
    return step;
  }

  /// Norms and sampled elements of `tensors` against a table of the golden file.
  void expect_samples(const GoldenFile& golden,
                      const std::string& prefix,
                      const TensorMap& tensors,
                      double bound) {
    const auto norms = golden.tensor(prefix + "norms"), samples = golden.tensor(prefix + "samples");
    const Json names = golden.metadata("names");
    ASSERT_EQ(tensors.size(), names.size());
    for (size_t i = 0; i < names.size(); ++i) {
      const auto name = names[i].get<std::string>();
      ASSERT_TRUE(tensors.count(name)) << name;
      const auto& tensor = tensors.at(name);
      const auto row = static_cast<int64_t>(i);
      const double expected = norms[row].item<double>();
      EXPECT_NEAR(norm(tensor), expected, bound * expected) << prefix << name;
      // The elements stand for the whole: their error is scaled up to the tensor's size.
      const auto reference = samples[row];
      const double scale = std::sqrt(double(tensor.numel()) / double(reference.numel()));
      const auto error = sampled(tensor, reference.numel()).to(at::kDouble) - reference;
      EXPECT_LE(norm(error) * scale, bound * expected) << prefix << name;
    }
  }

  TempDir folder_;
  int count_ = 0;
};

std::vector<Json> prompt_rows(const GoldenFile& golden) {
  std::vector<Json> rows;
  for (const int length : kPromptLengths) {
    const auto ids = golden.tensor("prompt." + std::to_string(length) + ".ids");
    rows.push_back({{"input_ids", json_list(ids)}});
  }
  return rows;
}

/// The recorded batch, with or without what GRPO's losses need besides the ids.
std::vector<Json> batch_rows(const GoldenFile& golden, bool with_policies, bool token_advantages) {
  std::vector<Json> rows;
  for (int64_t i = 0; i < kBatchRows; ++i) {
    const auto get = [&](const std::string& key) {
      return golden.tensor("batch." + std::to_string(i) + "." + key);
    };
    Json row = {{"input_ids", json_list(get("ids"))}, {"completion_mask", json_list(get("mask"))}};
    if (!with_policies) {
      row["advantage"] = 1.0;
    } else {
      row["advantage"] = token_advantages ? json_list(get("token_advantage"))
                                          : Json(get("advantage").item<double>());
      row["old_logprobs"] = json_list(get("old"));
      row["ref_logprobs"] = json_list(get("ref"));
    }
    rows.push_back(row);
  }
  return rows;
}

TEST_P(Parity, LogprobsAndEntropyAreTransformers) {
  if (!checkpoint().is_float32) return;  // Bf16ErrorIsTransformers has these
  const auto golden = this->golden();
  const auto rows = prompt_rows(golden);
  const auto scored = score(rows);
  const double own = golden.metadata("values").at("float32_error").get<double>();
  const double bound = std::max(kLogprobBound, kFloat32Factor * own);
  for (size_t i = 0; i < rows.size(); ++i) {
    const int length = kPromptLengths[i];
    SCOPED_TRACE(std::to_string(length) + " tokens");
    if (scored[i].is_null()) return;
    ASSERT_EQ(scored[i].at("logprobs").size(), size_t(length));
    EXPECT_TRUE(scored[i].at("logprobs")[0].is_null());
    if (length == 1) continue;
    const std::string key = "prompt." + std::to_string(length) + ".";
    const auto truth = golden.tensor(key + "logprobs");
    EXPECT_LE(worst(numbers(scored[i].at("logprobs")), truth), bound);
    EXPECT_LE(worst(numbers(scored[i].at("entropy")), golden.tensor(key + "entropy")), 2 * bound);
  }
}

/// Steps whose experts are given, in the checkpoints that have some.
TEST_P(Parity, StepsWithGivenExpertsAreTransformers) {
  if (!checkpoint().is_first) return;
  const Json golden = parse_json_file(golden_folder() / "router_replay.json");
  for (const Json& expected : golden.at("steps")) {
    if (expected.at("weights") != checkpoint().weights) continue;
    const Json& rows = expected.at("rows");
    const Step step = grad(std::vector<Json>(rows.begin(), rows.end()),
                           {"--loss_type", "grpo", "--epsilon", golden.at("epsilon").dump()});
    if (step.answer.is_null()) return;
    EXPECT_NEAR(step.answer.at("loss").get<double>(), expected.at("loss"), kLossBound);
    EXPECT_NEAR(step.answer.at("metrics").at("router_replay/changed_ratio").get<double>(),
                expected.at("changed_ratio"), 1e-8);
    const bool has_weights = rows[0].contains("routed_weights");
    const TensorMap gradients = canonical(step.gradients);
    ASSERT_EQ(gradients.size(), expected.at("gradients").size());
    for (const auto& [name, numbers] : expected.at("gradients").items()) {
      ASSERT_TRUE(gradients.count(name)) << name;
      const at::Tensor& found = gradients.at(name);
      const double whole = numbers[0];
      const auto count = std::ssize(numbers) - 1;
      // Given weights let nothing through to a router; no expert without a token has a gradient.
      if (name.ends_with("mlp.gate.weight")) {
        EXPECT_EQ(whole == 0, has_weights) << name;
      }
      EXPECT_NEAR(norm(found), whole, kGradientBound * whole) << name;
      const double scale = std::sqrt(double(found.numel()) / double(count));
      double square = 0;
      const at::Tensor some = sampled(found, count).to(at::kDouble);
      for (int64_t i = 0; i < count; ++i)
        square += std::pow(some[i].item<double>() - numbers[size_t(i + 1)].get<double>(), 2);
      EXPECT_LE(std::sqrt(square) * scale, kGradientBound * whole) << name;
    }
  }
}

TEST_P(Parity, PackedAndAloneAreTheSameBits) {
  if (!checkpoint().is_float32 || !checkpoint().is_first) return;
  const auto rows = prompt_rows(golden());
  const auto packed = score(rows);
  for (size_t i = 0; i < rows.size(); ++i)
    EXPECT_EQ(score({rows[i]})[0], packed[i]) << kPromptLengths[i] << " tokens";
}

TEST_P(Parity, GreedyContinuationIsTransformers) {
  if (!checkpoint().is_float32) return;
  const auto golden = this->golden();
  std::vector<Json> rows;
  for (const int length : kGreedyLengths) {
    const auto prompt = golden.tensor("greedy." + std::to_string(length) + ".prompt");
    rows.push_back({{"input_ids", json_list(prompt)}});
  }
  const auto answers = map_rows("infer", rows, "--result_path",
                                {"--temperature", "0", "--max_new_tokens",
                                 std::to_string(kNumGreedy), "--ignore_eos", "true"});
  for (size_t i = 0; i < rows.size(); ++i) {
    if (answers[i].is_null()) return;
    const std::string key = "greedy." + std::to_string(kGreedyLengths[i]) + ".";
    const auto expected = json_list(golden.tensor(key + "ids"));
    const auto gaps = golden.tensor(key + "gap");
    const auto got = answers[i].at("responses").at(0).at("token_ids");
    ASSERT_EQ(got.size(), size_t(kNumGreedy));
    for (int64_t step = 0; step < kNumGreedy; ++step) {
      if (gaps[step].item<double>() < kGreedyTie) break;  // either id is right, and what follows
      ASSERT_EQ(got[size_t(step)], expected[size_t(step)]) << key << step;
    }
  }
}

TEST_P(Parity, GradientOfMeanNllIsTransformers) {
  if (!checkpoint().is_float32) return;
  const auto golden = this->golden();
  // With advantage 1 and no old policy, bnpo's gradient is that of the mean token NLL.
  const auto step = grad(batch_rows(golden, false, false), {"--loss_type", "bnpo"});
  ASSERT_FALSE(step.answer.is_null());
  EXPECT_NEAR(step.answer.at("loss").get<double>(), -1, kLossBound);
  const double expected = golden.metadata("values").at("nll_grad_norm").get<double>();
  EXPECT_NEAR(step.answer.at("grad_norm").get<double>(), expected, kGradientBound * expected);
  const auto gradients = canonical(step.gradients);
  const Json names = golden.metadata("names");
  ASSERT_EQ(gradients.size(), names.size());
  for (const auto& name : names) {
    const auto reference = golden.tensor("nll." + name.get<std::string>());
    const auto& gradient = gradients.at(name.get<std::string>());
    ASSERT_EQ(gradient.sizes(), reference.sizes()) << name;
    EXPECT_LE(norm(gradient - reference), kGradientBound * norm(reference)) << name;
  }
}

TEST_P(Parity, GradientsAreNamedAsTheCheckpoint) {
  if (!checkpoint().is_float32) return;
  const auto step = grad(batch_rows(golden(), false, false), {});
  for (const auto& [name, tensor] : read_checkpoint(checkpoint().directory())) {
    const bool carried = name.rfind("mtp.", 0) == 0 || name.rfind("model.visual.", 0) == 0;
    ASSERT_EQ(step.gradients.count(name), carried ? 0U : 1U) << name;
    if (carried) continue;
    EXPECT_EQ(step.gradients.at(name).sizes(), tensor.sizes()) << name;
  }
}

TEST_P(Parity, GrpoLossesAndGradientsAreTransformers) {
  if (!checkpoint().is_float32 || !checkpoint().is_first) return;
  const auto golden = this->golden();
  const Json variants = golden.metadata("values").at("losses");
  ASSERT_GE(variants.size(), 16U);
  for (const auto& [variant, expected] : variants.items()) {
    SCOPED_TRACE(variant);
    std::vector<std::string> flags = {"--max_completion_length", "40"};
    bool token_advantages = false;
    for (const auto& [flag, value] : expected.at("options").items()) {
      if (flag == "advantages")
        token_advantages = value.get<std::string>() == "token";
      else if (!value.is_null())
        flags.insert(flags.end(),
                     {"--" + flag, value.is_string() ? value.get<std::string>() : value.dump()});
    }
    const auto step = grad(batch_rows(golden, true, token_advantages), flags);
    ASSERT_FALSE(step.answer.is_null());
    EXPECT_NEAR(step.answer.at("loss").get<double>(), expected.at("loss").get<double>(),
                kLossBound);
    expect_samples(golden, "loss." + variant + ".", canonical(step.gradients), kGradientBound);
  }
}

TEST_P(Parity, ExportGivesTheSameBytes) {
  const auto source = checkpoint().directory(), target = new_path("");
  const auto result = run_program({"export", "--model", source, "--output_dir", target});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  const auto before = read_checkpoint(source), after = read_checkpoint(target);
  EXPECT_EQ(before.size(), after.size());
  for (const auto& [name, tensor] : before) {
    ASSERT_TRUE(after.count(name)) << name;
    EXPECT_TRUE(same_bits(tensor, after.at(name))) << name;
  }
  for (const auto& file : std::filesystem::directory_iterator(source)) {
    const auto name = file.path().filename().string();
    if (name == "config.json" || name.find("safetensors") != std::string::npos) continue;
    EXPECT_EQ(slurp(target / name), slurp(file.path())) << name;
  }
}

TEST_P(Parity, ExportKeepsEverySetting) {
  const auto source = checkpoint().directory(), target = new_path("");
  const auto result = run_program({"export", "--model", source, "--output_dir", target});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  const auto settings = [](const std::filesystem::path& folder) {
    auto config = parse_json_file(folder / "config.json");
    config.erase("transformers_version");
    if (const auto found = config.find("torch_dtype"); found != config.end()) {
      config["dtype"] = Json(*found);
      config.erase("torch_dtype");
    }
    return nlohmann::json::parse(config.dump());  // the order of keys does not matter
  };
  EXPECT_EQ(settings(target), settings(source));
}

TEST_P(Parity, FiveAdamWStepsAreTransformers) {
  if (!checkpoint().is_float32) return;
  const auto golden = this->golden();
  const auto rows = golden_folder() / "sft_rows.jsonl", target = new_path("");
  const auto result = run_program({"sft",
                                   "--model",
                                   checkpoint().directory(),
                                   "--dataset",
                                   rows,
                                   "--output_dir",
                                   target,
                                   "--tuner_type",
                                   "full",
                                   "--loss_scale",
                                   "default",
                                   "--max_steps",
                                   "5",
                                   "--learning_rate",
                                   "1e-3",
                                   "--lr_scheduler_type",
                                   "constant",
                                   "--warmup_ratio",
                                   "0",
                                   "--weight_decay",
                                   "0.1",
                                   "--adam_beta1",
                                   "0.9",
                                   "--adam_beta2",
                                   "0.95",
                                   "--adam_epsilon",
                                   "1e-8",
                                   "--max_grad_norm",
                                   "1",
                                   "--weight_decay_rule",
                                   "transformers",
                                   "--per_device_train_batch_size",
                                   "4",
                                   "--gradient_accumulation_steps",
                                   "1",
                                   "--logging_steps",
                                   "1"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  const Json expected = golden.metadata("values").at("sft_losses");
  std::vector<double> losses;
  for_each_json_line(target / "logging.jsonl", [&](int64_t, Json&& row) {
    if (row.contains("loss")) losses.push_back(row.at("loss").get<double>());
  });
  ASSERT_GE(losses.size(), expected.size());
  for (size_t i = 0; i < expected.size(); ++i)
    EXPECT_NEAR(losses[i], expected[i].get<double>(), kLossBound) << "step " << i + 1;

  const auto before = canonical(read_checkpoint(checkpoint().directory()));
  TensorMap change = canonical(read_checkpoint(target / "last"));
  for (auto& [name, tensor] : change) tensor = tensor.to(at::kDouble) - before.at(name);
  expect_samples(golden, "sft.", change, kChangeBound);
}

std::string name_of(const ::testing::TestParamInfo<GoldenCheckpoint>& info) {
  return info.param.name;
}
INSTANTIATE_TEST_SUITE_P(, Parity, ::testing::ValuesIn(golden_manifest()), name_of);

TEST(ParityOfFamilies, Bf16ErrorIsTransformers) {
  const GoldenFile golden("bf16");
  const Json reference = golden.metadata("transformers_error");
  const auto ids = golden.tensor("ids");
  double ours = 0, theirs = 0;
  const TempDir folder;
  for (const auto& [name, errors] : reference.items()) {
    std::string text;
    for (int64_t i = 0; i < ids.size(0); ++i)
      text += dump_json({{"input_ids", json_list(ids[i])}}) + "\n";
    const auto output = folder / (name + ".jsonl");
    const auto result =
        run_program({"score", "--model", golden_folder() / "checkpoints" / name, "--dataset",
                     folder.write("rows.jsonl", text), "--output", output});
    ASSERT_EQ(result.exit_code, 0) << result.err;
    const auto truth = golden.tensor("truth." + name);
    double error = 0;
    int64_t row_index = 0;
    for_each_json_line(output, [&](int64_t, Json&& row) {
      const auto difference = numbers(row.at("logprobs")) - truth[row_index++];
      error += difference.abs().mean().item<double>() / double(ids.size(0));
    });
    ASSERT_EQ(row_index, ids.size(0));
    const double own =
        std::min(errors.at("loaded").get<double>(), errors.at("float32_kept").get<double>());
    std::printf("%s: mean error %.5f, transformers %.5f\n", name.c_str(), error, own);
    ours += error;
    theirs += own;
  }
  EXPECT_LE(ours, kBf16Factor * theirs);
}

}  // namespace
}  // namespace lockstep::testing
