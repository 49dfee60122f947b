// Which of the compiled vector targets the kernels run on.
// SPDX-License-Identifier: Apache-2.0
//
// Torch-free.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace lockstep::ops::cpu {

/// A vector target of Highway.
struct VectorTarget {
  /// Its bit: HWY_AVX2 and the like.
  int64_t bit = 0;
  /// "AVX2", "AVX3"; "SCALAR" or "EMU128" for plain C++.
  std::string name;
};

/// The targets that the kernels were compiled for and that this processor has, the best one, which
/// they use, first.
std::vector<VectorTarget> usable_targets();

/// True where the kernels use AVX-512, which all processors with AMX have.
bool uses_avx512();

/// Makes the kernels use this one of usable_targets() from now on; 0: the best one again. For tests
/// and comparisons: no kernel may run meanwhile.
void use_target(int64_t bit);

}  // namespace lockstep::ops::cpu
