// SPDX-License-Identifier: Apache-2.0
#include "base/digest.h"

#include <xxhash.h>

#include <fmt/format.h>

namespace lockstep {

std::string Digest::hex() const { return fmt::format("{:016x}{:016x}", high, low); }

Digest digest_of(const void* bytes, size_t size, const Digest& chain) {
  const XXH128_hash_t hash =
      XXH3_128bits_withSeed(bytes, size, chain.low ^ (chain.high * 0x9E3779B97F4A7C15ull));
  return {hash.low64, hash.high64};
}

Digest digest_of(std::string_view text, const Digest& chain) {
  return digest_of(text.data(), text.size(), chain);
}

}  // namespace lockstep
