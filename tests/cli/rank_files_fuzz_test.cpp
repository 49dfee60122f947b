// Rank files that were changed at random.
// SPDX-License-Identifier: Apache-2.0
#include "fuzz/fuzz_targets.h"
#include "tests/support/fuzz_replay.h"

namespace lockstep::fuzz {
namespace {

TEST(Fuzz, RankFilesSurviveMutations) { replay(fuzz_rank_file, {rank_file_seed()}, 1000); }

}  // namespace
}  // namespace lockstep::fuzz
