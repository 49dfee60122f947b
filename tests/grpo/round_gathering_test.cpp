// A round that several ranks make is, bit by bit, the one that one rank makes.
// SPDX-License-Identifier: Apache-2.0
#include "grpo/round_gathering.h"

#include <cmath>
#include <cstring>
#include <deque>
#include <limits>
#include <mutex>

#include "base/file.h"
#include "grpo/colocate_rollout.h"
#include "grpo/group_rewards.h"
#include "grpo/round_wire.h"
#include "tests/model/tiny_model.h"
#include "tests/parallel/run_ranks.h"
#include "tests/support/expect_error.h"
#include "tests/support/temp_dir.h"
#include "text/default_tokenizer.h"
#include "train/gathered_layers.h"

namespace lockstep::grpo {
namespace {

TEST(RoundPart, PartsHaveEveryGroupOnce) {
  for (size_t size = 1; size <= 5; ++size)
    for (size_t groups = 0; groups <= 12; ++groups) {
      std::vector<size_t> round(groups), seen(groups);
      for (size_t group = 0; group < groups; ++group) round[group] = group;
      for (size_t rank = 0; rank < size; ++rank) {
        const RoundPart part{rank, size};
        const std::vector<size_t> own = part.of(round);
        EXPECT_LE(own.size(), RoundPart({0, size}).count(groups));
        EXPECT_GE(own.size() + 1, RoundPart({0, size}).count(groups));
        for (size_t i = 0; i < own.size(); ++i) {
          EXPECT_EQ(own[i], part.number(i));
          ++seen[own[i]];
        }
      }
      EXPECT_EQ(seen, std::vector<size_t>(groups, 1));
    }
}

template <class T>
bool has_bits(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() &&
         (a.empty() || !std::memcmp(a.data(), b.data(), a.size() * sizeof(T)));
}
template <class T>
bool has_bits(const T& a, const T& b) {
  return !std::memcmp(&a, &b, sizeof(T));
}
bool has_bits(const at::Tensor& a, const at::Tensor& b) {
  return a.defined() == b.defined() &&
         (!a.defined() || (a.sizes() == b.sizes() && a.scalar_type() == b.scalar_type() &&
                           !std::memcmp(a.const_data_ptr(), b.const_data_ptr(), a.nbytes())));
}

// The bindings name all fields: one that is new must be compared, too.

void expect_equal(const Experience& a, const Experience& b) {
  const auto& [sample, sampler, old, ref, processed, learned, advantage, token_advantages, group,
               number, is_truncated, weight_version, is_rescored] = a;
  const auto& [ids, mask, adapter, kept, kept_rows, routed] = sample;
  EXPECT_EQ(ids, b.sample.ids);
  EXPECT_EQ(mask, b.sample.mask);
  EXPECT_EQ(adapter, b.sample.adapter);
  EXPECT_TRUE(!kept && kept_rows.empty());
  EXPECT_TRUE(has_bits(routed.experts, b.sample.routed.experts));
  EXPECT_TRUE(has_bits(routed.weights, b.sample.routed.weights));
  EXPECT_TRUE(has_bits(sampler, b.sampler_logprobs));
  EXPECT_TRUE(has_bits(old, b.old_logprobs));
  EXPECT_TRUE(has_bits(ref, b.ref_logprobs));
  EXPECT_TRUE(has_bits(processed, b.processed_logprobs));
  EXPECT_EQ(learned, b.learned);
  EXPECT_TRUE(has_bits(advantage, b.advantage));
  EXPECT_TRUE(has_bits(token_advantages, b.token_advantages));
  EXPECT_EQ(group, b.group);
  EXPECT_EQ(number, b.number);
  EXPECT_EQ(is_truncated, b.is_truncated);
  EXPECT_EQ(weight_version, b.weight_version);
  EXPECT_EQ(is_rescored, b.is_rescored);
}

void expect_equal(const TurnRecord& a, const TurnRecord& b) {
  const auto& [prompt_messages, prompt, messages, last_text, turn_ids, infos, reward, num_turns,
               num_tool_calls, num_tool_failures] = a;
  EXPECT_EQ(dump_json(prompt_messages), dump_json(b.prompt_messages));
  EXPECT_EQ(prompt, b.prompt);
  EXPECT_EQ(dump_json(messages), dump_json(b.messages));
  EXPECT_EQ(last_text, b.last_text);
  EXPECT_EQ(turn_ids, b.turn_ids);
  EXPECT_EQ(dump_json(infos), dump_json(b.infos));
  ASSERT_EQ(reward.has_value(), b.reward.has_value());
  EXPECT_TRUE(has_bits(reward.value_or(0), b.reward.value_or(0)));
  EXPECT_EQ(num_turns, b.num_turns);
  EXPECT_EQ(num_tool_calls, b.num_tool_calls);
  EXPECT_EQ(num_tool_failures, b.num_tool_failures);
}

void expect_equal(const std::vector<reward::Values>& a, const std::vector<reward::Values>& b) {
  ASSERT_EQ(a.size(), b.size());
  for (size_t i = 0; i < a.size(); ++i) {
    ASSERT_EQ(a[i].size(), b[i].size());
    for (size_t f = 0; f < a[i].size(); ++f) {
      ASSERT_EQ(a[i][f].has_value(), b[i][f].has_value());
      EXPECT_TRUE(has_bits(a[i][f].value_or(0), b[i][f].value_or(0)));
    }
  }
}

void expect_equal(const SampledGroups& a, const SampledGroups& b) {
  const auto& [prompts, group_size, experiences, texts, records] = a;
  EXPECT_EQ(prompts, b.prompts);
  EXPECT_EQ(group_size, b.group_size);
  EXPECT_EQ(texts, b.texts);
  ASSERT_EQ(experiences.size(), b.experiences.size());
  for (size_t i = 0; i < experiences.size(); ++i) expect_equal(experiences[i], b.experiences[i]);
  ASSERT_EQ(records.size(), b.records.size());
  for (size_t i = 0; i < records.size(); ++i) expect_equal(records[i], b.records[i]);
}

void expect_equal(const RewardedGroups& a, const RewardedGroups& b) {
  expect_equal(a.groups, b.groups);
  expect_equal(a.values, b.values);
  const auto& [metrics, extra, failures] = a.notes;
  EXPECT_EQ(metrics, b.notes.metrics);
  EXPECT_EQ(extra, b.notes.extra);
  EXPECT_EQ(failures, b.notes.failures);
}

double no_number() { return std::nan("77"); }
float no_float() { return -std::nanf("77"); }

/// Completions whose every field has a value of its own.
Experience full_experience(int64_t n) {
  const auto f = [n](float x) { return x + static_cast<float>(n) / 3; };
  Experience e;
  e.sample.ids = {n, n + 1, int64_t{1} << 40};
  e.sample.mask = {0, 1, 1};
  e.sample.adapter = n - 1;
  e.sample.routed.experts = at::arange(12, at::TensorOptions().dtype(at::kInt)).view({3, 2, 2});
  if (n % 2) e.sample.routed.weights = e.sample.routed.experts.to(at::kFloat).div(7);
  e.sampler_logprobs = {f(-0.1F), no_float()};
  e.old_logprobs = {f(-0.2F), -std::numeric_limits<float>::infinity()};
  e.ref_logprobs = {f(-0.3F), -0.0F};
  e.processed_logprobs = {f(-0.4F), std::numeric_limits<float>::denorm_min()};
  e.learned = {1, 0};
  e.advantage = no_number();
  e.token_advantages = {1.0 / 3, -0.0};
  e.group = n + 7;
  e.number = n + 70;
  e.is_truncated = n % 2 == 0;
  e.weight_version = n + 700;
  e.is_rescored = true;
  return e;
}

TEST(RoundWire, EveryFieldArrivesWithItsBits) {
  const Prompt prompt;
  JudgedGroups part;
  part.groups = {.prompts = {&prompt}, .group_size = 2};
  for (const int64_t n : {3, 4}) {
    part.groups.experiences.push_back(full_experience(n));
    part.groups.texts.push_back(fmt::format("no UTF-8: \xff {}", n));
    part.groups.records.push_back({.prompt_messages = Json::array({{{"b", 1}, {"a", 0.1}}}),
                                   .prompt = fmt::format("p{}", n),
                                   .messages = Json::array({n, -n, "x"}),
                                   .last_text = "last",
                                   .turn_ids = {{1, n}, {}, {3}},
                                   .infos = {{"k", Json()}},
                                   .reward = n == 3 ? std::optional(1.0 / 3) : std::nullopt,
                                   .num_turns = n,
                                   .num_tool_calls = n + 1,
                                   .num_tool_failures = n + 2});
  }
  part.judgement.values = {{no_number(), std::nullopt}, {-0.0, 5e-324}};
  part.judgement.notes.resize(2);
  part.judgement.notes[1].metrics["m"] = {{0, 1.5}, {0, no_number()}, {1, 2.5}};
  part.judgement.notes[1].extra["c"] = {Json("x"), Json({{"z", 1}, {"y", 1.0 / 3}})};
  part.judgement.failures = {0, 12};

  const std::string bytes = bytes_of_part(part);
  const JudgedGroups read = read_part(bytes, {&prompt});
  expect_equal(read.groups, part.groups);
  const auto& [values, notes, failures] = read.judgement;
  expect_equal(values, part.judgement.values);
  EXPECT_EQ(failures, part.judgement.failures);
  ASSERT_EQ(notes.size(), 2u);
  EXPECT_TRUE(notes[0].metrics.empty() && notes[0].extra.empty());
  const auto& [metrics, extra] = notes[1];
  EXPECT_EQ(extra, part.judgement.notes[1].extra);
  ASSERT_EQ(metrics.at("m").size(), 3u);
  EXPECT_TRUE(std::equal(metrics.at("m").begin(), metrics.at("m").end(),
                         part.judgement.notes[1].metrics["m"].begin(),
                         [](const auto& a, const auto& b) {
                           return a.first == b.first && has_bits(a.second, b.second);
                         }));
  EXPECT_EQ(bytes_of_part(read), bytes);

  for (const size_t left : {size_t{0}, bytes.size() / 2, bytes.size() - 1})
    EXPECT_ERROR(read_part(bytes.substr(0, left), {&prompt}), FormatError, "bad-part", "expected");
  EXPECT_ERROR(read_part(bytes, {}), FormatError, "bad-part", "expected 0 completions, got 2");
}

/// A tiny model with a tokenizer and rewards, from which each rank makes its own sampler.
class Rounds : public ::testing::TestWithParam<model::Family> {
 protected:
  Rounds() : weights_(testing::tiny_weights(GetParam())) {
    write_file(folder_.path() / "tokenizer.json", dump_json(text::default_tokenizer_json(2048)));
    write_file(folder_.path() / "tokenizer_config.json",
               dump_json(text::default_tokenizer_config()));
    write_file(folder_.path() / "chat_template.jinja", text::default_chat_template());
    rows_encoder_.emplace(folder_.path(), /*vocab_size=*/2048, /*enable_thinking=*/false);
    encoder_ = &rows_encoder_->chat();
    options_.grpo.max_completion_length = 12;
    options_.reward.reward_funcs = {"format", "soft_overlong",
                                    "x=program:while read -r line; do "
                                    "case \"$line\" in *e*) echo 1;; *) echo none;; esac; done"};
    std::get<reward::SoftOverlong>(options_.reward.builtin).soft_cache_length = 6;
    // Two of the questions come twice, on different ranks.
    for (const char* question : {"1+1=", "2+2=", "3+3=", "1+1=", "4+4=", "3+3=", "9"}) {
      text::Row& row = rows_.emplace_back();
      row.messages = Json::array({{{"role", "user"}, {"content", question}}});
      row.columns = Json::object();
      row.where = fmt::format("rows:{}", rows_.size());
      prompts_.push_back(
          {&row, row.messages, {}, encoder_->encode_prompt({.messages = &row.messages})});
      // The model has fewer ids than the tokenizer.
      for (int64_t& id : prompts_.back().encoded.ids) id %= weights_->config().vocab_size;
    }
  }

