// Ops of the decoder with kernels swapped for wrong ones, by the linker (--wrap; CMakeLists.txt
// reads the symbols from swapped_ops.cpp): in a test, or in the whole program.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace lockstep::testing {

/// Which op is wrong, where, and by how much.
struct Swap {
  /// "linear"; "": none.
  std::string op;
  /// The decoder's layer; kEveryLayer: in all layers, and in the head.
  int64_t layer = -1;
  /// How far it is off at most, for each row beyond a multiple of 16.
  double error = 0;
  /// Another mistake: one element of the last row is off by this share, whatever the number of rows
  /// is; it may be NaN.
  bool in_one_element = false;
};
inline constexpr int64_t kEveryLayer = -1;

/// The swap in force; the environment's LOCKSTEP_TEST_SWAP="OP LAYER ERROR" at first. Changed while
/// no op runs.
Swap& current_swap();

/// Between two models of one test: their layers are told by the addresses of weights.
void forget_layers();

/// The names of all ops that can be swapped.
const std::vector<const char*>& swappable_ops();

}  // namespace lockstep::testing
