// Replays seeds and seeded mutations of them through a fuzz target.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <random>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <gtest/gtest.h>

#include "tests/support/test_seed.h"

namespace lockstep::fuzz {

using Target = std::function<int(std::span<const uint8_t>)>;

inline int run_target(const Target& target, const std::string& text) {
  return target({reinterpret_cast<const uint8_t*>(text.data()), text.size()});
}

/// One to four edits: flip, overwrite with a byte that matters to the format, cut, double a piece.
inline std::string mutated(std::string text, std::mt19937_64& generator) {
  static constexpr std::string_view kTelling = "{}[]\",:\\0123456789-+.eE \n\t\0\xff\x80ntf";
  for (uint64_t edits = 1 + generator() % 4; edits > 0; --edits) {
    if (text.empty()) text.push_back(' ');
    const size_t at = generator() % text.size();
    switch (generator() % 5) {
      case 0:
        text[at] = static_cast<char>(text[at] ^ (1 << generator() % 8));
        break;
      case 1:
        text[at] = kTelling[generator() % kTelling.size()];
        break;
      case 2:
        text.erase(at, 1 + generator() % 4);
        break;
      case 3:
        text.insert(at, text.substr(generator() % text.size(), generator() % 20));
        break;
      default:
        text.insert(at, 1, kTelling[generator() % kTelling.size()]);
    }
  }
  return text;
}

/// Runs `count` mutations; fails unless some were accepted and some refused, so that neither side
/// is vacuous.
inline void replay(const Target& target, const std::vector<std::string>& seeds, int count) {
  std::mt19937_64 generator(lockstep::testing::test_seed(20240607));
  for (const std::string& text : seeds) EXPECT_EQ(run_target(target, text), 1) << text;
  int accepted = 0;
  for (int i = 0; i < count; ++i) {
    const std::string text = mutated(seeds[generator() % seeds.size()], generator);
    ASSERT_NO_THROW(accepted += run_target(target, text)) << "mutation " << i << ": " << text;
  }
  EXPECT_GT(accepted, 0);
  EXPECT_LT(accepted, count);
}

}  // namespace lockstep::fuzz
