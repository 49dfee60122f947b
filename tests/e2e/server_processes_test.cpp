// grpo against `lockstep rollout` servers: the bytes of a colocated run.
// SPDX-License-Identifier: Apache-2.0
#include <chrono>
#include <csignal>
#include <optional>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "net/http_client.h"
#include "tests/e2e/program_files.h"

namespace lockstep::testing {
namespace {

namespace fs = std::filesystem;
using std::chrono::milliseconds;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

/// A server that is ready, or the test fails.
class ServerProcess {
 public:
  explicit ServerProcess(const fs::path& model,
                         const Arguments& more = {},
                         const std::string& port = "0")
      : program_(Arguments{"rollout", "--model", model.string(), "--port", port, "--cache_memory",
                           "0.1", "--threads", "1"} +
                 more) {
    constexpr std::string_view kReady = "ready at ";
    const bool is_ready =
        wait_until(program_, [&] { return program_.err().find(kReady) != std::string::npos; });
    if (!is_ready) throw std::runtime_error("the server did not start: " + program_.err());
    const std::string err = program_.err();
    const size_t begin = err.find(kReady) + kReady.size();
    url_ = err.substr(begin, err.find(',', begin) - begin);
  }

  const std::string& url() const { return url_; }
  /// What requests may name.
  std::vector<std::string> models() const {
    const Json list = net::HttpClient(url_, "").get_json("/v1/models", milliseconds(5000));
    std::vector<std::string> names;
    for (const Json& one : list["data"]) names.push_back(one["id"]);
    return names;
  }
  std::string port() const { return url_.substr(url_.rfind(':') + 1); }
  RunningProgram& program() { return program_; }
  /// Whether it samples something now.
  bool is_running_requests() const {
    const auto answer = net::HttpClient(url_, "").get("/metrics", milliseconds(5000));
    const size_t at = answer.body.find("\nvllm:num_requests_running");
    if (at == std::string::npos) return false;
    const std::string line = answer.body.substr(at + 1, answer.body.find('\n', at + 1) - at - 1);
    return std::stod(line.substr(line.rfind(' ') + 1)) > 0;
  }

 private:
  RunningProgram program_;
  std::string url_;
};

class ServerProcesses : public ::testing::Test {
 protected:
  ServerProcesses() {
    new_model(folder_, "model", {"--like", "qwen3_5"});
    write_rows(folder_, "rows.jsonl", sum_rows(12));
  }

  Arguments command(const std::string& output, const Arguments& more) const {
    return Arguments{"grpo",
                     "--model",
                     (folder_ / "model").string(),
                     "--tuner_type",
                     "full",
                     "--dataset",
                     (folder_ / "rows.jsonl").string(),
                     "--output_dir",
                     (folder_ / output).string(),
                     "--learning_rate",
                     "1e-3",
                     "--reward_funcs",
                     "soft_overlong",
                     "--soft_max_length",
                     "12",
                     "--soft_cache_length",
                     "11",
                     "--num_generations",
                     "4",
                     "--per_device_train_batch_size",
                     "8",
                     "--logging_steps",
                     "1",
                     "--threads",
                     "1",
                     "--rollout_timeout",
                     "120"} +
           more;
  }
  template <class... Servers>
  static Arguments served(const Servers&... servers) {
    return {"--rollout_mode", "server", "--rollout_server", servers.url()...};
  }
  void expect_same_run(const std::string& found, const std::string& expected) const {
    const bool has_adapter = fs::exists(folder_ / expected / "last/adapter_config.json");
    for (const char* file :
         {"completions.jsonl",
          has_adapter ? "last/adapter_model.safetensors" : "last/model.safetensors",
          "last/training_state/optimizer.safetensors"}) {
      EXPECT_TRUE(slurp(folder_ / found / file) == slurp(folder_ / expected / file)) << file;
      EXPECT_GT(slurp(folder_ / expected / file).size(), 1000u) << file;
    }
  }

