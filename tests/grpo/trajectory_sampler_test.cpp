// Completions in several turns: their ids are those that the sampler saw, only sampled ones are
// learned from, and limits end them.
// SPDX-License-Identifier: Apache-2.0
#include "grpo/trajectory_sampler.h"

#include <algorithm>
#include <deque>
#include <functional>
#include <tuple>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/check.h"
#include "tests/support/expect_error.h"
#include "tests/text/chat_models.h"

namespace lockstep::grpo {
namespace {

using ::testing::ElementsAre;
using text::json;

constexpr int64_t kContext = 400;

/// A sampler that says what it is told to, and remembers what it was asked.
class ScriptedRollout : public RolloutClient {
 public:
  explicit ScriptedRollout(const text::Tokenizer& tokenizer) : tokenizer_(&tokenizer) {}

  int64_t max_model_len() const override { return kContext; }
  void check_room(int64_t prompt_tokens, int64_t max_new_tokens) const override {
    if (prompt_tokens + max_new_tokens > kContext)
      fail<ConfigError>("prompt-too-long", "sampler", "expected less, got more");
  }
  SamplerMemory planned_memory(std::span<const rollout::GroupSpec>, bool) const override {
    return {};
  }
  void begin_turns(std::span<const rollout::GroupSpec> groups) override {
    is_in_turns = true;
    longest.assign(groups.begin(), groups.end());
  }
  void end_turns() noexcept override { is_in_turns = false; }
  void keep_caches(bool) override {}
  bool has_trained_weights() const override { return true; }
  bool keeps_layer_inputs() const override { return false; }
  Published publish(int64_t) override { return {}; }
  std::vector<ServerScores> score(const std::vector<int64_t>&) override { return {}; }
  Completions generate(std::span<const rollout::Request> requests, int64_t, const Watch&) override {
    EXPECT_TRUE(is_in_turns);
    rounds.emplace_back(requests.begin(), requests.end());
    Completions all;
    for (const rollout::Request& request : requests) {
      auto& samples = all.emplace_back();
      for (int64_t s = 0; s < request.num_samples; ++s)
        samples.push_back(completion(rounds.size(), sampled++, request.settings.max_new_tokens));
    }
    return all;
  }
  Completions generate_and_keep(std::span<const rollout::Request>,
                                int64_t,
                                const Watch&,
                                model::LayerInputs&) override {
    throw InternalError("internal", "", "nothing is kept");
  }

  /// What is said in a round (from 1) by the n-th completion of all.
  std::function<std::string(size_t round, size_t number)> says = [](size_t round, size_t number) {
    return fmt::format("turn {} of {}", round, number);
  };
  std::vector<std::vector<rollout::Request>> rounds;
  std::vector<rollout::GroupSpec> longest;
  size_t sampled = 0;
  bool is_in_turns = false;

 private:
  rollout::Completion completion(size_t round, size_t number, int64_t most) const {
    rollout::Completion made;
    made.token_ids = tokenizer_->encode(says(round, number));
    made.token_ids.push_back(*tokenizer_->id_of("<|im_end|>"));
    made.has_stop_token = std::ssize(made.token_ids) <= most;
    made.finish_reason =
        made.has_stop_token ? rollout::FinishReason::kStop : rollout::FinishReason::kLength;
    if (!made.has_stop_token) made.token_ids.resize(static_cast<size_t>(most));
    for (size_t t = 0; t < made.token_ids.size(); ++t)
      made.logprobs.push_back(-static_cast<float>(number) - static_cast<float>(t) / 64);
    return made;
  }

  const text::Tokenizer* tokenizer_;
};

/// Answers as a test says.
class ScriptedScheduler : public agent::TurnScheduler {
 public:
  void begin(std::span<agent::Trajectory* const> trajectories) override {
    for (agent::Trajectory* one : trajectories) {
      begun.push_back(one->id);
      if (on_begin) on_begin(*one);
    }
  }
  std::vector<agent::FollowUp> follow(std::span<agent::Trajectory* const> trajectories) override {
    std::vector<agent::FollowUp> answers;
    for (agent::Trajectory* one : trajectories) {
      last_seen[one->id] = one->is_last;
      answers.push_back(answer(*one));
    }
    return answers;
  }
  void end(std::span<agent::Trajectory* const> trajectories) noexcept override {
    for (const agent::Trajectory* one : trajectories) ended.push_back(one->id);
  }

