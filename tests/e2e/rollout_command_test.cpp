// lockstep rollout as a user runs it: started, asked, given other weights, and stopped.
// SPDX-License-Identifier: Apache-2.0
#include <csignal>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/e2e/rollout_process.h"

namespace lockstep::testing {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

/// A request that streams for as long as it is let.
std::string long_stream() {
  return raw_request(
      "POST", "/v1/completions",
      dump_json(
          {{"prompt", {5, 6, 7}}, {"max_tokens", 200}, {"ignore_eos", true}, {"stream", true}}));
}

TEST(RolloutCommand, AServerAnswersAndStopsWhenItIsTold) {
  const TempDir folder;
  const std::string model = new_model(folder, "model", {"--like", "qwen3_5"});
  for (const auto& [signal, code] : {std::pair(SIGTERM, 143), std::pair(SIGINT, 130)}) {
    Rollout server(model, {"--served_model_name", "tiny"});
    EXPECT_EQ(server.ask("GET", "/health").status, 200);
    EXPECT_EQ(server.ask("GET", "/v1/models").json["data"][0]["id"], "tiny");
    EXPECT_EQ(server.complete().size(), 12u);
    EXPECT_EQ(server.complete(), server.complete());
    const Answer swift = server.post(
        "/infer/", {{"infer_requests", Json::array({{{"messages", chat_row("2+3=")["messages"]}}})},
                    {"request_config", {{"max_tokens", 3}}}});
    EXPECT_EQ(swift.status, 200) << dump_json(swift.json);
    EXPECT_EQ(swift.json[0]["response"]["object"], "chat.completion");
    // A stream that runs is finished first.
    RawClient client(server.port());
    client.send(long_stream());
    std::string seen = client.read_some(1 << 16);
    ASSERT_THAT(seen, HasSubstr("200 OK"));
    server.program().send(signal);
    for (std::string piece; !(piece = client.read_some(1 << 16)).empty();) seen += piece;
    EXPECT_THAT(seen, HasSubstr("data: [DONE]\n\n\r\n0\r\n\r\n"));
    const ProgramResult result = server.program().wait();
    EXPECT_EQ(result.exit_code, code) << result.err;
    EXPECT_THAT(result.err, Not(HasSubstr("cut off")));
    EXPECT_THAT(result.err, HasSubstr("error[interrupted]: rollout: stopped by SIG"));
  }
}

TEST(RolloutCommand, RequestsThatTakeTooLongAreCutOffAtTheEnd) {
  const TempDir folder;
  const std::string model = new_model(folder, "model", {"--like", "qwen3"});
  Rollout server(model, {"--shutdown_timeout", "0.3"});
  EXPECT_EQ(server.post("/pause?mode=keep").status, 200);
  RawClient client(server.port());
  client.send(long_stream());
  EXPECT_TRUE(wait_until(server.program(),
                         [&] { return server.metric("vllm:num_requests_waiting") == "1"; }));
  server.program().send(SIGTERM);
  const ProgramResult result = server.program().wait();
  EXPECT_EQ(result.exit_code, 143) << result.err;
  EXPECT_THAT(result.err, HasSubstr("cut off"));
  EXPECT_TRUE(client.is_closed_by_server());
}

TEST(RolloutCommand, AClientThatLeavesFreesItsPages) {
  const TempDir folder;
  const std::string model = new_model(folder, "model", {"--like", "qwen3_5"});
  Rollout server(model);
  EXPECT_EQ(server.post("/pause?mode=keep").status, 200);
  {
    RawClient client(server.port());
    client.send(long_stream());
    EXPECT_TRUE(wait_until(server.program(),
                           [&] { return server.metric("vllm:num_requests_waiting") == "1"; }));
  }
  EXPECT_TRUE(wait_until(server.program(),
                         [&] { return server.metric("vllm:num_requests_waiting") == "0"; }));
  EXPECT_EQ(server.post("/resume").status, 200);
  EXPECT_EQ(server.complete().size(), 12u);
}

TEST(RolloutCommand, TheKeyComesFromTheFlagOrTheEnvironment) {
  const TempDir folder;
  const std::string model = new_model(folder, "model", {"--like", "qwen3"});
  const std::string key = "Authorization: Bearer secret\r\n";
  for (const bool is_flag : {true, false}) {
    Rollout server(
        model, is_flag ? Arguments{"--api_key", "secret"} : Arguments{},
        is_flag ? ProgramWorld{} : ProgramWorld{.variables = {{"LOCKSTEP_API_KEY", "secret"}}});
    EXPECT_EQ(server.ask("GET", "/health").status, 200);
    for (const char* path : {"/v1/models", "/metrics", "/weight_info", "/nothing"})
      EXPECT_EQ(server.ask("GET", path).status, 401) << path;
    EXPECT_EQ(server.ask("GET", "/v1/models", {}, key).status, 200);
    EXPECT_EQ(server.ask("GET", "/nothing", {}, key).status, 404);
  }
}

TEST(RolloutCommand, WhatIsWrongIsSaidBeforeTheModelIsLoaded) {
  const TempDir folder;
  const std::string model = new_model(folder, "model", {"--like", "qwen3"});
  const Rollout first(model);
  const auto refused = [&](const Arguments& more) {
    const ProgramResult result = run_program(Arguments{"rollout", "--model", model} + more);
    EXPECT_EQ(result.exit_code, 2) << result.err;
    EXPECT_THAT(result.err, Not(HasSubstr("M parameters")));
    return result.err;
  };
  EXPECT_THAT(refused({"--port", std::to_string(first.port())}),
              HasSubstr("error[address-in-use]: 127.0.0.1:" + std::to_string(first.port())));
  EXPECT_THAT(refused({"--port", "0", "--host", "no-such-host.invalid"}),
              HasSubstr("error[bad-address]"));
  EXPECT_THAT(refused({"--port", "70000"}), HasSubstr("--port"));
  for (const auto& [adapters, words] :
       {std::pair<Arguments, const char*>{{"/some/where"}, "NAME=PATH, got no name (/some/where)"},
        {{"a="}, "got no path (a=)"},
        {{"=/some/where"}, "got an empty one"},
        {{"model=/some/where"}, "expected another name than the model's, got model"},
        {{"a=x", "b=y", "a=z"}, "expected each name once, got a twice (a=z)"}})
    EXPECT_THAT(refused(Arguments{"--adapters"} + adapters),
                AllOf(HasSubstr("error[bad-flag]: --adapters"), HasSubstr(words)));
  EXPECT_THAT(refused({"--api_key", "a b"}), HasSubstr("error[bad-api-key]: --api_key"));
  EXPECT_THAT(refused({"--served_model_name", ""}), HasSubstr("--served_model_name"));
}

TEST(RolloutCommand, ServingOthersWithoutAKeyIsSaidLoudly) {
  const TempDir folder;
  const std::string nothing = (folder / "nothing").string();
  const auto said = [&](const Arguments& more) {
    return run_program(Arguments{"rollout", "--model", nothing, "--port", "0"} + more).err;
  };
  EXPECT_THAT(said({"--host", "0.0.0.0"}), HasSubstr("OTHER MACHINES"));
  EXPECT_THAT(said({"--host", "0.0.0.0", "--api_key", "k"}), Not(HasSubstr("OTHER MACHINES")));
  EXPECT_THAT(said({}), Not(HasSubstr("OTHER MACHINES")));
}

TEST(RolloutCommand, OtherWeightsComeFromAFolderWholeOrNotAtAll) {
  const TempDir folder;
  const Arguments form{"--like", "qwen3_5"};
  const std::string a = new_model(folder, "a", form + Arguments{"--seed", "1"});
  const std::string b = new_model(folder, "b", form + Arguments{"--seed", "2"});
  const std::string other = new_model(folder, "other", {"--like", "qwen3"});
  const Json of_b = Rollout(b).complete();
  Rollout server(a);
  const Json of_a = server.complete();
  ASSERT_NE(of_a, of_b);
  const auto update = [&](const std::string& path, const std::string& digest = "") {
    EXPECT_EQ(server.post("/start_weight_update").status, 200);
    return server.post("/update_weights", {{"update_info", {{"path", path}, {"digest", digest}}}});
  };
  EXPECT_EQ(server.post("/init_weight_transfer_engine", {{"init_info", {{"backend", "directory"}}}})
                .status,
            200);
  for (const auto& [path, digest] :
       {std::pair(other, std::string()), std::pair(b, std::string(32, '0')),
        std::pair((folder / "none").string(), std::string())}) {
    const Answer answer = update(path, digest);
    EXPECT_EQ(answer.status / 100, 4) << path << dump_json(answer.json);
    EXPECT_EQ(server.complete(), of_a);
  }
  EXPECT_EQ(server.version(), "default");
  const Json checksums = server.post("/weight_checker", {{"action", "checksum"}}).json["checksums"];
  EXPECT_GT(checksums.size(), 10u);
  EXPECT_EQ(update(b).status, 200);
  EXPECT_EQ(server.complete(), of_a);
  EXPECT_EQ(server.post("/finish_weight_update", {{"weight_version", "step-2"}}).status, 200);
  EXPECT_EQ(server.complete(), of_b);
  EXPECT_EQ(server.version(), "step-2");
  EXPECT_EQ(server.post("/weight_checker", {{"action", "compare"}, {"baseline", checksums}})
                .json["match"],
            false);
  EXPECT_EQ(update(a).status, 200);
  server.post("/finish_weight_update");
  EXPECT_EQ(server.complete(), of_a);
  EXPECT_EQ(server.version().size(), 32u);
}

}  // namespace
}  // namespace lockstep::testing