  std::vector<const Prompt*> round(size_t groups) const {
    std::vector<const Prompt*> pointers;
    for (size_t i = 0; i < groups; ++i) pointers.push_back(&prompts_[i]);
    return pointers;
  }

  /// With experts that so many ranks share out they have nobody else's.
  RewardedGroups sample_on(parallel::Group& ranks,
                           size_t groups,
                           int64_t experts_over = 1,
                           const rollout::Engine::Progress& progress = {}) const {
    const std::unique_ptr<model::ModelWeights> own = testing::tiny_weights(GetParam());
    model::ModelWeights& weights = experts_over == 1 ? *weights_ : *own;
    const train::Shards shards(ranks, train::Sharding::kFull, experts_over);
    train::GatheredLayers layers(
        weights, shards,
        experts_over == 1 ? nullptr
                          : std::make_shared<model::ExpertRanks>(shards.experts(), ranks));
    if (experts_over > 1) layers.give_all_back();
    if (experts_over > 1) layers.gather_layers();
    rollout::Engine engine(weights, {.cache_memory = 0.25});
    ColocateRollout rollout(engine, weights, encoder_->tokenizer(), /*exact=*/true);
    rollout.publish(3);
    GroupSampler sampler(options_.grpo, *encoder_, rollout, {5, 6}, {});
    if (GetParam() == model::Family::kQwen3_5Moe)
      sampler.record_experts(rollout::RecordExperts::kIdsAndWeights);
    const reward::Rewarder rewarder(options_.reward,
                                    {.max_completion_length = options_.grpo.max_completion_length});
    const GroupSampler::Draw draw{.group_size = 3,
                                  .weight_version = 3,
                                  .number = 11,
                                  .part = part_of(ranks),
                                  .kept = {},
                                  .progress = progress};
    const auto prompts = round(groups);
    RoundRewards rewards(rewarder, {}, draw.part);
    return gather_round(
        ranks, draw.part, prompts, weights, [&] { return sampler.sample(prompts, draw, &rewards); },
        [&](SampledGroups sampled) { return judged(std::move(sampled), rewards); });
  }