  std::function<void(agent::Trajectory&)> on_begin;
  std::function<agent::FollowUp(agent::Trajectory&)> answer = [](agent::Trajectory&) {
    return agent::FollowUp{};
  };
  std::vector<std::string> begun, ended;
  std::map<std::string, bool> last_seen;
};

agent::FollowUp user(const std::string& words) {
  agent::FollowUp next;
  next.messages.push_back({{"role", "user"}, {"content", words}});
  return next;
}

class Trajectories : public ::testing::Test {
 protected:
  Trajectories() : chat_(text::chat_model("qwen3.jinja")), rollout_(chat_.tokenizer()) {
    settings_.max_new_tokens = 40;
  }

  const Prompt* prompt(const std::string& question) {
    text::Row& row = rows_.emplace_back();
    row.messages = Json::array({{{"role", "user"}, {"content", question}}});
    row.chat_template_kwargs = {{"enable_thinking", false}};
    row.where = "rows:1";
    Prompt& made = prompts_.emplace_back();
    made.row = &row;
    made.messages = row.messages;
    made.encoded =
        chat_.encode_prompt({.messages = &row.messages, .variables = &row.chat_template_kwargs});
    return &made;
  }
  std::vector<GrowingTrajectory> sample(const std::vector<const Prompt*>& prompts,
                                        int64_t group_size = 1) {
    const RolloutClient::Progress progress = [](int64_t, int64_t) {};
    const TrajectorySampler sampler({options_, scheduler_, chat_, rollout_, settings_});
    return sampler.sample(prompts, {.group_size = group_size, .number = 5, .progress = progress},
                          [&](size_t place, const GrowingTrajectory&) { done_.push_back(place); });
  }
  std::string decode(std::span<const int64_t> ids) const { return chat_.tokenizer().decode(ids); }
  /// The runs of sampled and of other tokens behind the prompt: "+" before sampled ones.
  std::vector<std::string> runs(const train::Sample& sample) const {
    std::vector<std::string> texts;
    for (size_t t = static_cast<size_t>(sample.prompt_tokens()); t < sample.ids.size();) {
      size_t end = t;
      while (end < sample.ids.size() && sample.mask[end] == sample.mask[t]) ++end;
      texts.push_back((sample.mask[t] ? "+" : "-") +
                      decode(std::span(sample.ids).subspan(t, end - t)));
      t = end;
    }
    return texts;
  }

