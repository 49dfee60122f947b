// JSON and safetensors files that were changed at random.
// SPDX-License-Identifier: Apache-2.0
#include "tests/support/fuzz_replay.h"

#include "fuzz/fuzz_targets.h"
#include "tests/io/safetensors_bytes.h"

namespace lockstep::fuzz {
namespace {

using lockstep::testing::safetensors_bytes;

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
