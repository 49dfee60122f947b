// Rewards that are programs or stand behind a URL, and all the ways in which they fail.
// SPDX-License-Identifier: Apache-2.0
#include "reward/external_reward.h"

#include <atomic>
#include <mutex>
#include <thread>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "base/file.h"
#include "base/json.h"
#include "reward/rewarder.h"
#include "reward/share_out.h"
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

std::vector<Value> scores_of(const RewardFunction& reward,
                             const std::vector<std::string>& completions,
                             const RunState& run = {}) {
  static const Json columns = {{"solution", "42"}, {"level", 3}};
  static const Json messages = Json::array({{{"role", "user"}, {"content", "q"}}});
  static const std::vector<int64_t> ids{5, 6, 7};
  std::vector<RewardInput> inputs;
  for (const std::string& completion : completions)
    inputs.push_back({.completion = completion,
                      .token_ids = ids,
                      .finish_reason = "stop",
                      .columns = &columns,
                      .messages = &messages,
                      .prompt = "rendered q",
                      .where = "rows.jsonl:7"});
  return reward.score(inputs, run);
}

std::unique_ptr<RewardFunction> reward_of(const std::string& text, ExternalOptions options = {}) {
  RewardOptions all;
  all.external = std::move(options);
  return make_reward(text, all, {});
}
std::unique_ptr<RewardFunction> program(const std::string& script, ExternalOptions options = {}) {
  return reward_of("test=program:" + script, std::move(options));
}

/// Answers each line by what its completion holds.
const char* const kJudge =
    "while read -r line; do case \"$line\" in *good*) echo 1;; *fair*) echo '{\"reward\": 0.5}';; "
    "*none*) echo null;; *crash*) echo oops >&2; exit 3;; *hang*) sleep 100;; *text*) echo "
    "'\"1\"';; "
    "*error*) echo '{\"error\": \"no such task\"}';; *junk*) echo '{';; *) echo -2e-1;; esac; done";

TEST(ExternalSpec, IsReadFromAnEntryOfRewardFuncs) {
  const auto name_and_target = [](std::string_view text) {
    const auto spec = external_spec(text);
    return spec ? spec->name + " " + spec->target : "none";
  };
  EXPECT_EQ(name_and_target("program:./brevity --limit 3"), "brevity ./brevity --limit 3");
  EXPECT_EQ(name_and_target("program:python3 rewards/brevity.py"),
            "brevity python3 rewards/brevity.py");
  EXPECT_EQ(name_and_target("program:python3"), "python3 python3");
  EXPECT_EQ(name_and_target("short=program:a=b ./x"), "short a=b ./x");
  EXPECT_EQ(name_and_target("http://host:1/rewards/judge"), "judge http://host:1/rewards/judge");
  EXPECT_EQ(name_and_target("https://host:1/"), "host_1 https://host:1/");
  EXPECT_EQ(name_and_target("j=http://host?a=b"), "j http://host?a=b");
  EXPECT_EQ(name_and_target("accuracy"), "none");
  EXPECT_EQ(name_and_target("a=accuracy"), "none");
  EXPECT_ERROR(external_spec("x=program: "), ConfigError, "bad-flag", "expected a command");
}

TEST(ExternalSpec, NamesAreThereOnce) {
  EXPECT_ERROR(Rewarder({.reward_funcs = {"program:./a", "program:./a --more"}}, {}), ConfigError,
               "bad-flag", "got a twice");
  EXPECT_ERROR(Rewarder({.reward_funcs = {"format", "format=program:./a"}}, {}), ConfigError,
               "bad-flag", "got format twice");
}

TEST(ProgramReward, GivesEachCompletionTheValueOfItsLine) {
  const auto reward = program(kJudge);
  EXPECT_EQ(reward->name(), "test");
  EXPECT_EQ(reward->class_name(), "test");
  EXPECT_THAT(scores_of(*reward, {"good", "fair", "none", "other"}),
              ElementsAre(1.0, 0.5, std::nullopt, -0.2));
  EXPECT_TRUE(scores_of(*reward, {}).empty());
  EXPECT_EQ(reward->num_failures(), 0);
}

TEST(ProgramReward, SeesAllThatIsKnown) {
  const testing::TempDir folder;
  const auto file = folder / "line";
  const auto reward =
      program("read -r line; printf '%s' \"$line\" > " + file.string() + "; echo 1");
  scores_of(*reward, {"a\nb"}, {.global_step = 4, .max_steps = 9});
  EXPECT_EQ(parse_json_file(file), parse_json(R"({"completion": "a\nb",
                "completion_messages": [{"role": "assistant", "content": "a\nb"}],
                "prompt": "rendered q", "prompt_messages": [{"role": "user", "content": "q"}],
                "tools": null, "token_ids": [5, 6, 7], "turn_token_ids": null,
                "rollout_infos": {}, "finish_reason": "stop",
                "columns": {"solution": "42", "level": 3}, "step": 4, "max_steps": 9,
                "where": "rows.jsonl:7"})",
                                              "test"));
}

