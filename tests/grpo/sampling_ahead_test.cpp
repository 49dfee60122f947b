// A round in the background: taken, failed, late, given up.
// SPDX-License-Identifier: Apache-2.0
#include "grpo/sampling_ahead.h"

#include <atomic>
#include <chrono>
#include <thread>

#include "base/check.h"
#include "tests/support/expect_error.h"

namespace lockstep::grpo {
namespace {

using std::chrono::milliseconds;

SampledGroups some_groups(int64_t group_size) {
  SampledGroups groups;
  groups.group_size = group_size;
  return groups;
}

TEST(SamplingAhead, ARoundIsTakenOnceItIsSampled) {
  SamplingAhead ahead(milliseconds(20'000));
  EXPECT_FALSE(ahead.is_there());
  for (int64_t round = 1; round < 4; ++round) {
    ahead.start([round](const RolloutClient::Progress& progress) {
      progress(10 * round, round);
      return some_groups(round);
    });
    EXPECT_TRUE(ahead.is_there());
    EXPECT_EQ(ahead.wait({}).group_size, round);
    ahead.check();
    EXPECT_EQ(ahead.take({}).group_size, round);
    EXPECT_FALSE(ahead.is_there());
  }
}

TEST(SamplingAhead, AWaitTellsHowFarItIs) {
  SamplingAhead ahead(milliseconds(20'000));
  std::atomic<bool> is_seen{false};
  ahead.start([&](const RolloutClient::Progress& progress) {
    while (!is_seen) {
      progress(7, 3);
      std::this_thread::sleep_for(milliseconds(5));
    }
    return some_groups(1);
  });
  ahead.take([&](int64_t tokens, int64_t completions) {
    if (tokens == 7 && completions == 3) is_seen = true;
  });
  EXPECT_TRUE(is_seen);
}

TEST(SamplingAhead, WhatItFailedWithIsThrownWhenSomebodyLooks) {
  SamplingAhead ahead(milliseconds(20'000));
  ahead.start([](const RolloutClient::Progress&) -> SampledGroups {
    fail<PeerError>("no-server", "http://a", "expected a server, got none");
  });
  EXPECT_ERROR(ahead.wait({}), PeerError, "no-server", "http://a");
  EXPECT_ERROR(ahead.check(), PeerError, "no-server", "http://a");
  EXPECT_ERROR(ahead.take({}), PeerError, "no-server", "http://a");
}

TEST(SamplingAhead, AWaitWithoutAnyCompletionHasADeadline) {
  SamplingAhead ahead(milliseconds(300));
  std::atomic<bool> ends{false};
  ahead.start([&](const RolloutClient::Progress&) {
    while (!ends) std::this_thread::sleep_for(milliseconds(5));
    return some_groups(1);
  });
  EXPECT_ERROR(ahead.wait({}), PeerError, "deadline", "within 0.3 s, got none since the first 0");
  ends = true;
}

TEST(SamplingAhead, CompletionsMoveTheDeadline) {
  SamplingAhead ahead(milliseconds(1000));
  ahead.start([&](const RolloutClient::Progress& progress) {
    for (int64_t done = 1; done < 16; ++done) {
      progress(done, done);
      std::this_thread::sleep_for(milliseconds(100));
    }
    return some_groups(5);
  });
  EXPECT_EQ(ahead.take({}).group_size, 5);
}

TEST(SamplingAhead, ItsEndEndsTheRound) {
  std::atomic<bool> is_ended{false};
  {
    SamplingAhead ahead(milliseconds(20'000));
    ahead.start([&](const RolloutClient::Progress& progress) -> SampledGroups {
      try {
        for (;;) {
          progress(0, 0);
          std::this_thread::sleep_for(milliseconds(5));
        }
      } catch (const InterruptedError&) {
        is_ended = true;
        throw;
      }
    });
  }
  EXPECT_TRUE(is_ended);
}

TEST(SamplingAhead, ARestoredRoundIsTakenAsIfItHadBeenSampled) {
  SamplingAhead ahead(milliseconds(20'000));
  ahead.restore(some_groups(9));
  EXPECT_TRUE(ahead.is_there());
  ahead.check();
  EXPECT_EQ(ahead.take({}).group_size, 9);
  EXPECT_FALSE(ahead.is_there());
}

}  // namespace
}  // namespace lockstep::grpo