  text::ChatEncoder chat_;
  ScriptedRollout rollout_;
  ScriptedScheduler scheduler_;
  agent::AgentOptions options_;
  rollout::RequestSettings settings_;
  std::deque<text::Row> rows_;
  std::deque<Prompt> prompts_;
  std::vector<size_t> done_;
};

constexpr const char* kBetween =
    "\n<|im_start|>user\nAnd then?<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n";

TEST_F(Trajectories, TheirIdsAreThoseThatTheSamplerSawAndOnlySampledOnesAreScored) {
  scheduler_.answer = [](agent::Trajectory& one) {
    return one.num_turns < 3 ? user("And then?") : agent::FollowUp{};
  };
  auto made = sample({prompt("One?"), prompt("Two?")}, 2);
  ASSERT_EQ(made.size(), 4u);
  ASSERT_EQ(rollout_.rounds.size(), 3u);
  // A group is one request, its later turns are one each.
  ASSERT_EQ(rollout_.rounds[0].size(), 2u);
  EXPECT_EQ(rollout_.rounds[0][1].num_samples, 2);
  EXPECT_EQ(rollout_.rounds[0][1].draw, 5u);
  ASSERT_EQ(rollout_.rounds[2].size(), 4u);
  for (size_t i = 0; i < 4; ++i) {
    const TurnRecord record = made[i].record();
    EXPECT_EQ(record.num_turns, 3);
    EXPECT_EQ(record.turn_ids.size(), 3u);
    EXPECT_EQ(record.messages.size(), 5u);
    EXPECT_EQ(record.last_text, fmt::format("<think>\n\n</think>\n\nturn 3 of {}", 8 + i));
    const Experience experience = made[i].take_experience(7);
    EXPECT_THAT(
        runs(experience.sample),
        ElementsAre(fmt::format("+turn 1 of {}<|im_end|>", i), std::string("-") + kBetween,
                    fmt::format("+turn 2 of {}<|im_end|>", 4 + i), std::string("-") + kBetween,
                    fmt::format("+turn 3 of {}<|im_end|>", 8 + i)));
    // What the sampler was asked to go on from is the beginning of it, each time.
    for (size_t round = 0; round < 3; ++round) {
      const auto& seen = rollout_.rounds[round][round ? i : i / 2].prompt;
      ASSERT_LT(seen.size(), experience.sample.ids.size());
      EXPECT_TRUE(std::equal(seen.begin(), seen.end(), experience.sample.ids.begin()));
      EXPECT_EQ(experience.sample.mask[seen.size()], 1);
    }
    // Each log-probability belongs to its token.
    std::vector<float> expected;
    for (size_t turn = 0; turn < 3; ++turn)
      for (size_t t = 0; t < record.turn_ids[turn].size(); ++t)
        expected.push_back(-static_cast<float>(4 * turn + i) - static_cast<float>(t) / 64);
    EXPECT_EQ(experience.sampler_logprobs, expected);
    EXPECT_EQ(experience.sample.num_scored(), std::ssize(expected));
    EXPECT_FALSE(experience.is_truncated);
    EXPECT_EQ(experience.weight_version, 7);
  }
  EXPECT_THAT(done_, ElementsAre(0, 1, 2, 3));
  EXPECT_EQ(scheduler_.ended, scheduler_.begun);
  EXPECT_FALSE(rollout_.is_in_turns);
}

TEST_F(Trajectories, EqualOnesAreSamplesOfOneRequestAndNoDrawComesTwice) {
  rollout_.says = [](size_t, size_t) { return "same"; };
  scheduler_.answer = [](agent::Trajectory& one) {
    return one.num_turns < 2 ? user("And then?") : agent::FollowUp{};
  };
  sample({prompt("One?"), prompt("One?")}, 2);
  ASSERT_EQ(rollout_.rounds[1].size(), 2u);
  for (const auto& round : rollout_.rounds) {
    EXPECT_EQ(round[0].num_samples, 2);
    EXPECT_EQ(round[0].prompt, round[1].prompt);
    EXPECT_EQ(round[0].occurrence, 0u);
    EXPECT_EQ(round[1].occurrence, 1u);
  }
}

/// What a rank asks for is what one rank alone would have asked for these groups: with equal
/// prompts on several ranks, one that an environment writes for two groups, and draws that come
/// twice.
TEST_F(Trajectories, AGroupsDrawsDoNotDependOnWhoSamplesTheOthers) {
  using Key = std::tuple<std::vector<int64_t>, uint64_t, int64_t>;
  const std::vector<const Prompt*> round{prompt("One?"), prompt("Two?"), prompt("One?"),
                                         prompt("Three?"), prompt("One?")};
  rollout_.says = [](size_t, size_t) { return "same"; };
  scheduler_.on_begin = [](agent::Trajectory& one) {
    if (one.group == 1 || one.group == 3)
      one.messages = Json::array({{{"role", "user"}, {"content", "Written?"}}});
  };
  scheduler_.answer = [](agent::Trajectory& one) {
    // Two of three are of equal ids again, but do not stand beside one another.
    return one.num_turns < 2 ? user(one.id.ends_with("-1") ? "Why?" : "And then?")
                             : agent::FollowUp{};
  };
  const auto asked_by = [&](const RoundPart& part) {
    rollout_.rounds.clear();
    const RolloutClient::Progress progress = [](int64_t, int64_t) {};
    TrajectorySampler({options_, scheduler_, chat_, rollout_, settings_})
        .sample(round, {.group_size = 3, .number = 5, .part = part, .progress = progress},
                [](size_t, const GrowingTrajectory&) {});
    std::vector<Key> asked;
    for (const auto& requests : rollout_.rounds)
      for (const rollout::Request& request : requests)
        asked.emplace_back(request.prompt, request.occurrence, request.num_samples);
    return asked;
  };
  std::vector<Key> alone = asked_by({});
  std::sort(alone.begin(), alone.end());
  for (size_t i = 1; i < alone.size(); ++i)
    EXPECT_FALSE(std::get<0>(alone[i]) == std::get<0>(alone[i - 1]) &&
                 std::get<1>(alone[i]) == std::get<1>(alone[i - 1]));
  for (const size_t size : {2, 3, 7}) {
    scheduler_.begun.clear();
    std::vector<Key> together;
    for (size_t rank = 0; rank < size; ++rank) {
      const auto asked = asked_by({rank, size});
      together.insert(together.end(), asked.begin(), asked.end());
    }
    std::sort(together.begin(), together.end());
    EXPECT_EQ(together, alone) << size;
    std::sort(scheduler_.begun.begin(), scheduler_.begun.end());
    EXPECT_EQ(scheduler_.begun.front(), "5-0-0");
    EXPECT_EQ(scheduler_.begun.back(), "5-4-2");
  }
}

TEST_F(Trajectories, SomeEndBeforeOthersAndTurnsAreLimited) {
  options_.max_turns = 3;
  scheduler_.answer = [](agent::Trajectory& one) {
    return one.id == "5-0-0" ? agent::FollowUp{} : user("And then?");
  };
  auto made = sample({prompt("One?"), prompt("Two?")});
  EXPECT_THAT(done_, ElementsAre(0, 1));
  EXPECT_EQ(made[0].record().num_turns, 1);
  EXPECT_EQ(made[1].record().num_turns, 3);
  EXPECT_FALSE(scheduler_.last_seen["5-0-0"]);
  EXPECT_TRUE(scheduler_.last_seen["5-1-0"]);
  // The answer to the last turn is none of the conversation.
  EXPECT_EQ(made[1].record().messages.back()["role"], "assistant");
}

TEST_F(Trajectories, TheLengthOfATurnOrOfAllOfThemIsLimited) {
  scheduler_.answer = [](agent::Trajectory&) { return user("And then?"); };
  const Prompt* const question = prompt("One?");
  const int64_t prompt_tokens = std::ssize(question->encoded.ids);
  // Until the context is full: what finds no room is left out, and the completion counts as cut.
  Experience whole = sample({question})[0].take_experience(0);
  EXPECT_TRUE(whole.is_truncated);
  EXPECT_LE(std::ssize(whole.sample.ids), kContext);
  EXPECT_GT(std::ssize(whole.sample.ids), kContext - 60);
  EXPECT_EQ(whole.sample.mask.back(), 1);
  for (const auto& round : rollout_.rounds)
    EXPECT_EQ(round[0].settings.max_new_tokens,
              std::min<int64_t>(40, kContext - std::ssize(round[0].prompt)));

  options_.completion_length_limit_scope = agent::LengthScope::kTotal;
  settings_.max_new_tokens = 60;
  rollout_.rounds.clear();
  Experience total = sample({question})[0].take_experience(0);
  EXPECT_TRUE(total.is_truncated);
  EXPECT_LE(std::ssize(total.sample.ids) - prompt_tokens, 60);
  ASSERT_GE(rollout_.rounds.size(), 2u);
  for (const auto& round : rollout_.rounds)
    EXPECT_EQ(round[0].settings.max_new_tokens, 60 - (std::ssize(round[0].prompt) - prompt_tokens));
  EXPECT_EQ(rollout_.longest[0].max_new_tokens, 60);
}

TEST_F(Trajectories, ATurnThatIsCutIsAnsweredBehindItsEnd) {
  settings_.max_new_tokens = 3;
  scheduler_.answer = [](agent::Trajectory& one) {
    EXPECT_EQ(one.finish_reason, "length");
    return one.num_turns < 2 ? user("And then?") : agent::FollowUp{};
  };
  const Experience made = sample({prompt("One?")})[0].take_experience(0);
  EXPECT_TRUE(made.is_truncated);
  // The end of the turn, which was not sampled, stands before the answer.
  EXPECT_EQ(runs(made.sample)[1], "-<|im_end|>" + std::string(kBetween));
}

TEST_F(Trajectories, ATurnGoesOnBehindTheTokensThatAreKept) {
  rollout_.says = [](size_t round, size_t) {
    return round == 1 ? "I think it is 4. </done>" : "so it is 5.";
  };
  const std::string wait = "I think it is 4. But wait,";
  scheduler_.answer = [&](agent::Trajectory& one) {
    agent::FollowUp next;
    if (one.num_turns < 2)
      next.continuation = agent::Continuation{.text = "<think>\n\n</think>\n\n" + wait};
    return next;
  };
  auto made = sample({prompt("One?")});
  const TurnRecord record = made[0].record();
  EXPECT_EQ(record.last_text, "<think>\n\n</think>\n\n" + wait + "so it is 5.");
  ASSERT_EQ(record.messages.size(), 1u);
  EXPECT_EQ(record.messages[0]["content"], record.last_text);
  const Experience by_text = made[0].take_experience(0);
  const auto pieces = runs(by_text.sample);
  ASSERT_EQ(pieces.size(), 3u);
  EXPECT_TRUE(pieces[0].starts_with("+I think it is 4."));
  EXPECT_EQ(pieces[0].substr(1) + pieces[1].substr(1), wait);
  EXPECT_EQ(pieces[2], "+so it is 5.<|im_end|>");
  EXPECT_EQ(by_text.sample.num_scored(), std::ssize(by_text.sampler_logprobs));

  // The same by ids.
  scheduler_.answer = [&](agent::Trajectory& one) {
    agent::FollowUp next;
    if (one.num_turns < 2)
      next.continuation =
          agent::Continuation{.text = {}, .kept = 2, .ids = chat_.tokenizer().encode(" But wait,")};
    return next;
  };
  rollout_.rounds.clear();
  const Experience by_ids = sample({prompt("One?")})[0].take_experience(0);
  EXPECT_EQ(runs(by_ids.sample)[1], "- But wait,");
  EXPECT_EQ(by_ids.sampler_logprobs.size(), 2 + chat_.tokenizer().encode("so it is 5.").size() + 1);

  scheduler_.answer = [](agent::Trajectory&) {
    agent::FollowUp next;
    next.continuation = agent::Continuation{.text = "something else"};
    return next;
  };
  EXPECT_ERROR(sample({prompt("One?")}), PeerError, "bad-turn", "to begin as it began");
}

TEST_F(Trajectories, AnEnvironmentWritesThePromptAnew) {
  const Prompt* const question = prompt("One?");
  scheduler_.on_begin = [](agent::Trajectory& one) {
    if (one.id != "5-0-1") return;
    one.messages =
        json(R"([{"role": "system", "content": "s"}, {"role": "user", "content": "o"}])");
  };
  auto made = sample({question}, 3);
  ASSERT_EQ(rollout_.rounds[0].size(), 3u);
  EXPECT_EQ(rollout_.rounds[0][0].prompt, question->encoded.ids);
  EXPECT_EQ(decode(rollout_.rounds[0][1].prompt),
            "<|im_start|>system\ns<|im_end|>\n<|im_start|>user\no<|im_end|>\n"
            "<|im_start|>assistant\n<think>\n\n</think>\n\n");
  EXPECT_EQ(made[1].record().prompt_messages.size(), 2u);
  EXPECT_EQ(made[1].record().prompt, decode(rollout_.rounds[0][1].prompt));
  EXPECT_EQ(made[0].record().prompt, question->encoded.text);

  scheduler_.on_begin = [](agent::Trajectory& one) {
    one.messages[0]["content"] = std::string(4 * kContext, 'x');
  };
  EXPECT_ERROR(sample({question}), ConfigError, "prompt-too-long", "");
}

TEST_F(Trajectories, AllAreEndedWhereSomethingFails) {
  scheduler_.answer = [](agent::Trajectory&) -> agent::FollowUp {
    fail<PeerError>("tool-failed", "tool", "expected an answer, got none");
  };
  EXPECT_ERROR(sample({prompt("One?"), prompt("Two?")}), PeerError, "tool-failed", "");
  EXPECT_THAT(scheduler_.ended, ElementsAre("5-0-0", "5-1-0"));
  EXPECT_FALSE(rollout_.is_in_turns);
}

TEST_F(Trajectories, RecordsComeBackFromACheckpoint) {
  scheduler_.answer = [](agent::Trajectory& one) {
    one.reward = 0.5;
    one.num_tool_calls = 3;
    one.num_tool_failures = 1;
    one.infos["why"] = "because";
    return one.num_turns < 2 ? user("And then?") : agent::FollowUp{};
  };
  auto made = sample({prompt("One?")}, 2);
  const std::vector<TurnRecord> records{made[0].record(), made[1].record()};
  const Json saved = json_of(records);
  EXPECT_EQ(json_of(read_turn_records(parse_json(dump_json(saved), "state"))), saved);
  Metrics metrics;
  add_turn_metrics(records, "eval_", metrics);
  const Json values = metrics.values();
  EXPECT_EQ(values["eval_num_turns"], 2);
  EXPECT_EQ(values["eval_tools/call_frequency"], 3);
  EXPECT_NEAR(values["eval_tools/failure_frequency"].get<double>(), 1.0 / 3, 1e-8);
}

}  // namespace
}  // namespace lockstep::grpo
