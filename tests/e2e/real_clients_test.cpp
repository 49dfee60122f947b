// Programs that others wrote, against our server: each script of tests/clients runs its client and
// asserts what it gets.
// SPDX-License-Identifier: Apache-2.0
#include <csignal>
#include <cstdlib>
#include <memory>
#include <string_view>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "tests/e2e/program_files.h"
#include "tests/support/source_dir.h"

namespace lockstep::testing {
namespace {

constexpr int kScriptSeconds = 300;

std::string client_script(const std::string& name) {
  return (source_dir() / "tests/clients" / name).string();
}

std::string python() { return (source_dir() / ".deps/python/bin/python").string(); }

/// Runs words in a shell, no longer than kScriptSeconds, and returns what they said; fails the test
/// if they fail.
std::string run_words(const TempDir& folder, const std::vector<std::string>& words) {
  std::string line = fmt::format("timeout {}", kScriptSeconds);
  for (const std::string& word : words) line += " " + shell_word(word);
  const std::string said = (folder / "said").string();
  const int status = std::system((line + " >" + shell_word(said) + " 2>&1 </dev/null").c_str());
  const std::string text = slurp(said);
  EXPECT_EQ(status, 0) << line << "\n" << text;
  return text;
}

/// The address that a server's log names once it serves; empty before.
std::string ready_url(const std::string& log) {
  constexpr std::string_view kReady = "ready at ";
  const size_t start = log.find(kReady);
  if (start == std::string::npos) return "";
  const size_t end = log.find(',', start);
  return end == std::string::npos ? ""
                                  : log.substr(start + kReady.size(), end - start - kReady.size());
}

/// A server of the model that tests/clients/taught_model.py makes, for all tests of this file.
class RealClients : public ::testing::Test {
 protected:
  struct Server {
    TempDir folder;
    std::string model, url;
    std::unique_ptr<RunningProgram> program;
  };

  static void SetUpTestSuite() {
    server_ = std::make_unique<Server>();
    run_words(server_->folder, {python(), client_script("taught_model.py"), "--program",
                                program_path(), (server_->folder / "taught").string()});
    server_->model = (server_->folder / "taught/model").string();
    server_->program = std::make_unique<RunningProgram>(std::vector<std::string>{
        "rollout", "--model", server_->model, "--port", "0", "--max_model_len", "1024"});
    wait_until(*server_->program, [] { return !ready_url(server_->program->err()).empty(); });
    server_->url = ready_url(server_->program->err());
    ASSERT_FALSE(server_->url.empty()) << server_->program->err();
  }

  /// The server must have lived through everything, and end when it is told to.
  static void TearDownTestSuite() {
    EXPECT_TRUE(server_->program->is_running()) << server_->program->err();
    server_->program->send(SIGTERM);
    EXPECT_TRUE(wait_until(*server_->program, [] { return !server_->program->is_running(); }));
    server_.reset();
  }

  static void run_client(const std::string& script) {
    ASSERT_TRUE(server_->program->is_running()) << server_->program->err();
    const bool is_python = script.ends_with(".py");
    std::vector<std::string> words = {is_python ? python() : "bash", client_script(script), "--url",
                                      server_->url};
    if (is_python)
      for (const auto& word : {std::string("--model_folder"), server_->model,
                               std::string("--program"), program_path()})
        words.push_back(word);
    EXPECT_NE(run_words(server_->folder, words).find("passed"), std::string::npos);
  }

  static std::unique_ptr<Server> server_;
};

std::unique_ptr<RealClients::Server> RealClients::server_;

TEST_F(RealClients, Curl) { run_client("curl_client.sh"); }
TEST_F(RealClients, OpenAi) { run_client("openai_client.py"); }
TEST_F(RealClients, Trl) { run_client("trl_client.py"); }
TEST_F(RealClients, MsSwift) { run_client("swift_client.py"); }
TEST_F(RealClients, VllmWeightSync) { run_client("vllm_client.py"); }
TEST_F(RealClients, LmEval) { run_client("lm_eval_client.py"); }

}  // namespace
}  // namespace lockstep::testing