  testing::TempDir folder_;
  std::unique_ptr<model::ModelWeights> weights_;
  std::optional<text::RowEncoder> rows_encoder_;
  const text::ChatEncoder* encoder_ = nullptr;
  GrpoRunOptions options_;
  std::deque<text::Row> rows_;
  std::deque<Prompt> prompts_;
};
INSTANTIATE_TEST_SUITE_P(Families,
                         Rounds,
                         ::testing::Values(model::Family::kQwen3, model::Family::kQwen3_5Moe));

TEST_P(Rounds, SeveralRanksMakeTheOneThatOneRankMakes) {
  for (const size_t groups : {7, 2}) {
    const RewardedGroups alone = sample_on(parallel::alone(), groups);
    ASSERT_EQ(alone.groups.texts.size(), 3 * groups);
    if (groups == 7) {
      EXPECT_NE(alone.groups.texts[0], alone.groups.texts[3 * 3]);
      EXPECT_EQ(alone.groups.experiences[0].sample.routed.defined(),
                GetParam() == model::Family::kQwen3_5Moe);
      EXPECT_TRUE(std::any_of(alone.values.begin(), alone.values.end(),
                              [](const reward::Values& v) { return v[2].has_value(); }));
    }
    // With two prompts the last of four ranks have nothing to do.
    for (const int64_t size : {2, 3, 4}) {
      std::mutex mutex;
      run_ranks(size, [&](parallel::Group& ranks) {
        const RewardedGroups together = sample_on(ranks, groups);
        const std::lock_guard lock(mutex);
        expect_equal(together, alone);
      });
    }
  }
}

TEST_P(Rounds, RanksThatShareOutExpertsMakeTheOneThatOneRankMakes) {
  if (GetParam() != model::Family::kQwen3_5Moe) return;  // no experts
  for (const size_t groups : {7, 2}) {
    const RewardedGroups alone = sample_on(parallel::alone(), groups);
    for (const auto& [size, experts_over] : {std::pair<int64_t, int64_t>(2, 2), {4, 2}, {4, 4}}) {
      SCOPED_TRACE(fmt::format("{} groups, {} ranks, experts over {}", groups, size, experts_over));
      std::mutex mutex;
      run_ranks(size, [&, over = experts_over](parallel::Group& ranks) {
        const RewardedGroups together = sample_on(ranks, groups, over);
        const std::lock_guard lock(mutex);
        expect_equal(together, alone);
      });
    }
  }
}

/// Also where the others need its experts until they are done.
TEST_P(Rounds, WhatStopsSamplingOnOneRankStopsAll) {
  const int64_t experts_over = GetParam() == model::Family::kQwen3_5Moe ? 2 : 1;
  run_ranks(4, [&](parallel::Group& ranks) {
    int64_t steps = 0;
    const auto stop = [&](int64_t, int64_t) {
      if (ranks.rank() == 1 && ++steps == 4)
        fail<PeerError>("reward-failed", "reward x", "expected a value");
    };
    EXPECT_ERROR(sample_on(ranks, 7, experts_over, stop), PeerError,
                 ranks.rank() == 1 ? "reward-failed" : "rank-failed", "reward x: expected a value");
  });
}

TEST_P(Rounds, WhatStopsOneRankStopsAll) {
  run_ranks(3, [&](parallel::Group& ranks) {
    const auto gather = [&] {
      gather_round(
          ranks, part_of(ranks), round(2), *weights_,
          [&] { return SampledGroups{.prompts = part_of(ranks).of(round(2))}; },
          [&](SampledGroups groups) -> JudgedGroups {
            if (ranks.rank() == 1) fail<PeerError>("reward-failed", "reward x", "expected a value");
            return {std::move(groups), {}};
          });
    };
    EXPECT_ERROR(gather(), PeerError, ranks.rank() == 1 ? "reward-failed" : "rank-failed",
                 "reward x: expected a value");
  });
}

/// Notes of two functions under one name: those of the first on all completions come first.
TEST(JoinParts, NotesComeInTheOrderOfFunctionsAndCompletions) {
  const auto part_with = [](size_t rank, size_t groups) {
    JudgedGroups part;
    part.groups.group_size = 1;
    for (size_t i = 0; i < groups; ++i) {
      static const Prompt prompt;
      part.groups.prompts.push_back(&prompt);
      part.groups.experiences.emplace_back();
      part.groups.texts.emplace_back();
    }
    part.judgement.values.resize(groups);
    part.judgement.notes.resize(2);
    part.judgement.failures = {0, static_cast<int64_t>(rank) + 2};
    for (size_t f = 0; f < 2; ++f)
      for (size_t i = 0; i < groups; ++i) {
        const size_t number = RoundPart{rank, 2}.number(i);
        part.judgement.notes[f].metrics["m"].emplace(i, static_cast<double>(10 * f + number));
        if (rank == 1) part.judgement.notes[f].add_extra("c", i, groups, Json({number}));
      }
    return part;
  };
  std::vector<JudgedGroups> parts;
  parts.push_back(part_with(0, 2));
  parts.push_back(part_with(1, 1));
  const RewardedGroups round = join_parts(std::move(parts));
  EXPECT_EQ(round.notes.metrics.at("m"), (std::vector<double>{0, 1, 2, 10, 11, 12}));
  EXPECT_EQ(round.notes.extra.at("c"), (std::vector<Json>{{}, 1, {}}));
  EXPECT_EQ(round.notes.failures, (std::vector<int64_t>{0, 5}));
}

}  // namespace
}  // namespace lockstep::grpo
