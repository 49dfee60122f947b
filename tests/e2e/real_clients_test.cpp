// Programs that others wrote, against our server: each script of tests/clients runs its client and
// asserts what it gets.
// SPDX-License-Identifier: Apache-2.0
#include <arpa/inet.h>
#include <cstdlib>
#include <memory>
#include <sys/socket.h>
#include <unistd.h>

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

sockaddr_in loopback(uint16_t port) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  return address;
}

/// A port that nobody listens on; another process may take it before the server does.
uint16_t free_port() {
  const int socket = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address = loopback(0);
  socklen_t size = sizeof(address);
  const bool is_bound = ::bind(socket, reinterpret_cast<sockaddr*>(&address), size) == 0 &&
                        ::getsockname(socket, reinterpret_cast<sockaddr*>(&address), &size) == 0;
  ::close(socket);
  if (!is_bound) throw std::runtime_error("no port to be had on the loopback interface");
  return ntohs(address.sin_port);
}

bool listens(uint16_t port) {
  const int socket = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const sockaddr_in address = loopback(port);
  const bool is_there =
      ::connect(socket, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0;
  ::close(socket);
  return is_there;
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
    const uint16_t port = free_port();
    server_->url = fmt::format("http://127.0.0.1:{}", port);
    server_->program = std::make_unique<RunningProgram>(
        std::vector<std::string>{"rollout", "--model", server_->model, "--port",
                                 std::to_string(port), "--max_model_len", "1024"});
    ASSERT_TRUE(wait_until(*server_->program, [&] { return listens(port); }))
        << server_->program->err();
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
