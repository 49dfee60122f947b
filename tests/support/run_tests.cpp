// SPDX-License-Identifier: Apache-2.0
#include "tests/support/run_tests.h"

#include <array>
#include <csignal>
#include <cstdio>
#include <string>
#include <string_view>
#include <unistd.h>

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/test_seed.h"

namespace lockstep::testing {
namespace {

/// FNV-1a: the same on every machine, unlike std::hash.
uint64_t digest_of(std::string_view text) {
  uint64_t digest = 0xcbf29ce484222325ull;
  for (const char c : text) digest = (digest ^ static_cast<unsigned char>(c)) * 0x100000001b3ull;
  return digest;
}

/// The line that shows a failure again, of the test that runs now: made before it starts, since a
/// handler of signals may only write.
std::string again;

struct Signal {
  int number;
  struct sigaction before;
};
std::array<Signal, 5> signals{
    {{SIGSEGV, {}}, {SIGBUS, {}}, {SIGFPE, {}}, {SIGILL, {}}, {SIGABRT, {}}}};

/// A test that a signal ends has no OnTestEnd. The signal goes its old way then, which may be a
/// sanitizer's.
void say_again(int number) {
  [[maybe_unused]] const auto written = ::write(STDOUT_FILENO, again.data(), again.size());
  for (const Signal& signal : signals)
    if (signal.number == number) ::sigaction(number, &signal.before, nullptr);
  std::raise(number);
}

void listen_to_signals() {
  for (Signal& signal : signals) {
    struct sigaction action {};
    action.sa_handler = say_again;
    ::sigaction(signal.number, &action, &signal.before);
  }
}

class Listener : public ::testing::EmptyTestEventListener {
 public:
  explicit Listener(const TestProgram& program) : program_(program) {}

 private:
  void OnTestIterationStart(const ::testing::UnitTest&, int iteration) override {
    round_ = static_cast<size_t>(iteration) % program_.rounds.size();
    program_.rounds[round_].begin();
  }
  /// A test draws the same numbers whatever ran before it.
  void OnTestStart(const ::testing::TestInfo& test) override {
    const std::string& round = program_.rounds[round_].name;
    again = fmt::format("again: LOCKSTEP_TEST_SEED={}{}{} with --gtest_filter={}\n", base_seed(),
                        round.empty() ? "" : " ", round, name_of(test));
    program_.seed(test_seed(digest_of(name_of(test))));
  }
  void OnTestEnd(const ::testing::TestInfo& test) override {
    if (!test.result()->Failed()) return;
    fmt::print("{}", again);
    std::fflush(stdout);
  }
  static std::string name_of(const ::testing::TestInfo& test) {
    return fmt::format("{}.{}", test.test_suite_name(), test.name());
  }

  TestProgram program_;
  size_t round_ = 0;
};

}  // namespace

int run_tests(int argc, char** argv, const TestProgram& program) {
  ::testing::InitGoogleMock(&argc, argv);
  if (program.rounds.size() > 1) GTEST_FLAG_SET(repeat, static_cast<int>(program.rounds.size()));
  ::testing::UnitTest::GetInstance()->listeners().Append(new Listener(program));
  listen_to_signals();
  return RUN_ALL_TESTS();
}

}  // namespace lockstep::testing
