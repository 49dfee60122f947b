// Replays seeds and seeded mutations of them through the fuzz targets.
// SPDX-License-Identifier: Apache-2.0
#include <functional>
#include <random>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "fuzz/fuzz_targets.h"
#include "tests/io/safetensors_bytes.h"
#include "tests/support/expect_close.h"

namespace lockstep::fuzz {
namespace {

using Target = std::function<int(std::span<const uint8_t>)>;
using lockstep::testing::safetensors_bytes;

int run_target(const Target& target, const std::string& text) {
  return target({reinterpret_cast<const uint8_t*>(text.data()), text.size()});
}

/// One to four edits: flip, overwrite with a byte that matters to the format, cut, double a piece.
std::string mutated(std::string text, std::mt19937_64& generator) {
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

/// Runs `count` mutations; true if some were accepted and some refused, so that neither side is vacuous.
void replay(const Target& target, const std::vector<std::string>& seeds, int count) {
  const uint64_t seed = lockstep::testing::test_seed(20240607);
  SCOPED_TRACE(seed);
  std::mt19937_64 generator(seed);
  for (const std::string& text : seeds) EXPECT_EQ(run_target(target, text), 1) << text;
  int accepted = 0;
  for (int i = 0; i < count; ++i) {
    const std::string text = mutated(seeds[generator() % seeds.size()], generator);
    ASSERT_NO_THROW(accepted += run_target(target, text)) << "mutation " << i << ": " << text;
  }
  EXPECT_GT(accepted, 0);
  EXPECT_LT(accepted, count);
}

TEST(Fuzz, JsonSurvivesMutations) {
  replay(fuzz_json,
         {R"({"a": [1, -2.5e3, true, null, "x\u00e9\n"], "b": {"c": {}, "d": []}})", "[]", "12345",
          R"({"vocab": {"a": 0, "b": 1, "c": 2, "d": 3}, "merges": [["a", "b"], ["c", "d"]]})",
          "\"caf\u00e9 \\ud83d\\ude00\""},
         10000);
}

TEST(Fuzz, SafetensorsSurvivesMutations) {
  replay(fuzz_safetensors,
         {safetensors_bytes("{}", 0),
          safetensors_bytes(R"({"a":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]}})", 16),
          safetensors_bytes(R"({"__metadata__":{"format":"pt"},)"
                            R"("b":{"dtype":"BF16","shape":[3],"data_offsets":[0,6]},)"
                            R"("c":{"dtype":"U8","shape":[0,9],"data_offsets":[6,6]},)"
                            R"("d":{"dtype":"I64","shape":[],"data_offsets":[6,14]}}   )",
                            14)},
         10000);
}

}  // namespace
}  // namespace lockstep::fuzz
