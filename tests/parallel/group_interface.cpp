// SPDX-License-Identifier: Apache-2.0
#include "tests/parallel/group_interface.h"

#include <chrono>
#include <thread>

#include <fmt/format.h>

#include "base/check.h"

namespace lockstep::parallel {
namespace {

std::span<const std::byte> bytes_of(const std::vector<int32_t>& values) {
  return std::as_bytes(std::span(values));
}
std::span<std::byte> bytes_of(std::vector<int32_t>& values) {
  return std::as_writable_bytes(std::span(values));
}

/// The number at a place of what rank `from` sends to rank `to`.
int32_t number(int64_t from, int64_t to, int64_t place) {
  return static_cast<int32_t>(100000 * (100 * from + to) + place);
}

TEST_P(Groups, GatherInTheOrderOfRanks) {
  run([](Group& group) {
    // Few and many bytes take different ways.
    for (const int64_t count : {0, 1, 2, 255, 16'383, 16'384, 16'385, 100'003}) {
      std::vector<int32_t> own, all(static_cast<size_t>(group.size() * count));
      for (int64_t i = 0; i < count; ++i) own.push_back(number(group.rank(), 0, i));
      group.all_gather(bytes_of(std::as_const(own)), bytes_of(all), {"numbers"});
      int64_t num_wrong = 0;
      for (int64_t i = 0; i < std::ssize(all); ++i)
        num_wrong += all[static_cast<size_t>(i)] != number(i / count, 0, i % count);
      EXPECT_EQ(num_wrong, 0) << count << " numbers of each rank";
    }
  });
}

TEST_P(Groups, ExchangeUnevenParts) {
  run([](Group& group) {
    // Rank a sends unit * a * b numbers to rank b: none where either is 0.
    for (const int64_t unit : {1, 50, 3'000, 30'011}) {
      const int64_t own = group.rank(), size = group.size();
      std::vector<int32_t> sent;
      std::vector<int64_t> send_counts, receive_counts;
      int64_t num_received = 0;
      for (int64_t r = 0; r < size; ++r) {
        for (int64_t i = 0; i < unit * own * r; ++i) sent.push_back(number(own, r, i));
        send_counts.push_back(4 * unit * own * r);
        receive_counts.push_back(4 * unit * own * r);
        num_received += unit * own * r;
      }
      std::vector<int32_t> got(static_cast<size_t>(num_received));
      group.all_to_all(bytes_of(std::as_const(sent)), send_counts, bytes_of(got), receive_counts,
                       {"parts"});
      int64_t num_wrong = 0;
      auto next = got.begin();
      for (int64_t r = 0; r < size; ++r)
        for (int64_t i = 0; i < unit * own * r; ++i) num_wrong += *next++ != number(r, own, i);
      EXPECT_EQ(num_wrong, 0) << "unit " << unit;
      EXPECT_EQ(next, got.end());
    }
  });
}

TEST_P(Groups, BroadcastFromEachRank) {
  run([](Group& group) {
    for (const size_t count : {5, 20'000})
      for (int64_t root = 0; root < group.size(); ++root) {
        std::vector<int32_t> values(count, static_cast<int32_t>(group.rank() + 7));
        group.broadcast(bytes_of(values), root, {"values"});
        EXPECT_EQ(values, std::vector<int32_t>(count, static_cast<int32_t>(root + 7)));
      }
  });
}

TEST_P(Groups, GatherTextsOfAnyLength) {
  run([](Group& group) {
    const auto texts = group.gather(std::string(static_cast<size_t>(3 * group.rank()), 'x'), {"t"});
    ASSERT_EQ(std::ssize(texts), group.size());
    for (size_t r = 0; r < texts.size(); ++r) EXPECT_EQ(texts[r], std::string(3 * r, 'x'));
    group.barrier({"end"});
  });
}

TEST_P(Groups, CallsGoOnTogether) {
  run([](Group& group) {
    constexpr size_t kCalls = 5, kNumbers = 30'000;
    const auto ranks = static_cast<size_t>(group.size());
    std::vector<std::vector<int32_t>> own, all(kCalls);
    std::vector<std::unique_ptr<Pending>> pending;
    for (size_t k = 0; k < kCalls; ++k)
      own.emplace_back(kNumbers, static_cast<int32_t>(10 * k) + static_cast<int32_t>(group.rank()));
    for (size_t k = 0; k < kCalls; ++k) {
      all[k].resize(ranks * kNumbers);
      pending.push_back(
          group.begin_all_gather(bytes_of(std::as_const(own[k])), bytes_of(all[k]), {"one"}));
    }
    // Waited for in another order than they were begun.
    for (size_t k = kCalls; k-- > 0;) pending[k]->wait();
    for (size_t k = 0; k < kCalls; ++k)
      for (size_t r = 0; r < ranks; ++r)
        EXPECT_EQ(all[k][r * kNumbers + r], static_cast<int32_t>(10 * k + r));
  });
}

TEST_P(Groups, EveryRankIsToldOfAnotherCall) {
  if (GetParam().size == 1) return;  // one rank makes the calls of all
  run([this](Group& group) {
    const std::string name = group.rank() == 1 ? "other" : "one";
    try {
      group.barrier({name});
      FAIL() << "rank " << group.rank() << " went on";
    } catch (const InternalError& error) {
      EXPECT_EQ(error.code(), "rank-call");
      const std::string what = error.what();
      if (GetParam().is_part)
        EXPECT_TRUE(what.starts_with(name + ": expected all-to-all \"one\" as on rank 0, got "))
            << what;
      else
        EXPECT_EQ(what, name +
                            ": expected all-gather \"one\" as on rank 0, got all-gather "
                            "\"other\" on rank 1");
    }
    // No rank was left in the call.
    group.barrier({"next"});
  });
}

TEST_P(Groups, EveryRankIsToldOfAnotherLength) {
  if (GetParam().size == 1) return;  // one rank expects what it sends
  run([](Group& group) {
    for (const size_t unit : {1, 20'000}) {
      std::vector<int32_t> own(unit * static_cast<size_t>(1 + group.rank()));
      std::vector<int32_t> all(own.size() * static_cast<size_t>(group.size()), 7);
      EXPECT_THROW(group.all_gather(bytes_of(std::as_const(own)), bytes_of(all), {"numbers"}),
                   InternalError);
      EXPECT_EQ(all, std::vector<int32_t>(all.size(), 7)) << "something was written";
    }
  });
}

TEST_P(Groups, RefuseCountsThatAreNotThoseOfTheBytes) {
  run([](Group& group) {
    const auto ranks = static_cast<size_t>(group.size());
    std::vector<int32_t> sent(ranks), got(ranks + 1);
    const std::vector<int64_t> fours(ranks, 4);
    EXPECT_THROW(
        group.all_to_all(bytes_of(std::as_const(sent)), fours, bytes_of(got), fours, {"parts"}),
        InternalError);
    EXPECT_THROW(group.all_gather(bytes_of(std::as_const(sent)).first(4), bytes_of(got), {"all"}),
                 InternalError);
  });
}

TEST_P(Groups, ARankThatLeavesEndsTheCall) {
  if (GetParam().size == 1) return;  // one rank does not wait for others
  run([](Group& group) {
    if (group.rank() == group.size() - 1) return;
    try {
      group.barrier({"all but one"});
      FAIL() << "rank " << group.rank() << " went on";
    } catch (const PeerError& error) {
      EXPECT_EQ(error.code(), "rank-lost");
    }
  });
}

TEST_P(Groups, ARankThatDoesNotComeEndsTheCall) {
  if (GetParam().size == 1) return;  // one rank does not wait for others
  run([](Group& group) {
    // A rank leaves the group only when the others have given up.
    using namespace std::chrono_literals;
    if (group.rank() == group.size() - 1) {
      std::this_thread::sleep_for(400ms);
      return;
    }
    const auto begun = std::chrono::steady_clock::now();
    try {
      group.barrier({"alone here", 150ms});
      FAIL();
    } catch (const PeerError& error) {
      EXPECT_EQ(error.code(), "rank-late");
      EXPECT_EQ(error.where(), "alone here");
      EXPECT_NE(std::string_view(error.what()).find("within 150 ms"), std::string_view::npos);
    }
    const auto taken = std::chrono::steady_clock::now() - begun;
    EXPECT_GE(taken, 150ms);
    EXPECT_LT(taken, 2s);
    // What the others see is that the last rank is late, not that this one leaves.
    std::this_thread::sleep_for(250ms);
    std::this_thread::sleep_for(250ms);
  });
}

}  // namespace
}  // namespace lockstep::parallel
