// What every group of ranks does, shown by threads.
// SPDX-License-Identifier: Apache-2.0
#include "parallel/group.h"

#include <gtest/gtest.h>

#include "base/check.h"
#include "tests/parallel/run_ranks.h"

namespace lockstep::parallel {
namespace {

std::span<const std::byte> bytes_of(const std::vector<int32_t>& values) {
  return std::as_bytes(std::span(values));
}
std::span<std::byte> bytes_of(std::vector<int32_t>& values) {
  return std::as_writable_bytes(std::span(values));
}

class Groups : public testing::TestWithParam<int64_t> {};
INSTANTIATE_TEST_SUITE_P(Sizes, Groups, testing::Values(1, 2, 3, 8));

TEST_P(Groups, GatherInTheOrderOfRanks) {
  run_ranks(GetParam(), [](Group& group) {
    const auto rank = static_cast<int32_t>(group.rank());
    std::vector<int32_t> all(static_cast<size_t>(group.size()) * 2);
    group.all_gather(bytes_of(std::vector{rank, 10 * rank}), bytes_of(all), {"numbers"});
    for (int32_t r = 0; r < group.size(); ++r) {
      EXPECT_EQ(all[static_cast<size_t>(2 * r)], r);
      EXPECT_EQ(all[static_cast<size_t>(2 * r + 1)], 10 * r);
    }
  });
}

TEST_P(Groups, ExchangeUnevenParts) {
  run_ranks(GetParam(), [](Group& group) {
    // Rank a sends a * b numbers 100 a + b to rank b: none where either is 0.
    const int64_t own = group.rank(), size = group.size();
    std::vector<int32_t> sent;
    std::vector<int64_t> send_counts, receive_counts;
    int64_t received = 0;
    for (int64_t r = 0; r < size; ++r) {
      sent.resize(sent.size() + static_cast<size_t>(own * r), static_cast<int32_t>(100 * own + r));
      send_counts.push_back(4 * own * r);
      receive_counts.push_back(4 * own * r);
      received += own * r;
    }
    std::vector<int32_t> got(static_cast<size_t>(received));
    group.all_to_all(bytes_of(std::as_const(sent)), send_counts, bytes_of(got), receive_counts,
                     {"parts"});
    size_t i = 0;
    for (int64_t r = 0; r < size; ++r)
      for (int64_t k = 0; k < own * r; ++k)
        EXPECT_EQ(got[i++], static_cast<int32_t>(100 * r + own)) << "of rank " << r;
    EXPECT_EQ(i, got.size());
  });
}

TEST_P(Groups, BroadcastFromEachRank) {
  run_ranks(GetParam(), [](Group& group) {
    for (int64_t root = 0; root < group.size(); ++root) {
      std::vector<int32_t> values(5, static_cast<int32_t>(group.rank() + 7));
      group.broadcast(bytes_of(values), root, {"values"});
      EXPECT_EQ(values, std::vector<int32_t>(5, static_cast<int32_t>(root + 7)));
    }
  });
}

TEST_P(Groups, GatherTextsOfAnyLength) {
  run_ranks(GetParam(), [](Group& group) {
    const auto texts = group.gather(std::string(static_cast<size_t>(3 * group.rank()), 'x'), {"t"});
    ASSERT_EQ(std::ssize(texts), group.size());
    for (size_t r = 0; r < texts.size(); ++r) EXPECT_EQ(texts[r], std::string(3 * r, 'x'));
    group.barrier({"end"});
  });
}

TEST(Group, EveryRankIsToldOfAnotherCall) {
  run_ranks(3, [](Group& group) {
    const std::string name = group.rank() == 2 ? "other" : "one";
    try {
      group.barrier({name});
      FAIL() << "rank " << group.rank() << " went on";
    } catch (const InternalError& error) {
      EXPECT_EQ(error.code(), "rank-call");
      EXPECT_STREQ(error.what(),
                   fmt::format("{}: expected all-gather \"one\" as on rank 0, got all-gather "
                               "\"other\" on rank 2",
                               name)
                       .c_str());
    }
  });
}

TEST(Group, EveryRankIsToldOfAnotherLength) {
  run_ranks(2, [](Group& group) {
    std::vector<int32_t> own(static_cast<size_t>(1 + group.rank())), all(own.size() * 2);
    EXPECT_THROW(group.all_gather(bytes_of(std::as_const(own)), bytes_of(all), {"numbers"}),
                 InternalError);
  });
}

TEST(Group, ARankThatDoesNotComeEndsTheCall) {
  run_ranks(2, [](Group& group) {
    if (group.rank() == 1) return;
    try {
      group.barrier({"alone here", std::chrono::milliseconds(20)});
      FAIL();
    } catch (const PeerError& error) {
      EXPECT_EQ(error.code(), "rank-late");
      EXPECT_STREQ(error.what(), "alone here: expected 2 ranks within 20 ms, got 1");
    }
  });
}

}  // namespace
}  // namespace lockstep::parallel
