// What comes from a trainer or a receiver, changed at random.
// SPDX-License-Identifier: Apache-2.0
#include "tests/support/fuzz_replay.h"

#include "fuzz/fuzz_targets.h"

namespace lockstep::fuzz {
namespace {

TEST(Fuzz, BlocksOfWeightsSurviveMutations) {
  replay(fuzz_weight_image, {weight_image_seed()}, 10000);
}

TEST(Fuzz, DeltasSurviveMutations) { replay(fuzz_weight_delta, {weight_delta_seed()}, 10000); }

TEST(Fuzz, RequestsForWeightsSurviveMutations) {
  const std::string digest(32, 'a');
  replay(fuzz_range_request,
         {R"({"protocol":1,"token":")" + digest + R"(","weights":")" + digest +
              R"(","begin":0,"end":8})",
          R"({"protocol":1,"token":")" + digest + R"(","weights":")" + digest + R"(","base":")" +
              digest + R"(","begin":18,"end":800})"},
         10000);
}

}  // namespace
}  // namespace lockstep::fuzz
