// SPDX-License-Identifier: Apache-2.0
#include "serve/control_routes.h"

#include <future>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/check.h"
#include "tests/serve/controlled_engine.h"
#include "tests/serve/raw_client.h"

namespace lockstep::serve {
namespace {

using namespace std::chrono_literals;
using lockstep::testing::ControlledEngine;
using lockstep::testing::NamedWeights;
using lockstep::testing::raw_request;
using lockstep::testing::RawClient;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

struct Answer {
  int status = 0;
  Json json;
  std::string code() const { return json.at("error").at("code"); }
  std::string message() const { return json.at("error").at("message"); }
};

/// The routes over a real connection, with a sampler and a loader that do as they are told.
class ControlRoutesTest : public ::testing::Test {
 protected:
  ControlRoutesTest() { start(WeightSessionLimits{}); }
  void start(const WeightSessionLimits& limits) {
    server_.reset();
    routes_ = std::make_unique<ControlRoutes>(
        engine_, metrics_,
        ControlFacts{.version = "1.2.3",
                     .model_name = "tiny",
                     .model_path = "/models/tiny",
                     .sampler_info = {{"protocol", 1}}},
        WeightLoader{.load = [this](const OfferedWeights& offered) { return load(offered); },
                     .release = [this] { ++releases_; }},
        [] {
          return std::map<std::string, std::string>{{"a", "0"}, {"b", "0"}};
        },
        limits);
    router_ = std::make_unique<Router>("");
    routes_->add_to(*router_);
    server_ = std::make_unique<HttpServer>(
        "127.0.0.1", 0, HttpLimits{},
        [this](HttpRequest&& request, std::shared_ptr<HttpResponder> responder) {
          router_->handle(std::move(request), responder);
        },
        [](int, std::string_view message) { return std::string(message); });
  }
  ~ControlRoutesTest() override {
    let_go_.set_value();
    server_.reset();
    routes_.reset();
  }

  LoadedWeights load(const OfferedWeights& offered) {
    if (!offered.shared_memory.empty())
      return {std::make_unique<NamedWeights>(
                  fmt::format("{} of {}", offered.shared_memory, offered.bytes)),
              "d-block",
              {}};
    const std::filesystem::path& folder = offered.folder;
    const std::string& digest = offered.digest;
    const std::string name = folder.filename();
    if (name == "slow") released_.wait();
    if (name == "other")
      fail<FormatError>("shape-mismatch", folder.string(), "expected [2, 2], got [3, 3]");
    if (name == "none") fail<IoError>("io", folder.string(), "no such folder");
    if (name == "changed" && !digest.empty())
      fail<FormatError>("digest-mismatch", folder.string(), "expected {}, got 77", digest);
    return {std::make_unique<NamedWeights>(name), "d-" + name, {{"a", "1"}, {"b", "0"}}};
  }
  Answer ask(std::string_view method, std::string_view path, std::string_view body = "") {
    RawClient client(server_->port());
    client.send(raw_request(method, path, body));
    const auto answer = client.read_answer();
    if (!answer) return {};
    return {answer->status, answer->body.empty() ? Json() : parse_json(answer->body, "answer")};
  }
  Answer post(std::string_view path, std::string_view body = "") { return ask("POST", path, body); }
  Answer get(std::string_view path) { return ask("GET", path); }
  Answer init() {
    return post("/init_weight_transfer_engine", R"({"init_info":{"backend":"directory"}})");
  }
  Answer update(const std::string& name, const std::string& digest = "") {
    return post("/update_weights",
                dump_json({{"update_info", {{"path", "/weights/" + name}, {"digest", digest}}}}));
  }
  std::string version() { return get("/weight_info").json.at("weight_version"); }

