// Each stage of a generation batch on its own: prompts, sampling, rewards, the buffer, the step.
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <array>
#include <cmath>
#include <deque>

#include <gtest/gtest.h>

#include "base/check.h"
#include "base/file.h"
#include "base/json.h"
#include "grpo/completions_log.h"
#include "grpo/generation_buffer.h"
#include "grpo/group_rewards.h"
#include "grpo/policy_step.h"
#include "tests/model/tiny_model.h"
#include "tests/support/expect_error.h"
#include "tests/support/temp_dir.h"
#include "text/default_tokenizer.h"

namespace lockstep::grpo {
namespace {

using testing::TempDir;

/// A sampler that gives every prompt the same completions and remembers what it was asked.
class ScriptedRollout : public RolloutClient {
 public:
  int64_t max_model_len() const override { return 256; }
  void check_room(int64_t, int64_t) const override {}
  SamplerMemory planned_memory(std::span<const rollout::GroupSpec>, bool) const override {
    return {};
  }
  void begin_turns(std::span<const rollout::GroupSpec>) override {}
  void end_turns() noexcept override {}
  void keep_caches(bool) override {}
  bool has_trained_weights() const override { return true; }
  bool keeps_layer_inputs() const override { return false; }
  Published publish(int64_t) override { return {}; }
  std::vector<ServerScores> score(const std::vector<int64_t>&) override { return {}; }
  Completions generate(std::span<const rollout::Request> requests,
                       int64_t weight_version,
                       const Watch&) override {
    asked.assign(requests.begin(), requests.end());
    version = weight_version;
    return Completions(requests.size(), script);
  }
  Completions generate_and_keep(std::span<const rollout::Request>,
                                int64_t,
                                const Watch&,
                                model::LayerInputs&) override {
    throw InternalError("internal", "", "nothing is kept");
  }

  std::vector<rollout::Completion> script;
  std::vector<rollout::Request> asked;
  int64_t version = -1;
};

text::Row row_of(Json messages, Json columns = Json::object()) {
  text::Row row;
  row.messages = std::move(messages);
  row.columns = std::move(columns);
  row.where = "rows:1";
  return row;
}

Json user(const std::string& content) {
  return Json::array({{{"role", "user"}, {"content", content}}});
}

/// Tokenizer and template of a checkpoint, without weights.
class Stages : public ::testing::Test {
 protected:
  Stages() {
    write_file(folder_.path() / "tokenizer.json", dump_json(text::default_tokenizer_json(2048)));
    write_file(folder_.path() / "tokenizer_config.json",
               dump_json(text::default_tokenizer_config()));
    write_file(folder_.path() / "chat_template.jinja", text::default_chat_template());
    rows_.emplace(folder_.path(), /*vocab_size=*/2048, /*enable_thinking=*/false);
    encoder_ = &rows_->chat();
    options_.grpo.max_completion_length = 8;
    options_.reward.reward_funcs = {"format", "soft_overlong"};
    std::get<reward::SoftOverlong>(options_.reward.builtin).soft_cache_length = 4;
  }

  /// Prompts point at their rows, which are kept.
  std::vector<Prompt> prompts_of(
      const std::vector<text::Row>& rows,
      const PromptEncoder::RowCheck& check = [](const text::Row&) {}) {
    datasets_.emplace_back().rows = rows;
    return PromptEncoder(options_, *rows_, /*context=*/256).encode("rows", datasets_.back(), check);
  }
  rollout::Completion completion(const std::string& content, bool ends) const {
    rollout::Completion made;
    made.token_ids = encoder_->tokenizer().encode(content);
    if (ends) made.token_ids.push_back(*encoder_->tokenizer().id_of("<|im_end|>"));
    made.has_stop_token = ends;
    made.finish_reason = ends ? rollout::FinishReason::kStop : rollout::FinishReason::kLength;
    made.logprobs.assign(made.token_ids.size(), -0.5F);
    return made;
  }

