// Counter-based random numbers: a value is a function of its key and counter, never of what was
// drawn before.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

namespace lockstep {

/// Four 32-bit random words for one (key, counter) pair: Philox4x32-10.
///
/// Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011; Random123's
/// constants.
std::array<uint32_t, 4> philox(std::array<uint32_t, 2> key, std::array<uint32_t, 4> counter);

/// A named stream of random numbers, addressed by index.
///
/// Example: RandomStream("dataset-shuffle", seed).uniform(i). Streams with different purposes or
/// keys are independent. Threads: any, it has no state.
class RandomStream {
 public:
  /// `purpose` separates the uses of one seed; `a` and `b` key the stream further (sample, draw).
  RandomStream(std::string_view purpose, uint64_t seed, uint64_t a = 0, uint64_t b = 0);
  /// 64 random bits for `index`.
  uint64_t bits(uint64_t index) const;
  /// Uniform in [0, 1), 53 bits.
  double uniform(uint64_t index) const;
  /// Uniform integer in [0, bound), bound >= 1.
  uint64_t below(uint64_t index, uint64_t bound) const;
  /// Standard normal (Box-Muller of one Philox block).
  double normal(uint64_t index) const;

 private:
  std::array<uint32_t, 2> key_;
  uint64_t stream_;
};

}  // namespace lockstep
