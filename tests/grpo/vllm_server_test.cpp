// HttpRollout against vLLM's routes with the plugin's status: a 200 alone is believed nowhere.
// SPDX-License-Identifier: Apache-2.0
#include "grpo/vllm_server.h"

#include <chrono>
#include <mutex>

#include "base/json.h"
#include "grpo/http_rollout.h"
#include "tests/support/expect_error.h"
#include "tests/support/socket_server.h"

namespace lockstep::grpo {
namespace {

using std::chrono::milliseconds;
using ::testing::ElementsAre;
using testing::SocketConnection;
using testing::SocketRequest;
using testing::SocketServer;

constexpr const char* kLabel = "step-1:d1";

/// vLLM's answers, with the plugin's status of each rank. Like vLLM it says 200 to everything that
/// it can read.
class FakeVllm {
 public:
  explicit FakeVllm(size_t num_ranks = 1)
      : ranks_(num_ranks, Json{{"protocol", 1}, {"state", "serving"}}) {
    server_ = std::make_unique<SocketServer>(
        [this](SocketConnection& connection, const SocketRequest& request) {
          const std::lock_guard lock(mutex_);
          const Json body = request.body.empty() ? Json() : parse_json(request.body, "body");
          const Json answer = route(request.target, body);
          connection.answer(answer.is_null() ? 500 : 200, dump_json(answer));
        });
  }

  std::string url() const { return server_->url(); }

  /// What happened to the engine, in order.
  std::vector<std::string> calls;
  Json about{{"vllm_config",
              {{"weight_transfer_config", {{"backend", "lockstep"}}},
               {"model_config",
                {{"logprobs_mode", "processed_logprobs"},
                 {"dtype", "torch.bfloat16"},
                 {"max_model_len", 64}}},
               {"scheduler_config", {{"max_num_seqs", 8}}}}}};
  /// The last rank does not get what the others get.
  bool leaves_out_last_rank = false;
  /// It fails in the middle of a change.
  bool breaks = false;
  bool is_open = false;
  /// Somebody else changes the weights after the next completion.
  bool is_changed_by_others = false;

 private:
  Json route(const std::string& target, const Json& body) {
    if (target == "/server_info?config_format=json") return about;
    if (target == "/v1/models") return {{"data", Json::array({{{"id", "m"}}})}};
    if (target == "/get_world_size") return {{"world_size", ranks_.size()}};
    if (target == "/weight_info") return {{"weight_version", version_}};
    if (target == "/health") return Json::object();
    if (target == "/init_weight_transfer_engine") {
      EXPECT_EQ(body["init_info"]["backend"], "lockstep");
      EXPECT_EQ(body["init_info"]["session"].get<std::string>().size(), 32u);
      return Json::object();
    }
    if (target == "/v1/completions") return completion(body);
    if (target == "/collective_rpc") {
      if (body["method"] == "lockstep_status") return {{"results", ranks_}};
      EXPECT_EQ(body["method"], "lockstep_reset");
      calls.push_back("reset");
      is_open = false;
      for (Json& rank : ranks_)
        if (rank["state"] != "poisoned") rank["state"] = "serving";
      return {{"results", Json::array()}};
    }
    calls.push_back(target.substr(1, target.find_first_of("_?") - 1));
    if (target == "/start_weight_update") {
      if (is_open) return {};
      is_open = true;
    }
    if (target == "/update_weights") stage(body["update_info"]);
    if (target == "/finish_weight_update") finish(body["weight_version"]);
    return Json::object();
  }

  Json completion(const Json& body) {
    EXPECT_FALSE(body.contains("lockstep"));
    if (body.contains("prompt_logprobs"))
      return {
          {"choices",
           Json::array({{{"prompt_logprobs",
                          Json::array({nullptr, {{"2", {{"logprob", -0.5}, {"rank", 1}}}}})}}})}};
    if (is_changed_by_others) version_ = "of somebody";
    return {{"choices", Json::array({{{"index", 0},
                                      {"finish_reason", "length"},
                                      {"token_ids", {3, 4}},
                                      {"logprobs", {{"token_logprobs", {-1.5, -2.5}}}}}})}};
  }

  void stage(const Json& info) {
    EXPECT_EQ(info.is_array(), ranks_.size() > 1);
    for (size_t rank = 0; rank < ranks_.size(); ++rank) {
      const Json& own = info.is_array() ? info.at(rank) : info;
      EXPECT_EQ(own["transport"], "shm");
      EXPECT_EQ(own["name"], "block");
      EXPECT_EQ(own["bytes"], 77);
      EXPECT_TRUE(own["version"].get<std::string>().starts_with("step-"));
      if (leaves_out_last_rank && rank + 1 == ranks_.size()) {
        ranks_[rank]["state"] = "failed";
        ranks_[rank]["error"] = {
            {"code", "digest-mismatch"}, {"where", "a.weight"}, {"message", "other bytes"}};
        continue;
      }
      if (ranks_[rank]["state"] != "poisoned") ranks_[rank]["state"] = "staged";
      ranks_[rank]["staged"] = own["digest"];
    }
  }

  void finish(const Json& version) {
    is_open = false;
    version_ = version;
    for (Json& rank : ranks_) {
      rank["state"] = breaks ? "poisoned" : "serving";
      rank["digest"] = breaks ? Json("half") : rank["staged"];
    }
  }