  TempDir folder_;
  std::optional<text::RowEncoder> rows_;
  const text::ChatEncoder* encoder_ = nullptr;
  std::deque<text::Dataset> datasets_;
  GrpoRunOptions options_;
};

TEST_F(Stages, APromptLeavesTheAnswerOutAndKeepsItsEnd) {
  Json answered = user("1+1=");
  answered.push_back({{"role", "assistant"}, {"content", "2"}});
  const std::vector<text::Row> rows{row_of(answered), row_of(user(std::string(600, 'x')))};
  const auto prompts = prompts_of(rows);
  ASSERT_EQ(prompts.size(), 2u);
  EXPECT_EQ(prompts[0].messages, user("1+1="));
  EXPECT_EQ(prompts[0].encoded.text.find("2"), std::string::npos);
  EXPECT_EQ(longest_prompt(prompts), 256 - 8);
  const auto whole = encoder_->tokenizer().encode(prompts[1].encoded.text);
  EXPECT_EQ(prompts[1].encoded.ids, std::vector<int64_t>(whole.end() - (256 - 8), whole.end()));

  options_.grpo.truncation_strategy = TruncationStrategy::kDelete;
  EXPECT_EQ(prompts_of(rows).size(), 1u);
}

TEST_F(Stages, ARowThatTheCheckRefusesIsAnErrorOrIsDropped) {
  const std::vector<text::Row> rows{row_of(user("a")), row_of(user("b"))};
  const auto check = [&](const text::Row& row) {
    if (row.messages == user("a"))
      fail<FormatError>("bad-row", row.where, "expected another, got a");
  };
  const auto encode = [&] { return prompts_of(rows, check); };
  EXPECT_ERROR(encode(), FormatError, "bad-row", "expected another");
  options_.training.data.strict = false;
  EXPECT_EQ(encode().size(), 1u);
}

TEST_F(Stages, SamplingMakesGroupsOfPromptAndCompletion) {
  const std::vector<text::Row> rows{row_of(user("1+1=")), row_of(user("2+2=")),
                                    row_of(user("1+1="))};
  const auto prompts = prompts_of(rows);
  ScriptedRollout rollout;
  rollout.script = {completion("four", true), completion("five", false)};
  const GroupSampler sampler(options_.grpo, *encoder_, rollout, {}, {});
  const SampledGroups groups = sampler.sample({&prompts[0], &prompts[1], &prompts[2]},
                                              {.group_size = 2, .weight_version = 7, .number = 3});
  ASSERT_EQ(rollout.asked.size(), 3u);
  EXPECT_EQ(rollout.version, 7);
  for (const auto& request : rollout.asked) {
    EXPECT_EQ(request.settings.max_new_tokens, 8);
    EXPECT_EQ(request.num_samples, 2);
    EXPECT_EQ(request.draw, 3u);
  }
  // The second of two equal prompts draws other completions than the first.
  EXPECT_EQ(rollout.asked[0].occurrence, 0u);
  EXPECT_EQ(rollout.asked[1].occurrence, 0u);
  EXPECT_EQ(rollout.asked[2].occurrence, 1u);

  ASSERT_EQ(groups.experiences.size(), 6u);
  const std::string prefix = prompts[0].encoded.response_prefix;
  EXPECT_FALSE(prefix.empty());  // the empty think block
  for (size_t i = 0; i < 6; ++i) {
    const Experience& experience = groups.experiences[i];
    const rollout::Completion& from = rollout.script[i % 2];
    EXPECT_EQ(groups.texts[i], prefix + (i % 2 ? "five" : "four"));
    EXPECT_EQ(&groups.prompt_of(i), &prompts[i / 2]);
    EXPECT_TRUE(std::ranges::equal(groups.token_ids(i), from.token_ids));
    auto ids = prompts[i / 2].encoded.ids;
    ids.insert(ids.end(), from.token_ids.begin(), from.token_ids.end());
    EXPECT_EQ(experience.sample.ids, ids);
    EXPECT_EQ(experience.sample.num_scored(), std::ssize(from.token_ids));
    EXPECT_EQ(experience.sample.prompt_tokens(), std::ssize(prompts[i / 2].encoded.ids));
    EXPECT_EQ(experience.sampler_logprobs, from.logprobs);
    EXPECT_EQ(experience.is_truncated, i % 2 == 1);
    EXPECT_EQ(experience.weight_version, 7);
    EXPECT_EQ(experience.advantage, 0);
  }
}

TEST_F(Stages, ARoundIsRestoredFromItsExperiences) {
  const std::vector<text::Row> rows{row_of(user("1+1="))};
  const auto prompts = prompts_of(rows);
  ScriptedRollout rollout;
  rollout.script = {completion("four", true), completion("five", false)};
  const GroupSampler sampler(options_.grpo, *encoder_, rollout,
                             {*encoder_->tokenizer().id_of("<|im_end|>")}, {});
  const SampledGroups groups = sampler.sample({&prompts[0]}, {.group_size = 2});
  const SampledGroups again = sampler.restore({&prompts[0]}, groups.experiences, 2);
  EXPECT_EQ(again.texts, groups.texts);
  EXPECT_EQ(again.group_size, 2);
  EXPECT_EQ(again.prompts, groups.prompts);
  ASSERT_EQ(again.experiences.size(), 2u);
  EXPECT_EQ(again.experiences[1].sample.ids, groups.experiences[1].sample.ids);
}

/// Completions that no sampler made: one that ended after 3 tokens, one cut at 8.
SampledGroups groups_by_hand(const Prompt& prompt) {
  SampledGroups groups{.prompts = {&prompt}, .group_size = 2};
  for (const int64_t length : {3, 8}) {
    Experience& experience = groups.experiences.emplace_back();
    experience.sample.ids.assign(static_cast<size_t>(2 + length), 5);
    experience.sample.mask.assign(2, 0);
    experience.sample.mask.resize(experience.sample.ids.size(), 1);
    experience.sampler_logprobs.assign(static_cast<size_t>(length), -1.0F);
    experience.is_truncated = length == 8;
  }
  groups.texts = {"<think>a</think><answer>b</answer>", "<think>a"};
  return groups;
}

TEST_F(Stages, RewardsNeedTextsAndLengthsOnly) {
  const text::Row row = row_of(user("?"), {{"solution", "b"}});
  const Prompt prompt{&row, row.messages, {}, {.text = "?"}};
  const reward::Rewarder rewarder(options_.reward,
                                  {.max_completion_length = options_.grpo.max_completion_length});
  RoundRewards rewards(rewarder, {});
  std::vector<JudgedGroups> parts;
  parts.push_back(judged(groups_by_hand(prompt), rewards));
  RewardedGroups round = join_parts(std::move(parts));
  EXPECT_EQ(round.values, (std::vector<reward::Values>{{1.0, 0.0}, {0.0, -1.0}}));
  round.advantages =
      compute_advantages(round.values, rewarder.weights(), 2, {.scale = ScaleRewards::kNone});
  EXPECT_EQ(round.advantages.advantages, (std::vector<double>{1, -1}));

  Metrics metrics;
  add_function_metrics(rewarder, round.values, round.notes, "eval_", metrics);
  add_length_metrics(round.groups, "eval_", metrics);
  add_reward_metrics(round.advantages, "eval_", metrics);
  const Json values = metrics.values();
  EXPECT_EQ(values.at("eval_rewards/Format/mean"), 0.5);
  EXPECT_EQ(values.at("eval_rewards/format/mean"), 0.5);
  EXPECT_NEAR(values.at("eval_rewards/SoftOverlong/std").get<double>(), std::sqrt(0.5), 1e-8);
  EXPECT_EQ(values.at("eval_completions/mean_length"), 5.5);
  EXPECT_EQ(values.at("eval_completions/clipped_ratio"), 0.5);
  EXPECT_EQ(values.at("eval_completions/max_terminated_length"), 3);
  EXPECT_EQ(values.at("eval_reward"), 0);

  const Json line = completions_line(round, rewarder, 4);
  EXPECT_EQ(line.at("step"), Json({"4", "4"}));
  EXPECT_EQ(line.at("prompt"), Json({"?", "?"}));
  EXPECT_EQ(line.at("Format"), Json({1.0, 0.0}));
  EXPECT_EQ(line.at("solution"), Json({"b", "b"}));
}

/// Rewards far from zero: a deviation that is a difference of squares would lose its digits.
TEST_F(Stages, TheDeviationOfLargeRewardsKeepsItsDigits) {
  const reward::Rewarder rewarder(options_.reward,
                                  {.max_completion_length = options_.grpo.max_completion_length});
  const double far = 1e9;
  Metrics metrics;
  const std::vector<reward::Values> values{{far, far}, {far + 1, far}, {far + 2, far}};
  add_function_metrics(rewarder, values, {}, "", metrics);
  EXPECT_DOUBLE_EQ(metrics.values().at("rewards/Format/std").get<double>(), 1);
}

BatchPlan plan_of(int64_t micro_step, int64_t steps_per_generation, int64_t num_iterations) {
  return {.micro_step = micro_step,
          .accumulation = 1,
          .steps_per_generation = steps_per_generation,
          .num_iterations = num_iterations,
          .generation_batch = micro_step * steps_per_generation};
}

std::vector<Experience> numbered_batch(int64_t count) {
  std::vector<Experience> batch(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i) batch[static_cast<size_t>(i)].advantage = double(i);
  return batch;
}

TEST(GenerationBuffer, EveryIterationSeesEveryCompletionOnce) {
  GenerationBuffer buffer(plan_of(2, 3, 2), /*seed=*/1);
  for (int generation = 1; generation <= 2; ++generation) {
    ASSERT_TRUE(buffer.is_used_up());
    buffer.fill(numbered_batch(6));
    EXPECT_EQ(buffer.generation(), generation);
    for (int iteration = 0; iteration < 2; ++iteration) {
      std::vector<int> seen(6);
      for (int slice = 0; slice < 3; ++slice) {
        if (iteration + slice) {
          EXPECT_FALSE(buffer.is_used_up());
        }
        const auto taken = buffer.next();
        ASSERT_EQ(taken.size(), 2u);
        for (const Experience& experience : taken)
          ++seen[static_cast<size_t>(experience.advantage)];
      }
      EXPECT_EQ(seen, std::vector<int>(6, 1));
    }
  }
  EXPECT_EQ(buffer.micro_step(), 12);
}

TEST(GenerationBuffer, GoesOnWhereItWasSaved) {
  GenerationBuffer buffer(plan_of(1, 4, 1), 1), restored(plan_of(1, 4, 1), 1);
  buffer.fill(numbered_batch(4));
  buffer.next();
  restored.restore(buffer.micro_step(), buffer.generation(), buffer.batch());
  for (int i = 0; i < 3; ++i) EXPECT_EQ(buffer.next()[0].advantage, restored.next()[0].advantage);
  EXPECT_TRUE(restored.is_used_up());
  EXPECT_EQ(restored.generation(), 1);
}

TEST(GenerationBuffer, RefusesABatchOfAnotherSize) {
  GenerationBuffer buffer(plan_of(2, 2, 1), 1);
  EXPECT_ERROR(buffer.fill(numbered_batch(3)), InternalError, "internal", "expected 4");
}

/// The numbers of a batch in the order of training.
std::vector<int> order_of(const BatchPlan& plan, int64_t seed, int64_t generation = 0) {
  GenerationBuffer buffer(plan, seed);
  buffer.restore(generation * plan.uses(), generation, {});
  buffer.fill(numbered_batch(plan.generation_batch));
  std::vector<int> order;
  for (const Experience& experience : buffer.batch())
    order.push_back(static_cast<int>(experience.advantage));
  return order;
}

TEST(GenerationBuffer, ShufflesABatchAmongItsOptimizerSteps) {
  BatchPlan plan = plan_of(4, 8, 1);
  plan.accumulation = 2;
  const auto order = order_of(plan, 42);
  auto sorted = order;
  std::sort(sorted.begin(), sorted.end());
  for (int i = 0; i < 32; ++i) EXPECT_EQ(sorted[static_cast<size_t>(i)], i);
  EXPECT_NE(order, sorted);
  // Each of the four optimizer steps keeps the order of groups, and none is one run of the batch.
  for (auto step = order.begin(); step != order.end(); step += 8) {
    EXPECT_TRUE(std::is_sorted(step, step + 8));
    EXPECT_GT(step[7] - step[0], 7);
  }
}

TEST(GenerationBuffer, TheShuffleIsAFunctionOfSeedAndBatchNumber) {
  const BatchPlan plan = plan_of(2, 8, 1);
  EXPECT_EQ(order_of(plan, 42, 3), order_of(plan, 42, 3));
  EXPECT_NE(order_of(plan, 42, 3), order_of(plan, 42, 4));
  EXPECT_NE(order_of(plan, 42, 3), order_of(plan, 43, 3));
}

TEST(GenerationBuffer, ABatchOfOneStepStaysInItsOrder) {
  BatchPlan plan = plan_of(2, 4, 3);
  plan.accumulation = 8;
  const auto order = order_of(plan, 42);
  EXPECT_TRUE(std::is_sorted(order.begin(), order.end()));
}

/// Over many batches every completion falls into every step about equally often.
TEST(GenerationBuffer, TheShuffleIsEven) {
  const BatchPlan plan = plan_of(1, 4, 1);
  constexpr int kBatches = 4000;
  std::array<std::array<int, 4>, 4> count{};
  for (int generation = 0; generation < kBatches; ++generation) {
    const auto order = order_of(plan, 7, generation);
    for (size_t step = 0; step < 4; ++step) ++count[step][static_cast<size_t>(order[step])];
  }
  // Five standard deviations of a binomial count with p = 1/4.
  const double bound = 5 * std::sqrt(kBatches * 0.25 * 0.75);
  for (const auto& row : count)
    for (const int times : row) EXPECT_NEAR(times, kBatches / 4, bound);
}

/// A step of one completion that was sampled under earlier weights.
TEST(PolicyStep, TheRatioIsTakenAgainstThePolicyThatSampled) {
  const auto weights = testing::tiny_weights(model::Family::kQwen3);
  train::Trainer trainer(*weights, {});
  std::vector<Experience> step(1);
  step[0].sample = {{1, 2, 3, 4}, {0, 0, 1, 1}};
  step[0].advantage = 1;
  step[0].weight_version = 4;
  const auto scores = trainer.score(std::vector<train::Sample>{step[0].sample}, {});
  GrpoRunOptions options;
  options.loss.beta = 0;
  const auto loss_of = [&] {
    Metrics metrics;
    policy_gradients({.completions = step, .weight_version = 5, .scoring = {}}, trainer, options,
                     metrics);
    return metrics.values()["loss"].get<double>();
  };
  // Each token was half as likely, so that its ratio is 2, which is clipped to 1.2.
  const std::vector<float>& now = scores[0].logprobs;
  const auto half = static_cast<float>(std::log(2));
  step[0].sampler_logprobs = {now[0] - half, now[1] - half};
  EXPECT_NEAR(loss_of(), -1.2, 1e-6);
  // What the trainer said then goes first.
  step[0].old_logprobs = {now[0], now[1]};
  EXPECT_NEAR(loss_of(), -1, 1e-6);
  step[0].old_logprobs.clear();
  step[0].sampler_logprobs.clear();
  EXPECT_ERROR(loss_of(), InternalError, "no-old-logprobs", "each of the 2 sampled tokens, got 0");
}

/// The metrics of a step are worked out again from the log-probabilities of its tokens.
TEST(PolicyStep, ReportsLossKlAndDifferenceOfItsTokens) {
  const auto weights = testing::tiny_weights(model::Family::kQwen3);
  train::Trainer trainer(*weights, {});
  std::vector<Experience> step(2);
  for (size_t i = 0; i < step.size(); ++i) {
    step[i].sample = {{1, 2, 3, 4}, {0, 0, 1, 1}};
    step[i].sample.ids[3] += static_cast<int64_t>(i);
    step[i].advantage = i ? -0.25 : 1.0;
    step[i].weight_version = 5;
  }
  GrpoRunOptions options;
  options.loss.beta = 0.1;
  const ScoreOptions scoring{.temperature = 0.8};
  const auto scores =
      trainer.score(std::vector<train::Sample>{step[0].sample, step[1].sample}, scoring);
  double kl = 0, loss = 0;
  for (size_t i = 0; i < step.size(); ++i) {
    step[i].sampler_logprobs = scores[i].logprobs;
    step[i].ref_logprobs = {scores[i].logprobs[0] + 0.5F, scores[i].logprobs[1] - 0.25F};
    for (size_t t = 0; t < 2; ++t) {
      const double x = double(step[i].ref_logprobs[t]) - double(scores[i].logprobs[t]);
      kl += std::exp(x) - x - 1;
      loss += (-step[i].advantage + 0.1 * (std::exp(x) - x - 1)) / 4;
    }
  }
  step[1].sampler_logprobs[1] += 0.5F;

  Metrics metrics;
  const auto learned = policy_gradients(
      {.completions = step, .weight_version = 5, .scoring = scoring}, trainer, options, metrics);
  EXPECT_EQ(learned.gradients.size(), weights->parameters().size());
  EXPECT_EQ(learned.fresh.first, 1);
  EXPECT_EQ(learned.fresh.logprobs.different, 1);
  ExactnessCheck(trainer, scoring, {.exact = false})
      .check_step({step, 5, learned.fresh}, {}, metrics);
  const Json values = metrics.values();
  EXPECT_NEAR(values.at("loss").get<double>(), loss, 1e-8);
  EXPECT_NEAR(values.at("kl").get<double>(), kl / 4, 1e-8);
  EXPECT_NEAR(values.at("train/sampler_logprob_max_diff").get<double>(), 0.5, 1e-6);
  EXPECT_NEAR(values.at("train/sampler_logprob_mean_diff").get<double>(), 0.125, 1e-6);
  EXPECT_EQ(values.at("clip_ratio/region_mean"), 0);
}

}  // namespace
}  // namespace lockstep::grpo
