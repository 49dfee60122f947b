// main of the kernels' test programs: all tests on every vector target that the processor has and
// the compiler built, the scalar one too. LOCKSTEP_TEST_TARGET=AVX2 runs them on that one alone.
// SPDX-License-Identifier: Apache-2.0
#include <cstdio>
#include <cstdlib>

#include <fmt/format.h>

#include "tests/ops/targets.h"
#include "tests/support/run_tests.h"
#include "tests/support/seed_torch.h"

int main(int argc, char** argv) {
  using namespace lockstep;
  const char* const only = std::getenv("LOCKSTEP_TEST_TARGET");
  testing::TestProgram program{.seed = testing::seed_torch, .rounds = {}};
  bool is_best = true;
  for (const ops::cpu::VectorTarget& target : ops::cpu::usable_targets()) {
    if (!only || target.name == only)
      program.rounds.push_back({"LOCKSTEP_TEST_TARGET=" + target.name,
                                [target, is_best] { testing::use_test_target(target, is_best); }});
    is_best = false;
  }
  if (program.rounds.empty()) {
    fmt::print(stderr, "LOCKSTEP_TEST_TARGET: expected a target of this machine, got {}\n", only);
    return 1;
  }
  return testing::run_tests(argc, argv, program);
}
