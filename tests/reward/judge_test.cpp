// A model behind an OpenAI URL as a reward.
// SPDX-License-Identifier: Apache-2.0
#include "reward/judge.h"

#include <atomic>
#include <mutex>
#include <thread>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "base/json.h"
#include "reward/rewarder.h"
#include "tests/support/expect_error.h"
#include "tests/support/socket_server.h"
#include "tests/support/temp_dir.h"

namespace lockstep::reward {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::SocketConnection;
using testing::SocketRequest;
using testing::SocketServer;
using Value = std::optional<double>;

// Expected values: GenRMPlugin.extract_reward of ms-swift 4.6.
TEST(RewardIn, IsTheNumberBehindTheFirstReward) {
  EXPECT_EQ(reward_in("It is good.\nReward: 0.85"), 0.85);
  EXPECT_EQ(reward_in("Reward:1"), 1.0);
  EXPECT_EQ(reward_in("Reward: \n 1.5 or Reward: 2"), 1.5);
  EXPECT_EQ(reward_in("Reward: -3"), -3.0);
  EXPECT_EQ(reward_in("Reward: +.5."), 0.5);
  EXPECT_EQ(reward_in("Reward: 2e-1"), 0.2);
  EXPECT_EQ(reward_in("Reward: 10"), 10.0);
  EXPECT_EQ(reward_in("Reward: 10/10"), 10.0);
  EXPECT_EQ(reward_in("**Reward: 0.5**"), 0.5);
  EXPECT_EQ(reward_in("Reward: 1.2.3"), Value());
  EXPECT_EQ(reward_in("Reward: 1x"), Value());
  EXPECT_EQ(reward_in("Reward: 0.5e"), Value());
  EXPECT_EQ(reward_in("Reward: high, Reward: 0.25"), 0.25);
  EXPECT_EQ(reward_in("Reward: 1e999"), Value());
  EXPECT_EQ(reward_in("reward: 1"), Value());
  EXPECT_EQ(reward_in("Reward: {reward}"), Value());
  EXPECT_EQ(reward_in(""), Value());
}

TEST(QueryOf, IsTheConversationAsOneText) {
  EXPECT_EQ(query_of(Json::array({{{"role", "system"}, {"content", "Be brief."}},
                                  {{"role", "user"}, {"content", "1 + 2?"}},
                                  {{"role", "assistant"}, {"content", ""}},
                                  {{"role", "TOOL"}, {"content", "3"}},
                                  {{"role", "assistant"}, {"content", "It is\n3"}}})),
            "System: Be brief.\nUser: 1 + 2?\nTool: 3\nAssistant: It is\n3");
  EXPECT_EQ(query_of(Json::array()), "");
}

TEST(JudgeOptions, RefuseWhatIsNotThere) {
  const auto refused = [](const JudgeOptions& options, const char* words) {
    EXPECT_ERROR(options.validate(), ConfigError, "bad-flag", words);
  };
  refused({.reward_model = {"program:x"}}, "got program:x");
  refused({.reward_model = {"http://h"}, .reward_model_plugin = {"default"}},
          "expected genrm for http://h, got default");
  refused({.reward_model = {"folder"}, .reward_model_plugin = {"genrm"}},
          "expected default for folder, got genrm");
  EXPECT_ERROR(Rewarder({.judges = {.reward_model = {"folder"}}}, {}), ConfigError, "bad-flag",
               "expected http://HOST:PORT/v1 in a command that runs no model, got folder");
  refused({.reward_model = {"http://h"}, .reward_model_plugin = {"genrm", "genrm"}}, "expected 1");
  JudgeOptions{.reward_model = {"http://h", "b=http://h"}, .reward_model_plugin = {}}.validate();
  RewardOptions weights{.reward_funcs = {"format"}, .reward_weights = {1, 2}};
  weights.judges.reward_model = {"http://h"};
  weights.validate();
  weights.reward_weights = {1};
  EXPECT_ERROR(weights.validate(), ConfigError, "bad-flag", "expected 2 weights");
}

/// A model whose answers a test chooses.
class JudgeTest : public ::testing::Test {
 protected:
  std::unique_ptr<RewardFunction> judge(JudgeOptions options = {},
                                        const ExternalOptions& external = {},
                                        const std::string& path = "/v1") {
    return make_judge(server_.url() + path, options, external);
  }
  std::vector<Value> scores_of(const RewardFunction& reward,
                               const std::vector<std::string>& completions) {
    static const Json messages = Json::array({{{"role", "user"}, {"content", "1 + 2?"}}});
    std::vector<RewardInput> inputs;
    for (const std::string& completion : completions)
      inputs.push_back({.completion = completion, .messages = &messages, .where = "rows.jsonl:7"});
    return reward.score(inputs, {});
  }
  static Json answer_with(const std::vector<std::string>& texts) {
    Json choices = Json::array();
    for (const std::string& text : texts)
      choices.push_back({{"message", {{"role", "assistant"}, {"content", text}}}});
    return {{"choices", choices}};
  }

