// main of the test programs with libtorch: its default generator begins each test anew.
// SPDX-License-Identifier: Apache-2.0
#include "tests/support/run_tests.h"
#include "tests/support/seed_torch.h"

int main(int argc, char** argv) {
  return lockstep::testing::run_tests(argc, argv, {.seed = lockstep::testing::seed_torch});
}