  /// Flags of a run that trains an adapter.
  static Arguments adapted(const Arguments& more) {
    return Arguments{"--tuner_type",
                     "lora",
                     "--learning_rate",
                     "3e-2",
                     "--max_completion_length",
                     "12",
                     "--stop_words",
                     "e",
                     "a"} +
           more;
  }

  /// Expects the bytes of a colocated run from one whose server is killed in its second step;
  /// returns what it said.
  std::string lose_a_server(const Arguments& flags) {
    run_well(command("colocate", flags));
    ServerProcess first(folder_ / "model"), second(folder_ / "model");
    RunningProgram training(command("killed", flags + served(first, second)));
    const fs::path completions = folder_ / "killed" / "completions.jsonl";
    EXPECT_TRUE(wait_until(training, [&] {
      return fs::exists(completions) && count_lines(completions) && first.is_running_requests();
    }));
    first.program().send(SIGKILL);
    const ProgramResult result = training.wait();
    EXPECT_EQ(result.exit_code, 0) << result.err;
    EXPECT_THAT(result.err, HasSubstr("server " + first.url() + " is lost"));
    expect_same_run("killed", "colocate");
    return result.err;
  }

  TempDir folder_;
};

// Completions of servers reach rewards in other processes as those of colocate mode do.
// A judge may be a server of our own. This one knows no numbers.
TEST_F(ServerProcesses, JudgesTheCompletionsOfATraining) {
  const ServerProcess server(folder_ / "model");
  run_well(command("run", {"--max_steps", "1", "--max_completion_length", "12", "--reward_model",
                           "judge=" + server.url() + "/v1", "--judge_max_tokens", "4"}));
  const Json row = read_rows(folder_ / "run/logging.jsonl")[0];
  EXPECT_EQ(row["rewards/judge/mean"], 0);
  EXPECT_EQ(row["rewards/judge/failures"], 0);
}

/// What a server's routers chose is replayed as what the sampler of a colocated run chose is. Only
/// the sampler can say it of a batch that was sampled ahead.
TEST_F(ServerProcesses, ExpertsOfAServerAreReplayed) {
  const std::string model = new_model(folder_, "experts", {"--like", "qwen3_moe"});
  for (const bool with_weights : {false, true}) {
    const Arguments replay = {"--model",
                              model,
                              "--max_steps",
                              "5",
                              "--num_iterations",
                              "2",
                              "--max_completion_length",
                              "12",
                              "--learning_rate",
                              "1e-2",
                              "--router_replay_mode",
                              "R3",
                              "--router_replay_weights",
                              with_weights ? "true" : "false"};
    const std::string colocate = with_weights ? "colocate weights" : "colocate",
                      remote = with_weights ? "served weights" : "served";
    run_well(command(colocate, replay));
    const ServerProcess server(model);
    run_well(command(remote, replay + served(server)));
    expect_same_run(remote, colocate);
    if (with_weights) continue;
    const fs::path ahead = folder_ / "ahead";
    run_well(command("ahead", replay + served(server) + Arguments{"--async_generate", "true"}));
    double changed = 0;
    for (const Json& row : read_rows(ahead / "logging.jsonl"))
      if (row.contains("router_replay/changed_ratio"))
        changed += row["router_replay/changed_ratio"].get<double>();
    EXPECT_GT(changed, 0);
  }
  // A dense model has none to tell.
  const ServerProcess dense(folder_ / "model");
  const net::HttpAnswer answer =
      net::HttpClient(dense.url(), "")
          .post("/v1/completions",
                R"({"prompt": [1, 2], "max_tokens": 2, "lockstep": {"routed_experts": true}})",
                milliseconds(5000));
  EXPECT_EQ(answer.status, 400);
  EXPECT_THAT(answer.body, HasSubstr("the model has no experts"));
}

TEST_F(ServerProcesses, RewardsOfTheUsersOwnGiveTheSameRun) {
  const std::string file = folder_
                               .write("size.py",
                                      "import json, sys\n"
                                      "for line in sys.stdin:\n"
                                      "    row = json.loads(line)\n"
                                      "    print(len(row['token_ids']) + len(row['completion']) +"
                                      " row['step'], flush=True)\n")
                               .string();
  const Arguments own = {"--max_steps",
                         "2",
                         "--max_completion_length",
                         "12",
                         "--stop_words",
                         "e",
                         "a",
                         "--reward_funcs",
                         "soft_overlong",
                         "program:python3 " + file};
  const ServerProcess server(folder_ / "model");
  run_well(command("served", own + served(server)));
  run_well(command("colocated", own));
  expect_same_run("served", "colocated");
  EXPECT_TRUE(read_rows(folder_ / "served/completions.jsonl")[0]["size"][0].is_number());
}

TEST_F(ServerProcesses, OneOrTwoGiveTheBytesOfAColocatedRun) {
  for (const char* dtype : {"float32", "bfloat16"}) {
    const Arguments precision = {"--torch_dtype", dtype};
    const Arguments flags =
        Arguments{"--max_steps", "4", "--max_completion_length", "12", "--stop_words", "e", "a"} +
        precision +
        // Servers say what tokens were drawn with, where that is another distribution.
        (dtype == std::string("float32")
             ? Arguments{"--top_p", "0.8", "--rollout_importance_sampling_mode", "token_truncate"}
             : Arguments{});
    const std::string name = dtype;
    run_well(command(name, flags));
    const ServerProcess first(folder_ / "model", precision), second(folder_ / "model", precision);
    run_well(command(name + "-one", flags + served(first)));
    expect_same_run(name + "-one", name);
    // Runs one after another may use the same servers.
    run_well(command(name + "-two", flags + served(first, second)));
    expect_same_run(name + "-two", name);
  }
}

/// What a run logs under a key, of each step that has it.
std::vector<double> logged(const fs::path& run, const char* key) {
  std::vector<double> values;
  for (const Json& row : read_rows(run / "logging.jsonl"))
    if (row.contains(key)) values.push_back(row[key].get<double>());
  return values;
}

TEST_F(ServerProcesses, WeightsOverTcpGiveTheSameBytesAndDeltasAreSmaller) {
  const Arguments precision = {"--torch_dtype", "bfloat16"};
  // Most elements of bfloat16 weights stay as they are at this learning rate.
  const Arguments flags =
      Arguments{"--max_steps", "4", "--max_completion_length", "12",  "--stop_words",
                "e",           "a", "--learning_rate",         "1e-5"} +
      precision;
  run_well(command("colocate", flags));
  const ServerProcess first(folder_ / "model", precision), second(folder_ / "model", precision);
  const Arguments tcp = Arguments{"--sync_transport", "tcp"} + served(first, second);
  run_well(command("full", flags + tcp));
  expect_same_run("full", "colocate");
  run_well(command("delta", flags + tcp + Arguments{"--sync_mode", "delta"}));
  expect_same_run("delta", "colocate");
  const auto full = logged(folder_ / "full", "sync/bytes"),
             delta = logged(folder_ / "delta", "sync/bytes"),
             sparsity = logged(folder_ / "delta", "sync/sparsity");
  ASSERT_EQ(full.size(), 4u);
  ASSERT_EQ(delta.size(), 4u);
  ASSERT_EQ(sparsity.size(), 3u);
  EXPECT_EQ(delta[0], full[0]);
  for (size_t step = 1; step < 4; ++step) {
    EXPECT_LT(delta[step], full[step] / 2);
    EXPECT_GT(sparsity[step - 1], 0.5);
    EXPECT_LT(sparsity[step - 1], 1);
  }
}

TEST_F(ServerProcesses, OneThatIsKilledAndStartedAgainTakesWholeWeightsAndChangesNoByte) {
  const Arguments flags = {"--max_steps", "6", "--max_completion_length", "150"};
  run_well(command("colocate", flags));
  ServerProcess first(folder_ / "model");
  std::optional<ServerProcess> second(std::in_place, folder_ / "model");
  const std::string port = second->port();
  RunningProgram training(
      command("again", flags + served(first, *second) +
                           Arguments{"--sync_transport", "tcp", "--sync_mode", "delta"}));
  const fs::path completions = folder_ / "again" / "completions.jsonl";
  EXPECT_TRUE(wait_until(training, [&] {
    return fs::exists(completions) && count_lines(completions) && second->is_running_requests();
  }));
  second->program().send(SIGKILL);
  second.reset();
  second.emplace(folder_ / "model", Arguments{}, port);
  const ProgramResult result = training.wait();
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_THAT(result.err, HasSubstr("server " + second->url() + " is lost"));
  EXPECT_THAT(result.err, HasSubstr("server " + second->url() + ": it is back"));
  expect_same_run("again", "colocate");
}

TEST_F(ServerProcesses, OneThatIsKilledInTheMiddleOfAStepChangesNoByte) {
  EXPECT_THAT(lose_a_server({"--max_steps", "3", "--max_completion_length", "150"}),
              HasSubstr("are sampled again elsewhere"));
}

TEST_F(ServerProcesses, AnAsynchronousRunThatIsKilledEndsWithTheBytesOfAWholeOne) {
  const Arguments flags = {"--max_steps",
                           "5",
                           "--max_completion_length",
                           "12",
                           "--stop_words",
                           "e",
                           "a",
                           "--async_generate",
                           "true",
                           "--save_steps",
                           "1"};
  ServerProcess one(folder_ / "model");
  run_well(command("whole", flags + served(one)));
  const Arguments resumed =
      command("broken", flags + served(one)) + Arguments{"--resume_from_checkpoint", "last"};
  {
    RunningProgram training(resumed);
    wait_until(training, [&] { return fs::exists(folder_ / "broken" / "checkpoint-2"); });
    training.send(SIGKILL);
    training.wait();
  }
  run_well(resumed);
  expect_same_run("broken", "whole");
  EXPECT_THAT(temporaries_in(folder_ / "broken"), IsEmpty());
  EXPECT_FALSE(fs::exists(folder_ / "broken" / "sync"));
}

TEST_F(ServerProcesses, AnAdapterIsSentAloneAndEndsInTheBytesOfAColocatedRun) {
  for (const char* dtype : {"float32", "bfloat16"})
    for (const char* like : {"qwen3_5", "qwen3_moe"}) {
      const std::string name = std::string(like) + dtype;
      const std::string model =
          new_model(folder_, "model-" + name, {"--like", like, "--torch_dtype", dtype});
      Arguments flags = adapted({"--max_steps", "4", "--model", model, "--beta", "0.1"});
      flags =
          flags + (std::string(like).ends_with("moe")
                       ? Arguments{"--lora_experts", "true"}
                       : Arguments{"--target_modules", "all-linear", "embed_tokens", "lm_head"});
      run_well(command(name, flags));
      const ServerProcess first(model), second(model);
      run_well(command(name + "-one", flags + served(first)));
      expect_same_run(name + "-one", name);
      const bool is_over_tcp = std::string(dtype) == "float32";
      const Arguments transport = {"--sync_transport", is_over_tcp ? "tcp" : "directory"};
      run_well(command(name + "-two", flags + transport + served(first, second)));
      expect_same_run(name + "-two", name);
      EXPECT_EQ(logged(folder_ / (name + "-two"), "sync/bytes").size(), is_over_tcp ? 4u : 0u);
      // Nothing of the runs is left there, nor on the disk.
      for (const ServerProcess* server : {&first, &second})
        EXPECT_THAT(server->models(), ElementsAre(model));
      EXPECT_FALSE(fs::exists(folder_ / (name + "-two") / "sync"));
    }
}

TEST_F(ServerProcesses, AKilledServerChangesNoByteOfAnAdapter) {
  lose_a_server(
      adapted({"--max_steps", "3", "--max_completion_length", "150", "--stop_words", "zzz"}));
}

TEST_F(ServerProcesses, ATrainingOfAnAdapterThatIsKilledLeavesNothingForTheNext) {
  const Arguments flags =
      adapted({"--max_steps", "5", "--async_generate", "true", "--save_steps", "1"});
  const ServerProcess one(folder_ / "model");
  run_well(command("whole", flags + served(one)));
  const Arguments resumed =
      command("broken", flags + served(one)) + Arguments{"--resume_from_checkpoint", "last"};
  {
    RunningProgram training(resumed);
    wait_until(training, [&] { return fs::exists(folder_ / "broken" / "checkpoint-2"); });
    training.send(SIGKILL);
    training.wait();
  }
  // Two adapters, if it died between the coming of one and the going of the other.
  EXPECT_GE(one.models().size(), 2u);
  run_well(resumed);
  expect_same_run("broken", "whole");
  EXPECT_EQ(one.models().size(), 1u);
}

TEST_F(ServerProcesses, AServerOfOtherWeightsIsRefusedForAnAdapter) {
  const std::string other = new_model(folder_, "other", {"--like", "qwen3_5", "--seed", "7"});
  const ServerProcess server(other);
  const ProgramResult result =
      run_program(command("refused", adapted({"--max_steps", "1"}) + served(server)));
  EXPECT_EQ(result.exit_code, 2) << result.err;
  EXPECT_THAT(result.err, HasSubstr("error[wrong-server]: " + server.url()));
  EXPECT_THAT(result.err, HasSubstr("expected the weights beside which the adapter is trained"));
  EXPECT_FALSE(fs::exists(folder_ / "refused"));
}

TEST_F(ServerProcesses, AServerOfAnotherModelOrPrecisionIsRefused) {
  const Arguments flags = {"--max_steps", "1", "--max_completion_length", "4"};
  const auto expect_refusal = [&](const ServerProcess& server, const char* words) {
    const ProgramResult result = run_program(command("refused", flags + served(server)));
    EXPECT_EQ(result.exit_code, 2) << result.err;
    EXPECT_THAT(result.err, HasSubstr("error[wrong-server]: " + server.url()));
    EXPECT_THAT(result.err, HasSubstr(words));
    EXPECT_FALSE(fs::exists(folder_ / "refused"));
  };
  new_model(folder_, "other", {"--like", "qwen3"});
  expect_refusal(ServerProcess(folder_ / "other"), "expected the trainer's configuration ");
  expect_refusal(ServerProcess(folder_ / "model", {"--torch_dtype", "bfloat16"}),
                 "expected the trainer's dtype float32, got bfloat16");
  expect_refusal(ServerProcess(folder_ / "model", {"--exact", "false"}),
                 "expected the trainer's exact true, got false");
}

TEST_F(ServerProcesses, AServerThatHangsIsLeftAndNamed) {
  const Arguments flags = {"--max_steps",    "2", "--max_completion_length", "12",
                           "--sync_timeout", "10"};
  run_well(command("colocate", flags));
  ServerProcess first(folder_ / "model"), second(folder_ / "model");
  RunningProgram training(command("hung", flags + served(first, second)));
  // It has given its handshake, and takes no weights or no request any more.
  ASSERT_TRUE(wait_until(training, [&] {
    return training.err().find("server " + second.url()) != std::string::npos;
  }));
  first.program().send(SIGSTOP);
  const ProgramResult result = training.wait();
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_THAT(result.err, HasSubstr("server " + first.url() + " is lost"));
  expect_same_run("hung", "colocate");
}

TEST_F(ServerProcesses, TheKeyOpensTheServer) {
  const ServerProcess one(folder_ / "model", {"--api_key", "secret"});
  const Arguments flags =
      Arguments{"--max_steps", "1", "--max_completion_length", "4"} + served(one);
  const ProgramResult refused = run_program(command("refused", flags));
  EXPECT_EQ(refused.exit_code, 3) << refused.err;
  EXPECT_THAT(refused.err, HasSubstr("401"));
  run_well(command("run", flags + Arguments{"--rollout_api_key", "secret"}));
}

}  // namespace
}  // namespace lockstep::testing