  /// What is said of a request.
  std::function<Json(const Json& request)> say_ = [](const Json&) {
    return answer_with({"Reward: 0.5"});
  };
  int status_ = 200;
  std::mutex mutex_;
  std::vector<SocketRequest> requests_;
  SocketServer server_{[this](SocketConnection& connection, const SocketRequest& request) {
    {
      const std::lock_guard lock(mutex_);
      requests_.push_back(request);
    }
    if (request.method == "GET")
      return connection.answer(200, R"({"data": [{"id": "org/judge-7b"}, {"id": "other"}]})");
    connection.answer(status_, dump_json(say_(parse_json(request.body, "test"))));
  }};
};

TEST_F(JudgeTest, IsAskedAsMsSwiftAsksIt) {
  const auto reward = judge({.judge_temperature = 0.25, .judge_max_tokens = 99, .judge_choices = 2},
                            {.reward_api_key = "secret"});
  EXPECT_EQ(reward->name(), "judge-7b");
  EXPECT_EQ(reward->class_name(), "judge-7b");
  say_ = [](const Json&) { return answer_with({"Reward: 0.5", "no number", "Reward: 1"}); };
  EXPECT_THAT(scores_of(*reward, {"It is 3."}), ElementsAre(0.75));
  ASSERT_EQ(requests_.size(), 2u);
  EXPECT_EQ(requests_[0].target, "/v1/models");
  EXPECT_EQ(requests_[1].target, "/v1/chat/completions");
  EXPECT_EQ(requests_[1].headers["authorization"], "Bearer secret");
  const Json body = parse_json(requests_[1].body, "test");
  EXPECT_EQ(body["model"], "org/judge-7b");
  EXPECT_EQ(body["n"], 2);
  EXPECT_EQ(body["temperature"], 0.25);
  EXPECT_EQ(body["max_tokens"], 99);
  EXPECT_THAT(body["messages"][0]["content"].get<std::string>(),
              HasSubstr("Reward: {reward}\n\nFor example:\nReward: 0.85\n"));
  EXPECT_EQ(body["messages"][1],
            Json({{"role", "user"}, {"content", "User: 1 + 2?\nAssistant: It is 3."}}));
}

TEST_F(JudgeTest, TakesItsWordsFromAFileAndItsNameFromTheFlags) {
  const testing::TempDir folder;
  const std::string file = folder.write("system.txt", "Be strict.").string();
  const auto reward =
      make_judge("strict=" + server_.url(), {.judge_model = "m", .judge_system = file}, {});
  EXPECT_EQ(reward->name(), "strict");
  scores_of(*reward, {"a"});
  ASSERT_EQ(requests_.size(), 1u);  // it need not ask for the model
  const Json body = parse_json(requests_[0].body, "test");
  EXPECT_EQ(requests_[0].target, "/v1/chat/completions");
  EXPECT_EQ(body["messages"][0]["content"], "Be strict.");
  EXPECT_EQ(body["model"], "m");
  EXPECT_FALSE(body.contains("temperature"));
}

TEST_F(JudgeTest, PlacesItsValuesByCompletion) {
  say_ = [](const Json& request) {
    const std::string query = request["messages"][1]["content"];
    const int number = std::stoi(query.substr(query.rfind(' ') + 1));
    std::this_thread::sleep_for(std::chrono::milliseconds(number % 5));
    return answer_with({fmt::format("Reward: {}", number)});
  };
  std::vector<std::string> completions;
  std::vector<Value> expected;
  for (int i = 0; i < 60; ++i) {
    completions.push_back(fmt::format("It is {}", i));
    expected.emplace_back(i);
  }
  EXPECT_EQ(scores_of(*judge({.judge_workers = 8}), completions), expected);
}

// As for ms-swift, which says so in its log.
TEST_F(JudgeTest, AnAnswerWithoutANumberIsWorthNothing) {
  say_ = [](const Json&) { return answer_with({"I cannot say."}); };
  const auto reward = judge();
  EXPECT_THAT(scores_of(*reward, {"a"}), ElementsAre(0.0));
  EXPECT_EQ(reward->num_failures(), 0);
}

TEST_F(JudgeTest, OneThatDoesNotAnswerLeavesTheCompletionWithoutAValue) {
  const auto reward = judge({}, {.reward_retries = 1});
  status_ = 500;
  say_ = [](const Json&) { return Json{{"error", {{"message", "out of memory"}}}}; };
  EXPECT_THAT(scores_of(*reward, {"a"}), ElementsAre(Value()));
  EXPECT_EQ(requests_.size(), 3u);
  status_ = 200;
  say_ = [](const Json&) { return Json{{"choices", 1}}; };
  EXPECT_THAT(scores_of(*reward, {"a"}), ElementsAre(Value()));
  EXPECT_EQ(reward->num_failures(), 2);
}

TEST_F(JudgeTest, WithoutAServerTheRunDoesNotBegin) {
  EXPECT_ERROR(make_judge(fmt::format("http://127.0.0.1:{}", testing::dead_port()), {},
                          {.reward_retries = 0}),
               PeerError, "connection-failed", "GET /v1/models");
}

}  // namespace
}  // namespace lockstep::reward
