// XXH3-128 digests of bytes.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

namespace lockstep {

/// A 128-bit digest. Not cryptographic: it finds mistakes, not attackers.
struct Digest {
  uint64_t low = 0;
  uint64_t high = 0;
  friend bool operator==(const Digest&, const Digest&) = default;
  /// 32 hexadecimal digits, high word first.
  std::string hex() const;
};

/// XXH3-128 of `size` bytes, seeded by `chain` so that digests can be chained.
Digest digest_of(const void* bytes, size_t size, const Digest& chain = {});
Digest digest_of(std::string_view text, const Digest& chain = {});

/// The digest of bytes that come piece by piece. It equals digest_of() all of them at once, without
/// a chain. Not thread-safe.
class DigestStream {
 public:
  DigestStream();
  ~DigestStream();
  DigestStream(const DigestStream&) = delete;
  DigestStream& operator=(const DigestStream&) = delete;
  void update(const void* bytes, size_t size);
  Digest finish() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace lockstep
