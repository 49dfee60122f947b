// A quick test of every op on this machine: whether it agrees with its formula, and how fast it is.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

namespace lockstep::cli {

/// One line of the self-test.
struct SelfTestResult {
  /// The op and its dtype: "attention float32".
  std::string name;
  /// What computes it: "Highway", "Highway panels", "oneDNN packed" or "libtorch".
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
