// SPDX-License-Identifier: Apache-2.0
#include "base/digest.h"

#include <set>
#include <string>

#include <gtest/gtest.h>

namespace lockstep {
namespace {

TEST(Digest, OfNothingIsXxh3sPublishedValue) {
  // xxHash's own sanity check: XXH3_128bits of the empty input with seed 0.
  EXPECT_EQ(digest_of("").hex(), "99aa06d3014798d86001c324468d497f");
}

TEST(Digest, HexHasTheHighWordFirstAndKeepsZeros) {
  EXPECT_EQ((Digest{.low = 0xab, .high = 0x1}).hex(), "000000000000000100000000000000ab");
}

TEST(Digest, DependsOnEveryByteAndOnTheChain) {
  std::set<std::string> seen;
  std::string text(300, 'a');
  seen.insert(digest_of(text).hex());
  for (size_t i = 0; i < text.size(); ++i) {
    std::string changed = text;
    changed[i] ^= 1;
    seen.insert(digest_of(changed).hex());
  }
  seen.insert(digest_of(text, digest_of("first")).hex());
  seen.insert(digest_of(text, Digest{.low = 0, .high = 1}).hex());
  seen.insert(digest_of(text, Digest{.low = 1, .high = 0}).hex());
  EXPECT_EQ(seen.size(), 304u);
}

TEST(Digest, OfBytesEqualsOfText) {
  const std::string text = "the same bytes";
  EXPECT_EQ(digest_of(text), digest_of(text.data(), text.size()));
}

}  // namespace
}  // namespace lockstep
