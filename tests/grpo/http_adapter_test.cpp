// HttpRollout where an adapter is trained: servers have the model, and get the adapter alone.
// SPDX-License-Identifier: Apache-2.0
#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "grpo/http_rollout.h"
#include "tests/support/expect_error.h"
#include "tests/support/fake_rollout_server.h"

namespace lockstep::grpo {
namespace {

using std::chrono::milliseconds;
using ::testing::ElementsAre;
using testing::FakeCompletion;
using testing::FakeRolloutServer;
using ::testing::IsEmpty;

net::SamplerInfo sampler_info() {
  return {{.model = "m", .configuration = "c", .tokenizer = "t", .dtype = "float32"}, 64, 8};
}

/// One token, which tells under what it was sampled.
std::vector<FakeCompletion> complete(const Json& body, const std::string& label) {
  const auto version = body["model"].get<std::string>();
  return {{.ids = {static_cast<int64_t>(label.size()), version.back() - '0'},
           .logprobs = {-1, -2},
           .is_stopped = false}};
}

class HttpAdapter : public ::testing::Test {
 protected:
  FakeRolloutServer& serve(FakeRolloutServer::Script script) {
    script.info = sampler_info();
    script.complete = complete;
    servers_.push_back(std::make_unique<FakeRolloutServer>(std::move(script)));
    options_.urls.push_back(servers_.back()->url());
    return *servers_.back();
  }
  std::unique_ptr<HttpRollout> client() {
    return std::make_unique<HttpRollout>(options_, sampler_info().identity, [](int64_t step, bool) {
      const std::string path = "/adapters/" + std::to_string(step);
      return WeightOffer{.path = path,
                         .digest = "of " + path,
                         .label = net::weight_label(step, path),
                         .adapter_name = "run-step-" + std::to_string(step),
                         .num_pairs = 3};
    });
  }
  static std::vector<rollout::Request> requests(int64_t count) {
    std::vector<rollout::Request> list(static_cast<size_t>(count));
    for (rollout::Request& request : list) {
      request.prompt = {1, 2};
      request.settings.max_new_tokens = 2;
    }
    return list;
  }
  static std::vector<std::string> names(const FakeRolloutServer& server) {
    std::vector<std::string> names;
    for (const auto& [name, adapter] : server.adapters()) names.push_back(name);
    return names;
  }

  std::vector<std::unique_ptr<FakeRolloutServer>> servers_;
  HttpRolloutOptions options_{.start_timeout = milliseconds(2000),
                              .request_timeout = milliseconds(20'000),
                              .sync_timeout = milliseconds(5000),
                              .base = BaseWeights{.checksums = {{"embedding", "e"}, {"head", "h"}},
                                                  .label = "base:eh",
                                                  .adapter_prefix = "run-step-"}};
};

TEST_F(HttpAdapter, EachVersionHasItsNameAndTheOneBeforeIsTakenAway) {
  const FakeRolloutServer &one = serve({}), &other = serve({});
  {
    const auto rollout = client();
    EXPECT_THAT(names(one), IsEmpty());
    for (const int64_t step : {0, 1, 2}) {
      rollout->publish(step);
      for (const FakeRolloutServer* server : {&one, &other})
        EXPECT_THAT(names(*server), ElementsAre("run-step-" + std::to_string(step)));
      for (const auto& group : rollout->generate(requests(8), step, {}))
        EXPECT_THAT(group.at(0).token_ids, ElementsAre(7, step));
    }
  }
  // No checkpoint was sent, and nothing stays.
  EXPECT_THAT(one.labels(), IsEmpty());
  EXPECT_THAT(names(one), IsEmpty());
  EXPECT_THAT(names(other), IsEmpty());
}

TEST_F(HttpAdapter, AServerOfOtherWeightsIsRefused) {
  Json seen;
  serve({.compare = [&](const Json& baseline) {
    seen = baseline;
    return std::vector<std::string>{"dp0:pp0:pcp0:tp0:head"};
  }});
  EXPECT_ERROR(client(), ConfigError, "wrong-server",
               "got others in 1 tensors, \"dp0:pp0:pcp0:tp0:head\" among them");
  EXPECT_EQ(seen, (Json{{"dp0:pp0:pcp0:tp0:embedding", "e"}, {"dp0:pp0:pcp0:tp0:head", "h"}}));
}

TEST_F(HttpAdapter, APairThatIsNotBoundLosesTheServer) {
  for (const Json& bound : {Json{{"digest", "of /adapters/0"}, {"pairs", 2}},
                            Json{{"digest", "of another"}, {"pairs", 3}}, Json()}) {
    servers_.clear();
    options_.urls.clear();
    serve({.bind = [&](const std::string&) { return bound; }});
    const auto rollout = client();
    EXPECT_ERROR(rollout->publish(0), PeerError, "no-server", "to be bound as");
  }
}

TEST_F(HttpAdapter, AnAnswerOfAnotherAdapterIsNotTrainedOn) {
  int loads = 0;
  serve({.bind = [&](const std::string& path) -> Json {
    ++loads;
    return {{"digest", "of " + path}, {"pairs", 3}};
  }});
  const auto rollout = client();
  rollout->publish(0);
  EXPECT_EQ(loads, 1);
  // Somebody puts another one in its place.
  net::HttpClient(options_.urls[0], "")
      .post_json("/v1/load_lora_adapter",
                 {{"lora_name", "run-step-0"}, {"lora_path", "/elsewhere"}}, milliseconds(5000));
  EXPECT_ERROR(rollout->generate(requests(1), 0, {}), PeerError, "no-server",
               "expected an answer of lockstep-base:eh+of /adapters/0, got one of");
}

TEST_F(HttpAdapter, WhatAnEarlierRunHasLeftIsTakenAway) {
  const FakeRolloutServer& server = serve({});
  const net::HttpClient other(options_.urls[0], "");
  for (const char* name : {"run-step-7", "another"})
    other.post_json("/v1/load_lora_adapter", {{"lora_name", name}, {"lora_path", "/x"}},
                    milliseconds(5000));
  const auto rollout = client();
  EXPECT_THAT(names(server), ElementsAre("another"));
}

}  // namespace
}  // namespace lockstep::grpo
