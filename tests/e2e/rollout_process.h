// lockstep rollout as a process, for tests: started, and asked over HTTP.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <stdexcept>
#include <string>
#include <string_view>

#include <gtest/gtest.h>

#include "tests/e2e/program_files.h"
#include "tests/serve/raw_client.h"

namespace lockstep::testing {

struct Answer {
  int status = 0;
  Json json;
};

/// A server that is ready, or the test fails.
class Rollout {
 public:
  explicit Rollout(const std::string& model,
                   const Arguments& more = {},
                   const ProgramWorld& world = {})
      : program_(
            Arguments{"rollout", "--model", model, "--port", "0", "--cache_memory", "0.1"} + more,
            world) {
    constexpr std::string_view kReady = "ready at http://127.0.0.1:";
    const bool is_ready =
        wait_until(program_, [&] { return program_.err().find(kReady) != std::string::npos; });
    if (!is_ready) throw std::runtime_error("the server did not start: " + program_.err());
    const std::string err = program_.err();
    port_ = static_cast<uint16_t>(std::stoi(err.substr(err.find(kReady) + kReady.size())));
  }

  RunningProgram& program() { return program_; }
  uint16_t port() const { return port_; }
  Answer ask(std::string_view method,
             std::string_view path,
             const Json& body = {},
             std::string_view headers = "") {
    RawClient client(port_);
    client.send(raw_request(method, path, body.is_null() ? "" : dump_json(body), headers));
    const auto answer = client.read_answer();
    if (!answer) return {};
    return {answer->status, parse_json(answer->body, "answer")};
  }
  Answer post(std::string_view path, const Json& body = {}) { return ask("POST", path, body); }
  /// The log-probabilities of a completion's tokens: they tell one model from another.
  Json complete() {
    const Answer answer = post("/v1/completions", {{"prompt", {5, 6, 7, 8}},
                                                   {"max_tokens", 12},
                                                   {"seed", 3},
                                                   {"ignore_eos", true},
                                                   {"logprobs", 0}});
    EXPECT_EQ(answer.status, 200) << dump_json(answer.json);
    return answer.status == 200 ? answer.json["choices"][0]["logprobs"]["token_logprobs"] : Json();
  }
  std::string version() { return ask("GET", "/weight_info").json.at("weight_version"); }
  /// A line of /metrics.
  std::string metric(std::string_view name) {
    RawClient client(port_);
    client.send(raw_request("GET", "/metrics"));
    const auto answer = client.read_answer();
    const std::string text = "\n" + (answer ? answer->body : "");
    const size_t start = text.find("\n" + std::string(name) + "{");
    if (start == std::string::npos) return "";
    const std::string line = text.substr(start + 1, text.find('\n', start + 1) - start - 1);
    return line.substr(line.rfind(' ') + 1);
  }

 private:
  RunningProgram program_;
  uint16_t port_ = 0;
};

}  // namespace lockstep::testing
