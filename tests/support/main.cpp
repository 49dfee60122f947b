// main of the test programs without libtorch.
// SPDX-License-Identifier: Apache-2.0
#include "tests/support/run_tests.h"

int main(int argc, char** argv) { return lockstep::testing::run_tests(argc, argv, {}); }
