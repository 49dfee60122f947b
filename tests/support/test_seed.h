// One seed behind everything that a test program draws: LOCKSTEP_TEST_SEED replays a run, and a
// failure prints it.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <cstdlib>

namespace lockstep::testing {

/// LOCKSTEP_TEST_SEED; 0 where it is unset.
inline uint64_t base_seed() {
  const char* const text = std::getenv("LOCKSTEP_TEST_SEED");
  return text ? std::strtoull(text, nullptr, 10) : 0;
}

/// The seed of one draw of a test, `standard` a number that tells it from the test's other draws:
/// that number itself with base seed 0, and with each other base seed another one.
inline uint64_t test_seed(uint64_t standard) {
  if (base_seed() == 0) return standard;
  // Source: Steele et al., "Fast splittable pseudorandom number generators", OOPSLA 2014.
  uint64_t bits = standard + base_seed() * 0x9E3779B97F4A7C15ull;
  bits = (bits ^ (bits >> 30)) * 0xBF58476D1CE4E5B9ull;
  bits = (bits ^ (bits >> 27)) * 0x94D049BB133111EBull;
  return bits ^ (bits >> 31);
}

/// Numbers [first, last) of a test's draws.
struct DrawRange {
  uint64_t first, last;
  bool is_all;
};
/// Draws 0 to `count` - 1; where LOCKSTEP_TEST_DRAW is set, that one alone: for tests whose draws
/// take long.
inline DrawRange draw_range(uint64_t count) {
  const char* const text = std::getenv("LOCKSTEP_TEST_DRAW");
  if (!text) return {0, count, true};
  const uint64_t one = std::strtoull(text, nullptr, 10);
  return {one, one + 1, false};
}

}  // namespace lockstep::testing