  std::atomic<int> releases_{0};
  ControlledEngine engine_;
  ServerMetrics metrics_;
  std::promise<void> let_go_;
  std::shared_future<void> released_{let_go_.get_future()};
  std::unique_ptr<ControlRoutes> routes_;
  std::unique_ptr<Router> router_;
  std::unique_ptr<HttpServer> server_;
};

TEST_F(ControlRoutesTest, AServerTellsWhatItIs) {
  EXPECT_EQ(get("/health").status, 200);
  EXPECT_EQ(get("/health/").json, Json({{"status", "ok"}}));
  EXPECT_EQ(post("/ping").status, 200);
  EXPECT_EQ(get("/version").json.at("version"), "1.2.3");
  EXPECT_EQ(get("/get_world_size/").json, Json({{"world_size", 1}}));
  EXPECT_EQ(get("/is_sleeping").json, Json({{"is_sleeping", false}}));
  EXPECT_EQ(post("/get_engine_type/").json.at("engine_type"), "AsyncLLMEngine");
  EXPECT_EQ(post("/close_communicator/").status, 200);
  const Json info = get("/server_info?config_format=json").json;
  EXPECT_EQ(info.at("vllm_config").at("weight_transfer_config").at("backend"), "lockstep");
  EXPECT_EQ(info.at("vllm_config").at("model_config").at("max_model_len"), 100);
  EXPECT_EQ(info.at("lockstep").at("protocol"), 1);
  EXPECT_TRUE(get("/server_info").json.at("vllm_config").is_string());
  EXPECT_EQ(get("/server_info?config_format=yaml").status, 400);
  engine_.is_well = false;
  EXPECT_EQ(get("/health").status, 503);
}

TEST_F(ControlRoutesTest, MetricsAreText) {
  RawClient client(server_->port());
  client.send(raw_request("GET", "/metrics"));
  const auto answer = client.read_answer();
  EXPECT_THAT(answer->headers.at("content-type"), HasSubstr("text/plain; version=0.0.4"));
  EXPECT_THAT(answer->body, HasSubstr("vllm:num_requests_running{model_name=\"tiny\"} 0\n"));
}

TEST_F(ControlRoutesTest, PauseTakesItsModeFromTheQuery) {
  EXPECT_EQ(post("/pause").json, Json({{"status", "paused"}}));
  EXPECT_EQ(get("/is_paused").json, Json({{"is_paused", true}}));
  EXPECT_EQ(post("/resume").json, Json({{"status", "resumed"}}));
  EXPECT_EQ(get("/is_paused").json, Json({{"is_paused", false}}));
  EXPECT_EQ(post("/pause?mode=keep&clear_cache=false").status, 200);
  // As in vLLM, a body means nothing.
  EXPECT_EQ(post("/pause?mode=wait&clear_cache=True", R"({"mode":"keep"})").status, 200);
  EXPECT_EQ(post("/pause?mode=later").status, 400);
  EXPECT_EQ(post("/pause?clear_cache=2").status, 400);
  EXPECT_EQ(get("/pause").status, 405);
  EXPECT_THAT(engine_.calls(),
              ElementsAre("pause abort clear", "resume", "pause keep", "pause wait clear"));
}

TEST_F(ControlRoutesTest, PauseAnswersWhenItIsDone) {
  engine_.holds_pause = true;
  RawClient client(server_->port());
  client.send(raw_request("POST", "/pause?mode=wait"));
  EXPECT_TRUE(client.is_quiet(100));
  EXPECT_EQ(get("/health").status, 200);
  engine_.end_pause();
  EXPECT_EQ(client.read_answer()->status, 200);
}

TEST_F(ControlRoutesTest, RequestsAreAbortedByTheirIds) {
  EXPECT_EQ(post("/abort_requests", "{}").json, Json({{"status", "aborted"}, {"aborted", 3}}));
  engine_.forget_calls();
  EXPECT_EQ(post("/abort_requests", R"({"request_ids":["known"]})").json.at("aborted"), 1);
  EXPECT_THAT(engine_.calls(), ElementsAre("abort known"));
  EXPECT_EQ(
      post("/abort_requests", R"({"request_ids":["known","no","several"]})").json.at("aborted"), 2);
  for (const char* body :
       {"", "[]", "x", R"({"request_ids":1})", R"({"request_ids":[1]})", R"({"request_ids":{}})"})
    EXPECT_EQ(post("/abort_requests", body).status, 400) << body;
}

TEST_F(ControlRoutesTest, AnUpdateIsStagedAndThenCommitted) {
  EXPECT_EQ(version(), "default");
  EXPECT_EQ(init().status, 200);
  EXPECT_EQ(post("/start_weight_update").status, 200);
  EXPECT_EQ(update("one", "d-one").status, 200);
  EXPECT_THAT(engine_.calls(), IsEmpty());
  EXPECT_EQ(version(), "default");
  const Answer done = post("/finish_weight_update", R"({"weight_version":"step-1"})");
  EXPECT_EQ(done.status, 200);
  EXPECT_EQ(done.json.at("weight_version"), "step-1");
  EXPECT_TRUE(done.json.at("message").is_string());
  EXPECT_THAT(engine_.calls(), ElementsAre("swap one as step-1"));
  EXPECT_EQ(version(), "step-1");
  // Of several folders the last one counts; without a version the digest is the version.
  post("/start_weight_update", "{}");
  update("two");
  EXPECT_EQ(post("/update_weights", R"({"update_info":[{"path":"/weights/three"}]})").status, 200);
  EXPECT_EQ(post("/finish_weight_update").json.at("weight_version"), "d-three");
  EXPECT_EQ(version(), "d-three");
  EXPECT_EQ(post("/shutdown_weight_transfer_engine").status, 200);
}

TEST_F(ControlRoutesTest, StepsOutOfOrderAreRefusedAndTheOldWeightsStay) {
  EXPECT_EQ(update("one").code(), "no-update");
  EXPECT_EQ(post("/finish_weight_update").code(), "no-update");
  EXPECT_EQ(post("/start_weight_update").status, 200);
  const Answer second = post("/start_weight_update");
  EXPECT_EQ(second.status, 409);
  EXPECT_EQ(second.code(), "update-open");
  EXPECT_EQ(post("/shutdown_weight_transfer_engine").status, 409);
  const Answer empty = post("/finish_weight_update", R"({"weight_version":"nothing"})");
  EXPECT_EQ(empty.status, 409);
  EXPECT_EQ(empty.code(), "nothing-staged");
  // It is open still.
  EXPECT_EQ(update("one").status, 200);
  EXPECT_EQ(post("/finish_weight_update", R"({"weight_version":1})").status, 400);
  EXPECT_THAT(engine_.calls(), IsEmpty());
  EXPECT_EQ(version(), "default");
  EXPECT_EQ(post("/finish_weight_update", R"({"weight_version":"v"})").status, 200);
  EXPECT_EQ(post("/finish_weight_update", R"({"weight_version":"w"})").code(), "no-update");
  EXPECT_EQ(version(), "v");
}

TEST_F(ControlRoutesTest, AFolderThatDoesNotFitClosesTheUpdate) {
  const std::pair<std::string, std::pair<int, std::string>> cases[] = {
      {R"({"path":"/weights/other"})", {400, "shape-mismatch"}},
      {R"({"path":"/weights/none"})", {400, "io"}},
      {R"({"path":"/weights/changed","digest":"66"})", {409, "digest-mismatch"}},
      {R"({"path":"/weights/one","digest":"66"})", {409, "digest-mismatch"}},
      {R"({"path":"weights/one"})", {400, "bad-request"}},
      {R"({"path":"","digest":""})", {400, "bad-request"}},
      {R"({"path":1})", {400, "bad-request"}},
      {R"({"names":["a"],"shapes":[[1]]})", {400, "bad-request"}},
      {R"({"path":"/weights/one","packed":true})", {400, "bad-request"}},
      {R"([])", {400, "bad-request"}},
      {R"([{"path":"/weights/one"},{"path":"/weights/one"}])", {400, "bad-request"}},
      {R"(null)", {400, "bad-request"}}};
  for (const auto& [info, expected] : cases) {
    EXPECT_EQ(post("/start_weight_update").status, 200) << info;
    const Answer answer = post("/update_weights", "{\"update_info\":" + info + "}");
    EXPECT_EQ(answer.status, expected.first) << info;
    EXPECT_EQ(answer.code(), expected.second) << info;
    EXPECT_FALSE(answer.message().empty());
    EXPECT_EQ(post("/finish_weight_update").code(), "no-update") << info;
  }
  EXPECT_THAT(engine_.calls(), IsEmpty());
}

TEST_F(ControlRoutesTest, ATrainerThatDiedLeavesNothingInTheWay) {
  post("/start_weight_update");
  update("one");
  EXPECT_EQ(init().status, 200);
  EXPECT_EQ(releases_, 1);
  EXPECT_EQ(post("/shutdown_weight_transfer_engine").status, 200);
  EXPECT_EQ(releases_, 2);
  EXPECT_EQ(post("/finish_weight_update").code(), "no-update");
  EXPECT_EQ(post("/start_weight_update").status, 200);
  EXPECT_EQ(post("/finish_weight_update").code(), "nothing-staged");
}

TEST_F(ControlRoutesTest, WeightsComeBySharedMemory) {
  const auto offer = [this](const Json& info) {
    post("/start_weight_update");
    return post("/update_weights", dump_json({{"update_info", info}}));
  };
  const Json block{{"transport", "shm"}, {"name", "b"}, {"bytes", 12}};
  EXPECT_EQ(offer(block).status, 200);
  EXPECT_EQ(post("/finish_weight_update").json.at("weight_version"), "d-block");
  EXPECT_THAT(engine_.calls(), ElementsAre("swap b of 12 as d-block"));
  const auto changed = [&](const char* name, const Json& value) {
    Json other = block;
    if (value.is_null())
      other.erase(name);
    else
      other[name] = value;
    return other;
  };
  for (const Json& bad : {changed("transport", "tcp"), changed("transport", 1),
                          changed("name", nullptr), changed("name", ""), changed("bytes", 0),
                          changed("bytes", nullptr), changed("bytes", "12"), changed("path", "/a")})
    EXPECT_EQ(offer(bad).status, 400) << dump_json(bad);
  const Answer other = offer(changed("digest", "d-other"));
  EXPECT_EQ(other.status, 409);
  EXPECT_THAT(other.message(), HasSubstr("b: expected tensors of digest d-other, got d-block"));
  EXPECT_EQ(version(), "d-block");
}

TEST_F(ControlRoutesTest, OtherBackendsAreRefusedByName) {
  const Answer answer = post("/init_weight_transfer_engine", R"({"init_info":{"backend":"nccl"}})");
  EXPECT_EQ(answer.status, 400);
  EXPECT_EQ(answer.code(), "unknown-backend");
  EXPECT_THAT(answer.message(), HasSubstr("expected lockstep, or directory"));
  EXPECT_THAT(answer.message(), HasSubstr("nccl"));
  const Answer trl = post("/init_weight_transfer_engine",
                          R"({"init_info":{"master_address":"h","master_port":51216}})");
  EXPECT_EQ(trl.status, 400);
  EXPECT_THAT(trl.message(), HasSubstr("master_address"));
  for (const char* body : {"", "{}", R"({"init_info":1})", R"({"init_info":{"backend":1}})"})
    EXPECT_EQ(post("/init_weight_transfer_engine", body).status, 400) << body;
  EXPECT_EQ(post("/init_weight_transfer_engine", R"({"init_info":{}})").status, 200);
}

TEST_F(ControlRoutesTest, ASwapThatFailsLeavesTheOldWeights) {
  engine_.fails_swap = true;
  post("/start_weight_update");
  update("one");
  const Answer answer = post("/finish_weight_update", R"({"weight_version":"v"})");
  EXPECT_EQ(answer.status, 500);
  EXPECT_EQ(answer.code(), "swap-failed");
  EXPECT_THAT(answer.message(), HasSubstr("out of memory"));
  EXPECT_EQ(version(), "default");
  engine_.fails_swap = false;
  post("/start_weight_update");
  update("two");
  EXPECT_EQ(post("/finish_weight_update", R"({"weight_version":"v"})").status, 200);
}

TEST_F(ControlRoutesTest, AFolderThatTakesTooLongIsGivenUp) {
  start({.load_timeout = 100ms});
  post("/start_weight_update");
  const Answer late = update("slow");
  EXPECT_EQ(late.status, 504);
  EXPECT_EQ(late.code(), "deadline");
  EXPECT_EQ(get("/health").status, 200);
  EXPECT_EQ(post("/start_weight_update").status, 200);
  EXPECT_EQ(update("one").code(), "still-loading");
  let_go_.set_value();
  let_go_ = {};
  Answer answer;
  for (int i = 0; i < 1'000 && answer.status != 200; ++i) {
    post("/start_weight_update");
    answer = update("one");
  }
  EXPECT_EQ(answer.status, 200);
  EXPECT_THAT(engine_.calls(), IsEmpty());
}

TEST_F(ControlRoutesTest, ASwapThatComesLateIsToldOf) {
  start({.swap_timeout = 50ms});
  engine_.holds_swap = true;
  post("/start_weight_update");
  update("one");
  const Answer answer = post("/finish_weight_update", R"({"weight_version":"v"})");
  EXPECT_EQ(answer.status, 504);
  EXPECT_EQ(post("/start_weight_update").status, 409);
  engine_.end_swap();
  EXPECT_EQ(post("/start_weight_update").status, 200);
  EXPECT_EQ(post("/weight_checker", R"({"action":"checksum"})")
                .json.at("checksums")
                .at("dp0:pp0:pcp0:tp0:a"),
            "1");
}

TEST_F(ControlRoutesTest, AFolderThatIsReadHoldsUpNobody) {
  post("/start_weight_update");
  RawClient slow(server_->port());
  slow.send(raw_request("POST", "/update_weights", R"({"update_info":{"path":"/weights/slow"}})"));
  EXPECT_TRUE(slow.is_quiet(50));
  EXPECT_EQ(get("/health").status, 200);
  EXPECT_EQ(get("/weight_info").status, 200);
  EXPECT_EQ(post("/pause").status, 200);
  let_go_.set_value();
  let_go_ = {};
  EXPECT_EQ(slow.read_answer()->status, 200);
}

TEST_F(ControlRoutesTest, ChecksumsFollowTheWeights) {
  const Json before = post("/weight_checker", R"({"action":"checksum"})").json.at("checksums");
  EXPECT_EQ(before, Json({{"dp0:pp0:pcp0:tp0:a", "0"}, {"dp0:pp0:pcp0:tp0:b", "0"}}));
  const auto compare = [&](Json baseline) {
    return post("/weight_checker",
                dump_json({{"action", "compare"}, {"baseline", std::move(baseline)}}))
        .json;
  };
  EXPECT_EQ(compare(before), Json({{"match", true}, {"mismatches", Json::array()}}));
  post("/start_weight_update");
  update("one");
  EXPECT_EQ(compare(before).at("match"), true);
  post("/finish_weight_update");
  EXPECT_EQ(compare(before).at("mismatches"), Json::array({"dp0:pp0:pcp0:tp0:a"}));
  Json more = before;
  more["dp0:pp0:pcp0:tp0:c"] = "9";
  EXPECT_EQ(compare(more).at("mismatches"),
            Json::array({"dp0:pp0:pcp0:tp0:a", "dp0:pp0:pcp0:tp0:c"}));
  const Answer reset = post("/weight_checker", R"({"action":"reset"})");
  EXPECT_EQ(reset.status, 400);
  EXPECT_THAT(reset.message(), HasSubstr("zeros"));
  for (const char* body : {"", "{}", R"({"action":"melt"})", R"({"action":"compare"})",
                           R"({"action":1})", R"({"action":"compare","baseline":[]})"})
    EXPECT_EQ(post("/weight_checker", body).status, 400) << body;
}

TEST_F(ControlRoutesTest, AVersionIsALabelThatCanBeSet) {
  const Answer answer = post("/update_weight_version", R"({"new_version":"renamed"})");
  EXPECT_EQ(answer.json, Json({{"success", true}, {"new_version", "renamed"}}));
  EXPECT_EQ(version(), "renamed");
  EXPECT_EQ(post("/update_weight_version", R"({"new_version":1})").status, 400);
  EXPECT_EQ(post("/update_weight_version", "{}").status, 400);
  EXPECT_EQ(post("/reset_prefix_cache/").json, Json({{"success", true}}));
  EXPECT_THAT(engine_.calls(), ElementsAre("reset cache"));
}

}  // namespace
}  // namespace lockstep::serve
