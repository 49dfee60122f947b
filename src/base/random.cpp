// SPDX-License-Identifier: Apache-2.0
#include "base/random.h"

#include <cmath>
#include <numbers>

#include "base/digest.h"

namespace lockstep {

std::array<uint32_t, 4> philox(std::array<uint32_t, 2> key, std::array<uint32_t, 4> counter) {
  constexpr uint64_t kMultiplier0 = 0xD2511F53, kMultiplier1 = 0xCD9E8D57;
  constexpr uint32_t kWeyl0 = 0x9E3779B9, kWeyl1 = 0xBB67AE85;
  for (int round = 0; round < 10; ++round) {
    const uint64_t product0 = kMultiplier0 * counter[0];
    const uint64_t product1 = kMultiplier1 * counter[2];
    counter = {static_cast<uint32_t>(product1 >> 32) ^ counter[1] ^ key[0],
               static_cast<uint32_t>(product1),
               static_cast<uint32_t>(product0 >> 32) ^ counter[3] ^ key[1],
               static_cast<uint32_t>(product0)};
    key[0] += kWeyl0;
    key[1] += kWeyl1;
  }
  return counter;
}

RandomStream::RandomStream(std::string_view purpose, uint64_t seed, uint64_t a, uint64_t b) {
  const std::array<uint64_t, 3> words{seed, a, b};
  const Digest digest = digest_of(purpose, digest_of(words.data(), sizeof(words)));
  key_ = {static_cast<uint32_t>(digest.low), static_cast<uint32_t>(digest.low >> 32)};
  stream_ = digest.high;
}

uint64_t RandomStream::bits(uint64_t index) const {
  const auto words =
      philox(key_, {static_cast<uint32_t>(index), static_cast<uint32_t>(index >> 32),
                    static_cast<uint32_t>(stream_), static_cast<uint32_t>(stream_ >> 32)});
  return static_cast<uint64_t>(words[1]) << 32 | words[0];
}

double RandomStream::uniform(uint64_t index) const {
  return static_cast<double>(bits(index) >> 11) * 0x1p-53;
}

uint64_t RandomStream::below(uint64_t index, uint64_t bound) const {
  // The high half of the product is uniform to within bound / 2^64.
  return static_cast<uint64_t>((static_cast<unsigned __int128>(bits(index)) * bound) >> 64);
}

double RandomStream::normal(uint64_t index) const {
  const uint64_t word = bits(index);
  // In (0, 1], so that its logarithm is finite.
  const double radius = static_cast<double>((word >> 32) + 1) * 0x1p-32;
  const double angle = static_cast<double>(word & 0xffffffffu) * 0x1p-32;
  return std::sqrt(-2.0 * std::log(radius)) * std::cos(2.0 * std::numbers::pi * angle);
}

}  // namespace lockstep
