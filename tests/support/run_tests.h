// What the main functions of all test programs share: each test begins with a seed of its own, and
// a failure, or a death by a signal, says how to see it again.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace lockstep::testing {

/// One pass over all tests.
struct TestRound {
  /// What a failure says of it: "LOCKSTEP_TEST_TARGET=AVX2"; "" for the only one.
  std::string name;
  std::function<void()> begin = [] {};
};

struct TestProgram {
  /// Seeds the generators that tests draw from without a seed of their own.
  std::function<void(uint64_t seed)> seed = [](uint64_t) {};
  /// At least one.
  std::vector<TestRound> rounds{TestRound{}};
};

/// Runs all tests, once a round. Returns what main returns.
int run_tests(int argc, char** argv, const TestProgram& program);

}  // namespace lockstep::testing