TEST(ProgramReward, AFailureLeavesOneCompletionWithoutAValue) {
  const auto reward = program(kJudge, {.reward_timeout = 0.5});
  ::testing::internal::CaptureStderr();
  EXPECT_THAT(
      scores_of(*reward, {"good", "crash", "good", "hang", "text", "error", "junk", "fair"}),
      ElementsAre(1.0, std::nullopt, 1.0, std::nullopt, std::nullopt, std::nullopt, std::nullopt,
                  0.5));
  EXPECT_EQ(reward->num_failures(), 5);
  const std::string log = ::testing::internal::GetCapturedStderr();
  // The first one is told, with its row, and no other.
  EXPECT_THAT(log, HasSubstr("the reward test has failed"));
  EXPECT_THAT(log, HasSubstr("rows.jsonl:7: reward test: expected an answer, got exit code 3 (the "
                             "end of its stderr: oops)"));
  EXPECT_EQ(log.find("has failed"), log.rfind("has failed"));
  EXPECT_THAT(log, HasSubstr("reward test: oops"));
}

TEST(ProgramReward, TellsWhatIsWrongWithAnAnswer) {
  const auto error_of = [](const std::string& completion) {
    const auto reward = program(kJudge, {.reward_timeout = 0.5, .reward_max_failures = 0});
    try {
      scores_of(*reward, {completion});
    } catch (const PeerError& error) {
      EXPECT_EQ(error.code(), "reward-failed");
      return std::string(error.what());
    }
    return std::string("nothing");
  };
  EXPECT_THAT(error_of("text"), HasSubstr("expected a number or null, alone or as \"reward\" of an "
                                          "object, got \"1\""));
  EXPECT_THAT(error_of("error"), HasSubstr("expected a value, got the error: no such task"));
  EXPECT_THAT(error_of("junk"), HasSubstr("expected a line of JSON, got {"));
  EXPECT_THAT(error_of("hang"), HasSubstr("expected an answer within 0.5 s, got none"));
}

TEST(ProgramReward, TooManyFailuresEndTheRun) {
  const auto reward = program("exit 1", {.reward_max_failures = 3});
  EXPECT_ERROR(scores_of(*reward, {"a", "b", "c", "d", "e", "f", "g"}), PeerError, "reward-failed",
               "reward test: expected at most 3 completions that it fails at "
               "(--reward_max_failures), got 4; the last one: rows.jsonl:7: ");
}

TEST(ProgramReward, SeveralWorkersPlaceTheirValuesByCompletion) {
  // Each process waits until four of them run.
  const testing::TempDir folder;
  const std::string script = "touch " + folder.path().string() + "/$$; while [ $(ls " +
                             folder.path().string() + " | wc -l) -lt 4 ]; do sleep 0.01; done; " +
                             kJudge;
  const auto reward = program(script, {.reward_timeout = 20, .reward_workers = 4});
  std::vector<std::string> completions;
  std::vector<Value> expected;
  for (int i = 0; i < 40; ++i) {
    completions.push_back(i % 3 ? "good" : "fair");
    expected.push_back(i % 3 ? 1.0 : 0.5);
  }
  EXPECT_EQ(scores_of(*reward, completions), expected);
  EXPECT_EQ(reward->num_failures(), 0);
}

TEST(ShareOut, DoesEachPieceOnceAndStopsAtAnError) {
  std::vector<std::atomic<int>> done(100);
  share_out(done.size(), 7, [&](size_t worker, size_t index) {
    EXPECT_LT(worker, 7u);
    ++done[index];
  });
  for (const auto& count : done) EXPECT_EQ(count, 1);
  std::atomic<int> begun{0};
  EXPECT_ERROR(share_out(1000, 3,
                         [&](size_t, size_t) {
                           ++begun;
                           fail<PeerError>("some-code", "here", "expected one, got another");
                         }),
               PeerError, "some-code", "expected one");
  EXPECT_LE(begun, 3);
}

/// A server whose answers a test chooses.
class UrlRewards : public ::testing::Test {
 protected:
  std::unique_ptr<RewardFunction> reward(ExternalOptions options = {}) {
    return reward_of(server_.url() + "/v1/judge", std::move(options));
  }
  /// What is answered to a request; unset: a value a completion, its length.
  std::function<void(SocketConnection&, const SocketRequest&)> answer_;
  std::mutex mutex_;
  std::vector<SocketRequest> requests_;
  SocketServer server_{[this](SocketConnection& connection, const SocketRequest& request) {
    {
      const std::lock_guard lock(mutex_);
      requests_.push_back(request);
    }
    if (answer_) return answer_(connection, request);
    Json rewards = Json::array();
    const Json body = parse_json(request.body, "test");
    for (const Json& completion : body["completions"]) {
      const auto text = completion["completion"].get<std::string>();
      rewards.push_back(text == "none" ? Json() : Json(static_cast<double>(text.size())));
    }
    connection.answer(200, dump_json({{"rewards", rewards}}));
  }};
};

