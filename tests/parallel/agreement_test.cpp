// Ranks know how the work of all has ended.
// SPDX-License-Identifier: Apache-2.0
#include "parallel/agreement.h"

#include <atomic>

#include <fmt/format.h>

#include "tests/parallel/run_ranks.h"
#include "tests/support/expect_error.h"

namespace lockstep::parallel {
namespace {

class Agreement : public testing::TestWithParam<int64_t> {};
INSTANTIATE_TEST_SUITE_P(Sizes, Agreement, testing::Values(1, 2, 5));

TEST_P(Agreement, ResultsComeByRank) {
  run_ranks(GetParam(), [](Group& group) {
    // That of rank 0 is empty.
    const auto own = [&] { return std::string(static_cast<size_t>(group.rank()), 'x'); };
    const auto all = gather_results(group, {"words"}, own);
    ASSERT_EQ(std::ssize(all), group.size());
    for (size_t rank = 0; rank < all.size(); ++rank) EXPECT_EQ(all[rank], std::string(rank, 'x'));
  });
}

TEST_P(Agreement, AnErrorOfOneRankIsThrownByAll) {
  const int64_t size = GetParam(), failing = size - 1;
  run_ranks(size, [&](Group& group) {
    const auto work = [&] {
      if (group.rank() == failing) fail<IoError>("full", "disk", "expected room, got none");
    };
    if (group.rank() == failing)
      EXPECT_ERROR(do_together(group, {"writing"}, work), IoError, "full", "expected room");
    else
      EXPECT_ERROR(do_together(group, {"writing"}, work), PeerError, "rank-failed",
                   fmt::format("writing: expected all ranks to do it, got of rank {}: disk: "
                               "expected room, got none",
                               failing));
    // The ranks meet again after it.
    group.barrier({"after"});
  });
}

TEST_P(Agreement, WhereOneIsInterruptedAllAreUnlessOneFails) {
  const int64_t size = GetParam();
  for (const bool one_fails : {false, true})
    run_ranks(size, [&](Group& group) {
      const auto work = [&] {
        if (group.rank() == size - 1)
          fail<InterruptedError>("interrupted", "here", "expected to finish, got SIGTERM");
        if (one_fails && group.rank() == size - 2) fail<IoError>("full", "disk", "no room");
      };
      if (one_fails && group.rank() < size - 2)
        EXPECT_ERROR(do_together(group, {"work"}, work), PeerError, "rank-failed", "no room");
      else if (!one_fails || group.rank() == size - 1)
        EXPECT_ERROR(do_together(group, {"work"}, work), InterruptedError, "interrupted", "");
      else
        EXPECT_ERROR(do_together(group, {"work"}, work), IoError, "full", "no room");
    });
}

TEST_P(Agreement, TheFirstRankAloneDoesWhatIsDoneOnce) {
  std::atomic<int> times{0};
  run_ranks(GetParam(), [&](Group& group) {
    const auto work = [&] {
      ++times;
      return fmt::format("of rank {}", group.rank());
    };
    EXPECT_EQ(do_on_first(group, {"once"}, work), "of rank 0");
  });
  EXPECT_EQ(times, 1);
}

TEST_P(Agreement, TheLeastOfAllIsKnownToAll) {
  const int64_t size = GetParam();
  run_ranks(size, [&](Group& group) {
    const auto own = static_cast<double>((group.rank() + 1) % size);
    EXPECT_EQ(least_of(group, 0.5 + own, {"memory"}), 0.5);
    EXPECT_NO_THROW(throw_if_any_interrupted(group));
  });
}

}  // namespace
}  // namespace lockstep::parallel
