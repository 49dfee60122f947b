// SPDX-License-Identifier: Apache-2.0
#include "base/digest.h"

#define XXH_STATIC_LINKING_ONLY  // XXH3_state_t as a member
#include <xxhash.h>
#if defined(__x86_64__) && __has_include(<xxh_x86dispatch.h>)
// Chooses the functions for the processor at hand; with AVX2 they are three times as fast.
#include <xxh_x86dispatch.h>
#endif

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

struct DigestStream::State {
  XXH3_state_t value;
};

DigestStream::DigestStream() : state_(std::make_unique<State>()) {
  XXH3_128bits_reset(&state_->value);
}
DigestStream::~DigestStream() = default;

void DigestStream::update(const void* bytes, size_t size) {
  XXH3_128bits_update(&state_->value, bytes, size);
}

Digest DigestStream::finish() const {
  const XXH128_hash_t hash = XXH3_128bits_digest(&state_->value);
  return {hash.low64, hash.high64};
}

}  // namespace lockstep
