// Monitors of ranks that are threads: all that does not end the process.
// SPDX-License-Identifier: Apache-2.0
#include "parallel/monitor.h"

#include <algorithm>
#include <atomic>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

namespace lockstep::parallel {
namespace {

using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;

/// The monitors of `size` ranks over one store.
struct Ranks {
  explicit Ranks(int64_t size, const MonitorOptions& options = {}) : recorders(size) {
    for (int64_t rank = 0; rank < size; ++rank)
      monitors.push_back(std::make_unique<Monitor>(
          store->another(), Monitor::Place{.rank = rank, .size = size, .is_store_of_rank_0 = true},
          recorders[static_cast<size_t>(rank)], options));
  }
  std::unique_ptr<Store> store = make_memory_store();
  std::vector<Recorder> recorders;
  std::vector<std::unique_ptr<Monitor>> monitors;
};

TEST(Monitor, OneRankHasNobodyToTell) {
  const Recorder recorder;
  Monitor monitor(make_memory_store(), {}, recorder);
  EXPECT_EQ(monitor.fail("bad-row", "expected a row").text(), "rank 0: expected a row");
  monitor.finish();
}

TEST(Monitor, OfManyFailuresAllAreToldTheFirst) {
  Ranks ranks(4);
  ranks.recorders[2].enter("train", 12);
  ranks.recorders[2].begin(
      {.group = "world", .sequence = 7, .operation = "all-gather", .name = "scores"});
  std::vector<std::string> texts(4);
  const auto begun = Clock::now();
  std::vector<std::thread> threads;
  for (size_t rank = 0; rank < 4; ++rank)
    threads.emplace_back([&, rank] {
      // The others' errors are that rank 2 is gone; they wait for what it says.
      if (rank == 2) std::this_thread::sleep_for(100ms);
      texts[rank] = ranks.monitors[rank]
                        ->fail(rank == 2 ? "bad-row" : "rank-lost", rank == 2 ? "why" : "gone")
                        .text();
    });
  for (std::thread& thread : threads) thread.join();
  EXPECT_LT(Clock::now() - begun, 2s);
  for (const std::string& text : texts)
    EXPECT_EQ(text, "rank 2, train of step 12, in all-gather #7 \"scores\": why");
}

/// A rank that has lost another one gives up what it exchanges with the others, which lose it.
TEST(Monitor, RanksThatLoseOneAfterTheOtherTellTheFirst) {
  Ranks ranks(4);
  const std::vector<std::string> lost{"a call: expected rank 3 in all-gather #7 on rank 0, got: …",
                                      "a call: expected rank 2 in all-gather #7 on rank 1, got: …",
                                      "a call: expected rank 0 in all-gather #7 on rank 2, got: …",
                                      "a call: expected a network, got none"};
  std::vector<std::string> texts(4);
  std::vector<std::thread> threads;
  for (size_t rank = 0; rank < 4; ++rank)
    threads.emplace_back([&, rank] {
      // Rank 2 is the first that says something.
      std::this_thread::sleep_for(((rank + 2) % 4) * 80ms);
      texts[rank] = ranks.monitors[rank]->fail("rank-lost", lost[rank]).text();
    });
  for (std::thread& thread : threads) thread.join();
  for (const std::string& text : texts) EXPECT_EQ(text, "rank 3: " + lost[3]);
}

TEST(Monitor, RanksThatAreAllGoneForEachOtherStillFail) {
  Ranks ranks(2);
  std::vector<std::string> texts(2);
  std::thread other([&] { texts[1] = ranks.monitors[1]->fail("rank-lost", "1 says").text(); });
  texts[0] = ranks.monitors[0]->fail("rank-lost", "0 says").text();
  other.join();
  EXPECT_EQ(texts[0], texts[1]);
  EXPECT_TRUE(texts[0].ends_with(" says")) << texts[0];
}

TEST(Monitor, TheFirstRankEndsWhenAllHaveEndedWell) {
  Ranks ranks(3, {.beat = 20ms, .poll = 10ms});
  std::atomic<int> num_ended{0};
  std::vector<std::thread> threads;
  for (size_t rank = 0; rank < 3; ++rank)
    threads.emplace_back([&, rank] {
      std::this_thread::sleep_for(rank * 150ms);
      if (rank > 0) ++num_ended;
      ranks.monitors[rank]->finish();
      EXPECT_GE(num_ended, rank == 0 ? 2 : 0);
    });
  for (std::thread& thread : threads) thread.join();
}

}  // namespace
}  // namespace lockstep::parallel
