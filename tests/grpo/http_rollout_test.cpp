// HttpRollout against servers that sample, are late, die, come back, or are not what they should
// be.
// SPDX-License-Identifier: Apache-2.0
#include "grpo/http_rollout.h"

#include <atomic>
#include <chrono>
#include <memory>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "base/digest.h"
#include "grpo/completion_wire.h"
#include "tests/support/expect_error.h"
#include "tests/support/fake_rollout_server.h"

namespace lockstep::grpo {
namespace {

using std::chrono::milliseconds;
using ::testing::Each;
using ::testing::ElementsAre;
using testing::FakeCompletion;
using testing::FakeRolloutServer;
using ::testing::HasSubstr;
using testing::SocketConnection;
using testing::SocketRequest;
using Clock = std::chrono::steady_clock;

constexpr int64_t kStopId = 7;

net::SamplerInfo sampler_info() {
  return {{.protocol = net::kRolloutProtocol,
           .model = "m",
           .configuration = "c",
           .tokenizer = "t",
           .chat_template = "j",
           .dtype = "float32",
           .is_exact = true},
          64,
          8};
}

/// Completions that depend on all that they should depend on, and on nothing else.
std::vector<FakeCompletion> complete(const Json& body, const std::string& label) {
  std::vector<FakeCompletion> list;
  for (int64_t sample = 0; sample < body["n"].get<int64_t>(); ++sample) {
    const std::string key = dump_json(
        {body["prompt"], body["seed"], body["temperature"], body["lockstep"], label, sample});
    uint64_t random = digest_of(key).low;
    FakeCompletion& made = list.emplace_back();
    while (std::ssize(made.ids) < body["max_tokens"].get<int64_t>() && !made.is_stopped) {
      random = random * 6364136223846793005 + 1442695040888963407;
      made.ids.push_back(static_cast<int64_t>(random >> 60));
      made.logprobs.push_back(-static_cast<float>(random >> 40) / 1e6F);
      made.is_stopped = made.ids.back() == kStopId;
    }
  }
  return list;
}

FakeRolloutServer::Script script() { return {.info = sampler_info(), .complete = complete}; }

std::vector<rollout::Request> requests(int64_t count, int64_t samples = 3) {
  std::vector<rollout::Request> list(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i) {
    rollout::Request& request = list[static_cast<size_t>(i)];
    request.prompt = {1, 2, i / 2};
    request.num_samples = samples;
    request.occurrence = static_cast<uint64_t>(i % 2);
    request.draw = ~uint64_t{0};
    request.settings.max_new_tokens = 12;
    request.settings.stop_ids = {kStopId};
    request.settings.sampling.temperature = 0.9;
  }
  return list;
}

/// What servers answer to a request, worked out here.
RolloutClient::Completions expected(const std::vector<rollout::Request>& list,
                                    const std::string& label) {
  RolloutClient::Completions all;
  for (const rollout::Request& request : list) {
    auto& group = all.emplace_back();
    for (const FakeCompletion& made : complete(completion_body(request, "model"), label)) {
      rollout::Completion& completion = group.emplace_back();
      completion.token_ids = made.ids;
      completion.logprobs = made.logprobs;
      completion.has_stop_token = made.ids.back() == kStopId;
      completion.finish_reason =
          made.is_stopped ? rollout::FinishReason::kStop : rollout::FinishReason::kLength;
    }
  }
  return all;
}

void expect_equal(const RolloutClient::Completions& found,
                  const RolloutClient::Completions& wanted) {
  ASSERT_EQ(found.size(), wanted.size());
  for (size_t i = 0; i < found.size(); ++i) {
    ASSERT_EQ(found[i].size(), wanted[i].size()) << i;
    for (size_t k = 0; k < found[i].size(); ++k) {
      EXPECT_EQ(found[i][k].token_ids, wanted[i][k].token_ids) << i << " " << k;
      EXPECT_EQ(found[i][k].logprobs, wanted[i][k].logprobs) << i << " " << k;
      EXPECT_EQ(found[i][k].finish_reason, wanted[i][k].finish_reason) << i << " " << k;
      EXPECT_EQ(found[i][k].has_stop_token, wanted[i][k].has_stop_token) << i << " " << k;
    }
  }
}

/// Servers, and a client with weights that are written by counting.
class HttpRolloutTest : public ::testing::Test {
 protected:
  FakeRolloutServer& serve(FakeRolloutServer::Script one) {
    servers_.push_back(std::make_unique<FakeRolloutServer>(std::move(one)));
    options_.urls.push_back(servers_.back()->url());
    return *servers_.back();
  }
  std::unique_ptr<HttpRollout> client() {
    return std::make_unique<HttpRollout>(
        options_, sampler_info().identity, [this](int64_t step, bool anew) {
          written_.push_back(step);
          written_anew_.push_back(anew);
          const std::string digest = "digest" + std::to_string(step);
          return WeightOffer{.path = "/weights/" + std::to_string(step),
                             .digest = digest,
                             .label = net::weight_label(step, digest)};
        });
  }

