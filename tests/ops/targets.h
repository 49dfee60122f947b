// The vector target that the tests of kernels run on now.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "ops/cpu/targets.h"

namespace lockstep::testing {

/// How much a test takes on: the best target, which production uses, gets all of it.
enum class Effort : int { kFull, kHalf, kScalar };

inline Effort& effort() {
  static Effort current = Effort::kFull;
  return current;
}

/// `target` is one of ops::cpu::usable_targets(), the best of them if `is_best`.
inline void use_test_target(const ops::cpu::VectorTarget& target, bool is_best) {
  ops::cpu::use_target(target.bit);
  const bool is_scalar = target.name == "SCALAR" || target.name == "EMU128";
  effort() = is_best ? Effort::kFull : is_scalar ? Effort::kScalar : Effort::kHalf;
}

/// The kernels are plain C++, ten times slower and more: a test takes fewer or smaller shapes.
inline bool is_scalar_target() { return effort() == Effort::kScalar; }

/// `count` draws of a property test on the best target, half of them on a narrower one, and an
/// eighth in plain C++.
inline int64_t draws(int64_t count) {
  switch (effort()) {
    case Effort::kFull:
      return count;
    case Effort::kHalf:
      return (count + 1) / 2;
    case Effort::kScalar:
      return (count + 7) / 8;
  }
  return count;
}

/// The shapes of a list that a test takes: all of them on the best target, else every second or
/// fourth one.
template <class T>
std::vector<T> some_of(std::vector<T> list) {
  const size_t stride = effort() == Effort::kFull ? 1 : effort() == Effort::kHalf ? 2 : 4;
  std::vector<T> taken;
  for (size_t i = 0; i < list.size(); i += stride) taken.push_back(std::move(list[i]));
  return taken;
}

}  // namespace lockstep::testing