  std::mutex mutex_;
  std::vector<Json> ranks_;
  std::string version_ = "default";
  std::unique_ptr<SocketServer> server_;
};

class VllmServerTest : public ::testing::Test {
 protected:
  std::unique_ptr<HttpRollout> client(const FakeVllm& server) {
    options_.urls = {server.url()};
    net::SamplerIdentity expected;
    expected.dtype = "bfloat16";
    return std::make_unique<HttpRollout>(options_, expected, [](int64_t step, bool) {
      const std::string digest = "d" + std::to_string(step);
      return WeightOffer{.shared_memory = "block",
                         .bytes = 77,
                         .digest = digest,
                         .label = net::weight_label(step, digest)};
    });
  }
  static std::vector<rollout::Request> requests() {
    std::vector<rollout::Request> list(3);
    for (rollout::Request& request : list) {
      request.prompt = {1, 2};
      request.settings.max_new_tokens = 2;
    }
    return list;
  }

  HttpRolloutOptions options_{.urls = {},
                              .api_key = {},
                              .max_model_len = {},
                              .start_timeout = milliseconds(2000),
                              .request_timeout = milliseconds(5000),
                              .sync_timeout = milliseconds(5000),
                              .shared_bytes = 77};
};

TEST_F(VllmServerTest, IsFoundByWhatItSaysAndGetsWeightsBetweenPauseAndResume) {
  for (const size_t ranks : {1, 2}) {
    FakeVllm server(ranks);
    const auto rollout = client(server);
    EXPECT_FALSE(rollout->has_trained_weights());
    EXPECT_EQ(rollout->max_model_len(), 64);
    rollout->publish(1);
    EXPECT_THAT(server.calls, ElementsAre("pause", "start", "update", "finish", "resume"));
    const auto made = rollout->generate(requests(), 1, {});
    ASSERT_EQ(made.size(), 3u);
    EXPECT_THAT(made[2][0].token_ids, ElementsAre(3, 4));
    EXPECT_THAT(made[2][0].logprobs, ElementsAre(-1.5F, -2.5F));
    const auto scores = rollout->score({1, 2});
    ASSERT_EQ(scores.size(), 1u);
    EXPECT_FALSE(scores[0].is_exact);
    EXPECT_THAT(scores[0].logprobs, ElementsAre(-0.5F));
  }
}

TEST_F(VllmServerTest, ARankThatWasLeftOutIsNotServedFrom) {
  FakeVllm server(2);
  server.leaves_out_last_rank = true;
  const auto rollout = client(server);
  EXPECT_ERROR(rollout->publish(1), PeerError, "no-server",
               "expected rank 1 to be staged with weights d1, got failed with null "
               "(digest-mismatch: a.weight: other bytes)");
  // It is tried once more, as with a server that was started anew.
  EXPECT_THAT(server.calls, ElementsAre("pause", "start", "update", "reset", "resume", "pause",
                                        "start", "update", "reset", "resume"));
  // The next update is a new one.
  server.leaves_out_last_rank = false;
  rollout->publish(2);
  EXPECT_EQ(rollout->generate(requests(), 2, {}).size(), 3u);
}

TEST_F(VllmServerTest, AnEngineThatIsHalfChangedStaysPausedUntilAFullUpdate) {
  FakeVllm server;
  server.breaks = true;
  const auto rollout = client(server);
  EXPECT_ERROR(rollout->publish(1), PeerError, "no-server", "got poisoned");
  EXPECT_EQ(server.calls.back(), "finish");
  server.breaks = false;
  rollout->publish(2);
  EXPECT_EQ(server.calls.back(), "resume");
}

TEST_F(VllmServerTest, AnUpdateThatAnotherTrainerLeftOpenIsClosed) {
  FakeVllm server;
  server.is_open = true;
  const auto rollout = client(server);
  rollout->publish(1);
  EXPECT_THAT(server.calls,
              ElementsAre("pause", "start", "reset", "start", "update", "finish", "resume"));
}

TEST_F(VllmServerTest, WeightsThatChangeWhileItSamplesAreFoundOut) {
  FakeVllm server;
  const auto rollout = client(server);
  rollout->publish(1);
  server.is_changed_by_others = true;
  EXPECT_ERROR(rollout->generate(requests(), 1, {}), PeerError, "version-mismatch",
               std::string("expected weights ") + kLabel + ", got of somebody");
}

TEST_F(VllmServerTest, AServerThatWasStartedOtherwiseIsRefused) {
  const auto refused = [&](const Json& patch, const char* words) {
    FakeVllm server;
    server.about.merge_patch(Json{{"vllm_config", patch}});
    EXPECT_ERROR(client(server), ConfigError, "wrong-server", words);
  };
  refused({{"weight_transfer_config", {{"backend", "nccl"}}}}, "got backend nccl");
  refused({{"weight_transfer_config", nullptr}}, "got backend null");
  refused({{"model_config", {{"logprobs_mode", "raw_logprobs"}}}}, "got raw_logprobs");
  refused({{"model_config", {{"dtype", "torch.float32"}}}}, "the trainer's dtype bfloat16");
  FakeVllm server;
  options_.shared_bytes = 0;
  EXPECT_ERROR(client(server), ConfigError, "wrong-server", "--sync_transport shm, tcp");
  options_.shared_bytes = 77;
  options_.base.emplace();
  EXPECT_ERROR(client(server), ConfigError, "wrong-server", "--sync_mode full");
  options_.base.reset();
  options_.needs_experts = true;
  EXPECT_ERROR(client(server), ConfigError, "wrong-server", "tells no experts");
}

}  // namespace
}  // namespace lockstep::grpo