TEST_F(UrlRewards, ArePostedInBatches) {
  const auto judge = reward({.reward_batch_size = 2, .reward_api_key = "secret"});
  EXPECT_EQ(judge->name(), "judge");
  EXPECT_THAT(scores_of(*judge, {"a", "none", "abc", "ab", "abcd"}, {.global_step = 3}),
              ElementsAre(1.0, std::nullopt, 3.0, 2.0, 4.0));
  ASSERT_EQ(requests_.size(), 3u);
  EXPECT_EQ(requests_[0].method, "POST");
  EXPECT_EQ(requests_[0].target, "/v1/judge");
  EXPECT_EQ(requests_[0].headers["authorization"], "Bearer secret");
  const Json body = parse_json(requests_[0].body, "test");
  EXPECT_EQ(body["reward"], "judge");
  EXPECT_EQ(body["step"], 3);
  EXPECT_EQ(body["completions"].size(), 2u);
  EXPECT_EQ(body["completions"][0]["columns"]["solution"], "42");
}

TEST_F(UrlRewards, AreAskedAtOnceByWorkers) {
  std::atomic<int> waiting{0};
  answer_ = [&](SocketConnection& connection, const SocketRequest&) {
    // Nobody is answered before three have asked.
    for (++waiting; waiting < 3;) std::this_thread::sleep_for(std::chrono::milliseconds(5));
    connection.answer(200, R"({"rewards": [1]})");
  };
  const auto judge = reward({.reward_timeout = 20, .reward_workers = 3, .reward_batch_size = 1});
  EXPECT_THAT(scores_of(*judge, {"a", "b", "c"}), ElementsAre(1.0, 1.0, 1.0));
}

TEST_F(UrlRewards, AreAskedAgainWhileTheyAreTooBusy) {
  answer_ = [&](SocketConnection& connection, const SocketRequest&) {
    if (requests_.size() < 3)
      connection.answer(503, "busy");
    else
      connection.answer(200, R"({"rewards": [2]})");
  };
  EXPECT_THAT(scores_of(*reward({.reward_retries = 2}), {"a"}), ElementsAre(2.0));
  requests_.clear();
  const auto judge = reward({.reward_retries = 1});
  EXPECT_THAT(scores_of(*judge, {"a"}), ElementsAre(std::nullopt));
  EXPECT_EQ(judge->num_failures(), 1);
}

TEST_F(UrlRewards, WhatIsWrongWithTheRequestIsNotAskedAgain) {
  answer_ = [&](SocketConnection& connection, const SocketRequest&) {
    connection.answer(400, R"({"error": {"message": "no such judge"}})");
  };
  EXPECT_ERROR(scores_of(*reward({.reward_max_failures = 1}), {"a", "b"}), PeerError,
               "reward-failed", "expected 200, got 400: no such judge");
  EXPECT_EQ(requests_.size(), 1u);
}

TEST_F(UrlRewards, AnswerWithAValueACompletion) {
  for (const char* body : {R"({"rewards": [1, 2]})", R"({"rewards": 1})", "[1]", "7", "not JSON",
                           R"({"rewards": ["1"]})", R"({"reward": [1]})"}) {
    answer_ = [&](SocketConnection& connection, const SocketRequest&) {
      connection.answer(200, body);
    };
    EXPECT_ERROR(scores_of(*reward({.reward_max_failures = 0}), {"a"}), PeerError, "reward-failed",
                 "expected");
  }
}

TEST_F(UrlRewards, HaveADeadline) {
  answer_ = [](SocketConnection& connection, const SocketRequest&) {
    connection.wait(std::chrono::seconds(30));
    connection.close();
  };
  const auto judge = reward({.reward_timeout = 0.3, .reward_retries = 1});
  const auto start = std::chrono::steady_clock::now();
  EXPECT_THAT(scores_of(*judge, {"a", "b"}), ElementsAre(std::nullopt, std::nullopt));
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(10));
  EXPECT_EQ(judge->num_failures(), 2);
}

TEST(UrlReward, RefusesAUrlThatIsNone) {
  EXPECT_ERROR(reward_of("http://"), ConfigError, "bad-url", "expected http://HOST:PORT");
}

}  // namespace
}  // namespace lockstep::reward
