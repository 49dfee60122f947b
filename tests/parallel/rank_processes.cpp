// SPDX-License-Identifier: Apache-2.0
#include "tests/parallel/rank_processes.h"

#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <thread>
#include <unistd.h>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "parallel/c10d_group.h"
#include "parallel/c10d_store.h"
#include "parallel/host_address.h"

namespace lockstep::parallel {
namespace {

constexpr const char* kVariable = "LOCKSTEP_TEST_RANK";

uint16_t free_port() {
  const int socket = listen_at("127.0.0.1", 0);
  const uint16_t port = port_of(socket);
  ::close(socket);
  return port;
}

/// The current test, and with a parameter its suite's others that have the same: what the processes
/// of ranks run in a row, since starting them takes most of the time.
std::string current_tests() {
  const auto* const test = ::testing::UnitTest::GetInstance()->current_test_info();
  std::string name = test->name();
  const size_t parameter = name.find('/');
  if (parameter != std::string::npos) name = "*" + name.substr(parameter);
  return fmt::format("{}.{}", test->test_suite_name(), name);
}

/// Runs the current tests in a process for each rank; returns what those said that failed.
std::string failures_of(int64_t size) {
  RankProcesses ranks(size);
  std::string failures;
  for (int64_t rank = 0; rank < size; ++rank) {
    const testing::ProgramResult result = ranks.wait(rank, std::chrono::seconds(60));
    if (result.exit_code != 0)
      failures += fmt::format("rank {} ended with {}:\n{}{}", rank, result.exit_code, result.out,
                              result.err);
  }
  return failures;
}

}  // namespace

std::unique_ptr<Store> RankProcess::store() const {
  return make_c10d_store({.host = "127.0.0.1", .port = store_port}, std::chrono::seconds(20));
}

std::unique_ptr<Group> RankProcess::group() const {
  const auto* const test = ::testing::UnitTest::GetInstance()->current_test_info();
  return make_c10d_group(make_prefix_store(store(), fmt::format("group of {}/", test->name())),
                         {.rank = rank, .size = size, .address = "127.0.0.1"});
}

std::optional<RankProcess> this_rank() {
  const char* const text = std::getenv(kVariable);
  if (!text) return std::nullopt;
  RankProcess process;
  int port = 0, is_of_test = 0;
  if (std::sscanf(text, "%ld %ld %d %d", &process.rank, &process.size, &port, &is_of_test) != 4)
    throw std::runtime_error(fmt::format("{}: {}", kVariable, text));
  process.store_port = static_cast<uint16_t>(port);
  process.is_store_of_test = is_of_test != 0;
  return process;
}

RankProcesses::RankProcesses(int64_t size, Meeting meeting, const Starter& starter) {
  const uint16_t port = free_port();
  if (meeting == Meeting::kOfTheTest)
    store_ = make_c10d_store({.host = "127.0.0.1", .port = port, .is_server = true},
                             std::chrono::seconds(20));
  for (int64_t rank = 0; rank < size; ++rank) {
    std::vector<std::string> words = starter ? starter(rank) : std::vector<std::string>{};
    words.push_back(std::filesystem::read_symlink("/proc/self/exe"));
    testing::ProgramWorld world;
    world.program = words.front();
    world.variables = {
        {kVariable, fmt::format("{} {} {} {:d}", rank, size, port, store_ != nullptr)}};
    words.erase(words.begin());
    words.insert(words.end(), {"--gtest_brief=1", "--gtest_filter=" + current_tests()});
    programs_.push_back(std::make_unique<testing::RunningProgram>(words, world));
  }
}

testing::ProgramResult RankProcesses::wait(int64_t rank, std::chrono::milliseconds deadline) {
  testing::RunningProgram& program = (*this)[rank];
  const auto end = std::chrono::steady_clock::now() + deadline;
  while (program.is_running()) {
    if (std::chrono::steady_clock::now() > end) {
      ADD_FAILURE() << "expected rank " << rank << " to end within " << deadline.count() << " ms";
      program.send(SIGKILL);
      break;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  return program.wait();
}

void run_on_processes(int64_t size, const std::function<void(Group&)>& action) {
  if (const auto process = this_rank()) {
    action(*process->group());
    return;
  }
  static std::map<std::string, std::string> failures;
  const std::string tests = current_tests();
  if (!failures.contains(tests)) failures[tests] = failures_of(size);
  EXPECT_EQ(failures[tests], "");
}

}  // namespace lockstep::parallel
