// A quick test of every op on this machine: does it agree with its formula, and how fast is it.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

namespace lockstep::cli {

/// One line of the self-test.
struct SelfTestResult {
  /// "attention float32"
  std::string name;
  /// What runs: "Highway", "Highway panels", "oneDNN packed", "libtorch".
  std::string kernel;
  /// In `unit`.
  double rate = 0;
  /// "GFLOP/s", "GB/s"
  std::string unit;
  /// Largest difference from the formula in float64, relative to its largest value.
  double error = 0;
  /// What the error may be; 0 where only the speed is measured.
  double bound = 0;
  bool passed() const { return bound == 0 || error <= bound; }
};

/// Runs every test for about `seconds_each`. Errors of ops come out as they are.
std::vector<SelfTestResult> run_self_test(double seconds_each);

}  // namespace lockstep::cli
