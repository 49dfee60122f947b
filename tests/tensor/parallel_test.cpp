// SPDX-License-Identifier: Apache-2.0
#include "tensor/parallel.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <mutex>
#include <stdexcept>
#include <thread>
#include <utility>
#include <vector>

#include <gmock/gmock.h>

#include "tensor/aten.h"

namespace lockstep {
namespace {

using Range = std::pair<int64_t, int64_t>;
using ::testing::ElementsAre;

class Parallel : public ::testing::Test {
 protected:
  Parallel() { at::set_num_threads(3); }
  ~Parallel() override { at::set_num_threads(threads_); }

  static std::vector<Range> ranges(int64_t begin, int64_t end, int64_t grain) {
    std::mutex mutex;
    std::vector<Range> found;
    parallel_for(begin, end, grain, [&](int64_t first, int64_t last) {
      const std::lock_guard lock(mutex);
      found.emplace_back(first, last);
    });
    std::sort(found.begin(), found.end());
    return found;
  }

 private:
  const int threads_ = at::get_num_threads();
};

TEST_F(Parallel, CutsAsLibtorchDoes) {
  EXPECT_THAT(ranges(0, 3, 1), ElementsAre(Range(0, 1), Range(1, 2), Range(2, 3)));
  EXPECT_THAT(ranges(5, 12, 1), ElementsAre(Range(5, 8), Range(8, 11), Range(11, 12)));
  EXPECT_THAT(ranges(0, 4, 1), ElementsAre(Range(0, 2), Range(2, 4)));
  EXPECT_THAT(ranges(0, 7, 4), ElementsAre(Range(0, 4), Range(4, 7)));
  EXPECT_THAT(ranges(0, 7, 7), ElementsAre(Range(0, 7)));
  EXPECT_THAT(ranges(0, 3, 0), ElementsAre(Range(0, 1), Range(1, 2), Range(2, 3)));
  EXPECT_THAT(ranges(2, 2, 1), ElementsAre());
  for (const int64_t count : {1, 2, 5, 64, 1000})
    for (const int64_t grain : {1, 3, 100}) {
      std::mutex mutex;
      std::vector<Range> theirs;
      at::parallel_for(0, count, grain, [&](int64_t first, int64_t last) {
        const std::lock_guard lock(mutex);
        theirs.emplace_back(first, last);
      });
      std::sort(theirs.begin(), theirs.end());
      EXPECT_EQ(ranges(0, count, grain), theirs) << count << " turns, grain " << grain;
    }
}

TEST_F(Parallel, RangesRunAtTheSameTime) {
  std::atomic<int> arrived = 0;
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(30);
  parallel_for(0, 3, 1, [&](int64_t, int64_t) {
    ++arrived;
    while (arrived < 3 && std::chrono::steady_clock::now() < deadline) std::this_thread::yield();
  });
  EXPECT_LT(std::chrono::steady_clock::now(), deadline);
}

TEST_F(Parallel, NoTurnIsLostInManyLoopsOneAfterAnother) {
  std::vector<int> turns(7);
  for (int loop = 0; loop < 20'000; ++loop) {
    parallel_for(0, 7, 1, [&](int64_t first, int64_t last) {
      for (int64_t i = first; i < last; ++i) ++turns[static_cast<size_t>(i)];
    });
    // Long enough, now and then, that all workers sleep.
    if (loop % 2'000 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  EXPECT_THAT(turns, ::testing::Each(20'000));
}

TEST_F(Parallel, InsideOfALoopAllRunsOnOneThread) {
  std::atomic<int> most = 0, other_threads = 0;
  const auto inner = [&](int64_t, int64_t) {
    most = std::max<int>(most, at::get_num_threads());
    const auto thread = std::this_thread::get_id();
    const auto count = [&](int64_t, int64_t) {
      other_threads += std::this_thread::get_id() != thread;
    };
    parallel_for(0, 100, 1, count);
    at::parallel_for(0, 100, 1, count);
  };
  parallel_for(0, 3, 1, inner);
  EXPECT_EQ(most, 1);
  EXPECT_EQ(other_threads, 0);
  EXPECT_EQ(at::get_num_threads(), 3) << "as before";
  at::parallel_for(0, 3, 1, [&](int64_t, int64_t) {
    const auto thread = std::this_thread::get_id();
    parallel_for(0, 100, 1,
                 [&](int64_t, int64_t) { other_threads += std::this_thread::get_id() != thread; });
  });
  EXPECT_EQ(other_threads, 0) << "inside of libtorch's loop";
}

TEST_F(Parallel, AnExceptionOfAnyRangeArrivesWhenAllHaveEnded) {
  for (const int64_t bad : {0, 1, 2}) {
    std::atomic<int> ended = 0;
    EXPECT_THROW(parallel_for(0, 3, 1,
                              [&](int64_t first, int64_t) {
                                if (first == bad) throw std::out_of_range("bad");
                                std::this_thread::sleep_for(std::chrono::milliseconds(2));
                                ++ended;
                              }),
                 std::out_of_range);
    EXPECT_EQ(ended, 2);
    EXPECT_EQ(at::get_num_threads(), 3);
    EXPECT_EQ(ranges(0, 3, 1).size(), 3U) << "the next loop is whole";
  }
}

TEST_F(Parallel, SeveralThreadsMayCall) {
  constexpr int kLoops = 2'000;
  std::vector<std::thread> callers;
  std::atomic<int64_t> sum = 0;
  for (int caller = 0; caller < 4; ++caller)
    callers.emplace_back([&] {
      for (int loop = 0; loop < kLoops; ++loop)
        parallel_for(0, 10, 1, [&](int64_t first, int64_t last) { sum += last - first; });
    });
  for (std::thread& caller : callers) caller.join();
  EXPECT_EQ(sum, 4 * kLoops * 10);
}

}  // namespace
}  // namespace lockstep