  std::vector<std::unique_ptr<FakeRolloutServer>> servers_;
  HttpRolloutOptions options_{.urls = {},
                              .api_key = {},
                              .max_model_len = {},
                              .start_timeout = milliseconds(2000),
                              .request_timeout = milliseconds(20'000),
                              .sync_timeout = milliseconds(5000),
                              .on_loss = OnServerLoss::kContinue,
                              .health_interval = milliseconds(50),
                              .health_timeout = milliseconds(300)};
  std::vector<int64_t> written_;
  std::vector<bool> written_anew_;
};

TEST_F(HttpRolloutTest, AServerGivesTheTokensAndTheLogProbabilitiesThatItSampled) {
  serve(script());
  const auto rollout = client();
  rollout->publish(0);
  const auto list = requests(6);
  int64_t tokens = 0, completions = 0;
  RolloutClient::Completions told(6, std::vector<rollout::Completion>(3));
  RolloutClient::Watch watch = [&](int64_t t, int64_t c) {
    EXPECT_GE(t, tokens);
    tokens = t;
    completions = c;
  };
  watch.done = [&](size_t request, size_t sample, const rollout::Completion& completion) {
    EXPECT_TRUE(told.at(request).at(sample).token_ids.empty());  // none is told twice
    told[request][sample] = completion;
  };
  const auto found = rollout->generate(list, 0, watch);
  expect_equal(told, found);
  expect_equal(found, expected(list, "step-0:digest0"));
  EXPECT_EQ(completions, 18);
  EXPECT_FALSE(rollout->keeps_layer_inputs());
  EXPECT_EQ(rollout->planned_memory({}, false).cache_bytes, 0);
}

TEST_F(HttpRolloutTest, TwoServersShareTheWorkAndGiveTheSame) {
  for (int i = 0; i < 2; ++i) {
    auto one = script();
    one.complete = [](const Json& body, const std::string& label) {
      std::this_thread::sleep_for(milliseconds(10));
      return complete(body, label);
    };
    serve(one);
  }
  const auto rollout = client();
  rollout->publish(3);
  const auto list = requests(24);
  expect_equal(rollout->generate(list, 3, {}), expected(list, "step-3:digest3"));
  for (const auto& server : servers_) {
    EXPECT_GE(server->completed(), 6);
    // 8 sequences at once, 3 to a prompt, and the next one.
    EXPECT_LE(server->most_at_once(), 4);
    EXPECT_GE(server->most_at_once(), 2);
  }
}

TEST_F(HttpRolloutTest, ASlowServerGetsLessWork) {
  for (const int pause : {2, 60}) {
    auto one = script();
    one.complete = [pause](const Json& body, const std::string& label) {
      std::this_thread::sleep_for(milliseconds(pause));
      return complete(body, label);
    };
    serve(one);
  }
  const auto rollout = client();
  rollout->publish(0);
  rollout->generate(requests(40), 0, {});
  EXPECT_GT(servers_[0]->completed(), 2 * servers_[1]->completed());
}

TEST_F(HttpRolloutTest, AServerThatDiesInTheMiddleOfARoundCostsNoToken) {
  std::atomic<int> begun{0};
  FakeRolloutServer* dying = nullptr;
  for (int i = 0; i < 2; ++i) {
    auto one = script();
    one.complete = [&, i](const Json& body, const std::string& label) {
      if (i == 0 && ++begun == 4) dying->kill();
      std::this_thread::sleep_for(milliseconds(20));
      return complete(body, label);
    };
    FakeRolloutServer& made = serve(one);
    if (i == 0) dying = &made;
  }
  const auto rollout = client();
  rollout->publish(0);
  const auto list = requests(20);
  expect_equal(rollout->generate(list, 0, {}), expected(list, "step-0:digest0"));
  EXPECT_GE(begun, 4);
  EXPECT_LT(servers_[0]->completed(), 20);
  // The next generations go on without it.
  rollout->publish(1);
  expect_equal(rollout->generate(list, 1, {}), expected(list, "step-1:digest1"));
}

TEST_F(HttpRolloutTest, TheLastServerThatDiesIsNamed) {
  FakeRolloutServer* dying = nullptr;
  auto one = script();
  one.complete = [&](const Json& body, const std::string& label) {
    dying->kill();
    return complete(body, label);
  };
  dying = &serve(one);
  const auto rollout = client();
  rollout->publish(0);
  EXPECT_ERROR(rollout->generate(requests(3), 0, {}), PeerError, "no-server",
               dying->url() + ": expected a server that samples, got none left");
}

TEST_F(HttpRolloutTest, ALossEndsTheRunWhereTheUserSaysSo) {
  options_.on_loss = OnServerLoss::kStop;
  FakeRolloutServer* dying = nullptr;
  auto one = script();
  one.complete = [&](const Json& body, const std::string& label) {
    dying->kill();
    return complete(body, label);
  };
  dying = &serve(one);
  serve(script());
  const auto rollout = client();
  rollout->publish(0);
  EXPECT_ERROR(rollout->generate(requests(8), 0, {}), PeerError, "server-lost", dying->url());
}

TEST_F(HttpRolloutTest, AServerThatComesBackIsTakenAgainWithTheNewWeights) {
  auto slow = script();
  slow.intercept = [](SocketConnection& connection, const SocketRequest& request) {
    // So that there is work for the other one.
    if (request.target == "/v1/completions") connection.wait(milliseconds(20));
    return false;
  };
  serve(slow);
  FakeRolloutServer& gone = serve(script());
  const int port = gone.port();
  const auto rollout = client();
  rollout->publish(0);
  gone.kill();
  servers_.pop_back();
  rollout->publish(1);
  auto again = script();
  again.port = port;
  FakeRolloutServer& back = serve(again);
  rollout->publish(2);
  EXPECT_THAT(back.labels(), ElementsAre("step-2:digest2"));
  const auto list = requests(12);
  expect_equal(rollout->generate(list, 2, {}), expected(list, "step-2:digest2"));
  EXPECT_GT(back.completed(), 0);
}

TEST_F(HttpRolloutTest, AServerThatWasStartedAnewBetweenTwoGenerationsGoesOn) {
  const int port = serve(script()).port();
  const auto rollout = client();
  rollout->publish(0);
  servers_.clear();
  auto again = script();
  again.port = port;
  std::atomic<bool> is_ready{false};
  again.intercept = [&](SocketConnection& connection, const SocketRequest& request) {
    if (request.target == "/init_weight_transfer_engine") is_ready = true;
    if (is_ready || request.method == "GET") return false;
    connection.answer(400, R"({"error":{"message":"not ready"}})");
    return true;
  };
  serve(again);
  rollout->publish(1);
  const auto list = requests(2);
  expect_equal(rollout->generate(list, 1, {}), expected(list, "step-1:digest1"));
}

TEST_F(HttpRolloutTest, WeightsAreWrittenOnceForEachVersion) {
  serve(script());
  serve(script());
  const auto rollout = client();
  rollout->publish(0);
  rollout->publish(0);
  rollout->publish(4);
  EXPECT_THAT(written_, ElementsAre(0, 4));
  for (const auto& server : servers_)
    EXPECT_THAT(server->labels(), ElementsAre("step-0:digest0", "step-4:digest4"));
  EXPECT_ERROR(rollout->generate(requests(1), 3, {}), PeerError, "version-mismatch",
               "expected weights of version 3, got 4");
}

TEST_F(HttpRolloutTest, AServerThatDoesNotTakeTheWeightsIsLost) {
  auto one = script();
  one.load = [](const std::string&, const std::string& digest) {
    if (digest != "digest0") throw std::runtime_error("another digest");
  };
  serve(one);
  serve(script());
  const auto rollout = client();
  rollout->publish(0);
  rollout->publish(1);
  const auto list = requests(4);
  const int before = servers_[0]->completed();
  expect_equal(rollout->generate(list, 1, {}), expected(list, "step-1:digest1"));
  EXPECT_EQ(servers_[0]->completed(), before);
  servers_[1]->kill();
  EXPECT_ERROR(rollout->publish(2), PeerError, "no-server", "got none left");
}

TEST_F(HttpRolloutTest, AnUpdateThatWasLeftOpenIsClosed) {
  serve(script()).leave_update_open();
  const auto rollout = client();
  rollout->publish(0);
  EXPECT_THAT(servers_[0]->labels(), ElementsAre("step-0:digest0"));
}

/// A server that was lost while it took weights may go on reading them.
TEST_F(HttpRolloutTest, WeightsThatMayStillBeReadAreNotWrittenOver) {
  serve(script());
  auto one = script();
  auto fails = std::make_shared<std::atomic<bool>>(false);
  one.load = [fails](const std::string&, const std::string&) {
    if (*fails) throw std::runtime_error("no room");
  };
  serve(std::move(one));
  const auto rollout = client();
  rollout->publish(0);
  rollout->publish(1);
  *fails = true;
  rollout->publish(2);
  *fails = false;
  rollout->publish(3);
  rollout->publish(4);
  EXPECT_THAT(written_, ElementsAre(0, 1, 2, 3, 4));
  EXPECT_THAT(written_anew_, ElementsAre(false, false, false, true, false));
}

TEST_F(HttpRolloutTest, WeightsThatSomebodyElseChangedAreFoundOut) {
  serve(script());
  serve(script());
  const auto rollout = client();
  rollout->publish(0);
  const net::HttpClient other(servers_[0]->url(), "");
  const auto post = [&](const char* path, const Json& body) {
    other.post_json(path, body, milliseconds(1000));
  };
  post("/start_weight_update", Json::object());
  post("/update_weights", {{"update_info", {{"path", "x"}, {"digest", "y"}}}});
  post("/finish_weight_update", {{"weight_version", "mine"}});
  const auto list = requests(8);
  expect_equal(rollout->generate(list, 0, {}), expected(list, "step-0:digest0"));
  EXPECT_EQ(servers_[0]->completed(), 0);
}

TEST_F(HttpRolloutTest, AnswersOfAnotherVersionAreNotTrainedOn) {
  auto one = script();
  one.intercept = [](SocketConnection& connection, const SocketRequest& request) {
    if (request.target != "/v1/completions") return false;
    const Json choice{{"index", 0},
                      {"finish_reason", "stop"},
                      {"token_ids", {3, kStopId}},
                      {"logprobs", {{"token_logprobs", {-1, -1}}}},
                      {"weight_versions",
                       {{{"version", "step-0:digest0"}, {"start", 0}, {"end", 1}},
                        {{"version", "other"}, {"start", 1}, {"end", 2}}}}};
    connection.answer(200, dump_json({{"choices", Json::array({choice})}}));
    return true;
  };
  serve(one);
  const auto rollout = client();
  rollout->publish(0);
  EXPECT_ERROR(rollout->generate(requests(1, 1), 0, {}), PeerError, "no-server",
               "expected weights step-0:digest0 for all tokens from POST /v1/completions, got "
               "other");
}

TEST_F(HttpRolloutTest, ARequestThatAServerFailsAtIsDoneByAnother) {
  auto one = script();
  one.intercept = [](SocketConnection& connection, const SocketRequest& request) {
    if (request.target != "/v1/completions") return false;
    connection.answer(500, R"({"error":{"message":"out of pages"}})");
    return true;
  };
  serve(one);
  serve(script());
  const auto rollout = client();
  rollout->publish(0);
  const auto list = requests(6);
  expect_equal(rollout->generate(list, 0, {}), expected(list, "step-0:digest0"));
}

TEST_F(HttpRolloutTest, ARequestThatNobodyCanDoIsNamedWithTheServersWords) {
  for (const int status : {400, 500}) {
    options_.urls.clear();
    auto one = script();
    one.intercept = [&](SocketConnection& connection, const SocketRequest& request) {
      if (request.target != "/v1/completions" ||
          parse_json(request.body, "body")["prompt"] != Json({1, 2, 2}))
        return false;
      connection.answer(status, R"({"error":{"message":"no such token"}})");
      return true;
    };
    serve(one);
    const auto rollout = client();
    rollout->publish(0);
    // The fifth alone has that prompt.
    EXPECT_ERROR(rollout->generate(requests(5), 0, {}), PeerError, "request-failed",
                 "prompt 4 of this generation: expected its 3 completions, got " +
                     options_.urls[0] + ": expected 200 from POST /v1/completions, got " +
                     std::to_string(status) + ": no such token");
  }
}

TEST_F(HttpRolloutTest, ABusyServerIsAskedAgain) {
  std::atomic<int> asked{0};
  auto one = script();
  one.intercept = [&](SocketConnection& connection, const SocketRequest& request) {
    if (request.target != "/v1/completions" || asked++) return false;
    connection.answer(503, R"({"error":{"message":"queue full"}})");
    return true;
  };
  serve(one);
  const auto rollout = client();
  rollout->publish(0);
  const auto list = requests(3);
  expect_equal(rollout->generate(list, 0, {}), expected(list, "step-0:digest0"));
  EXPECT_EQ(asked, 4);
}

TEST_F(HttpRolloutTest, AServerThatHangsIsLeftAtTheDeadline) {
  options_.request_timeout = milliseconds(1500);
  auto one = script();
  one.intercept = [](SocketConnection& connection, const SocketRequest& request) {
    return request.target == "/v1/completions" && !connection.wait(milliseconds(20'000));
  };
  serve(one);
  serve(script());
  const auto rollout = client();
  rollout->publish(0);
  const auto list = requests(12);
  const auto begin = Clock::now();
  expect_equal(rollout->generate(list, 0, {}), expected(list, "step-0:digest0"));
  EXPECT_LT(Clock::now() - begin, milliseconds(5000));
}

TEST_F(HttpRolloutTest, AServerThatDoesNotEvenSayThatItIsWellIsLeftEarlier) {
  auto one = script();
  std::atomic<bool> hangs{false};
  one.intercept = [&](SocketConnection& connection, const SocketRequest& request) {
    if (request.target == "/v1/completions") hangs = true;
    return hangs && !connection.wait(milliseconds(20'000));
  };
  serve(one);
  serve(script());
  const auto rollout = client();
  rollout->publish(0);
  const auto list = requests(12);
  const auto begin = Clock::now();
  expect_equal(rollout->generate(list, 0, {}), expected(list, "step-0:digest0"));
  EXPECT_LT(Clock::now() - begin, milliseconds(5000));
}

TEST_F(HttpRolloutTest, AnotherSamplerIsRefusedByNameFieldAndBothValues) {
  auto one = script();
  one.info.identity.tokenizer = "other";
  serve(script());
  serve(one);
  EXPECT_ERROR(client(), ConfigError, "wrong-server",
               servers_[1]->url() + ": expected the trainer's tokenizer t, got other");
}

TEST_F(HttpRolloutTest, ADeadServerIsNamedWhenTheRunBegins) {
  options_.start_timeout = milliseconds(700);
  options_.urls = {"http://127.0.0.1:" + std::to_string(testing::dead_port())};
  EXPECT_ERROR(client(), PeerError, "connection-failed", options_.urls[0]);
}

TEST_F(HttpRolloutTest, AServerThatIsStartingIsWaitedFor) {
  const int port = testing::dead_port();
  options_.start_timeout = milliseconds(20'000);
  std::unique_ptr<FakeRolloutServer> late;
  std::jthread starting([&] {
    std::this_thread::sleep_for(milliseconds(700));
    auto one = script();
    one.port = port;
    late = std::make_unique<FakeRolloutServer>(one);
  });
  options_.urls = {"http://127.0.0.1:" + std::to_string(port)};
  EXPECT_EQ(client()->max_model_len(), 64);
}

TEST_F(HttpRolloutTest, AServerThatIsLoadingItsModelIsWaitedFor) {
  std::atomic<int> left{1};
  auto one = script();
  one.intercept = [&](SocketConnection& connection, const SocketRequest&) {
    if (left-- <= 0) return false;
    connection.answer(503, R"({"error":{"message":"loading"}})");
    return true;
  };
  serve(one);
  EXPECT_EQ(client()->max_model_len(), 64);
  EXPECT_LT(left, 0);
  left = 1000;
  EXPECT_ERROR(client(), PeerError, "not-ready", "got 503: loading");
}

TEST_F(HttpRolloutTest, AnotherProgramIsNoServer) {
  auto one = script();
  one.intercept = [](SocketConnection& connection, const SocketRequest& request) {
    if (!request.target.starts_with("/server_info")) return false;
    connection.answer(200, R"({"vllm_config": {}})");
    return true;
  };
  serve(one);
  // It looks like vLLM's, unless it was said that it is ours.
  EXPECT_ERROR(client(), ConfigError, "wrong-server", "--weight-transfer-config");
  options_.engine = RolloutEngine::kLockstep;
  EXPECT_ERROR(client(), FormatError, "bad-server-info", options_.urls[0]);
}

TEST_F(HttpRolloutTest, TheKeyIsSentToEveryServer) {
  auto one = script();
  one.api_key = "secret";
  serve(one);
  EXPECT_ERROR(client(), PeerError, "peer-refused", "got 401: wrong key");
  options_.api_key = "secret";
  const auto rollout = client();
  rollout->publish(0);
  EXPECT_EQ(rollout->generate(requests(2), 0, {}).size(), 2u);
}

TEST_F(HttpRolloutTest, TheShortestContextCounts) {
  serve(script());
  auto less = script();
  less.info.max_model_len = 40;
  serve(less);
  const auto rollout = client();
  EXPECT_EQ(rollout->max_model_len(), 40);
  rollout->check_room(30, 10);
  EXPECT_ERROR(rollout->check_room(31, 10), ConfigError, "prompt-too-long", "at most 40 tokens");
  options_.max_model_len = 20;
  EXPECT_EQ(client()->max_model_len(), 20);
}

TEST_F(HttpRolloutTest, AServerIsNamedOnce) {
  serve(script());
  options_.urls.push_back(options_.urls[0] + "/");
  EXPECT_ERROR(client(), ConfigError, "bad-flag", "expected each server once");
}

TEST_F(HttpRolloutTest, AnErrorOfTheProgressEndsTheRoundAtOnce) {
  auto one = script();
  one.intercept = [](SocketConnection& connection, const SocketRequest& request) {
    return request.target == "/v1/completions" && !connection.wait(milliseconds(20'000));
  };
  serve(one);
  const auto rollout = client();
  rollout->publish(0);
  const auto begin = Clock::now();
  EXPECT_ERROR(rollout->generate(
                   requests(4), 0,
                   [](int64_t, int64_t) { fail<InterruptedError>("interrupted", "test", "stop"); }),
               InterruptedError, "interrupted", "stop");
  EXPECT_LT(Clock::now() - begin, milliseconds(3000));
}

}  // namespace
}  // namespace lockstep::grpo
