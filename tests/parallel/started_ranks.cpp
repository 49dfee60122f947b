// SPDX-License-Identifier: Apache-2.0
#include "tests/parallel/started_ranks.h"

#include <thread>
#include <unistd.h>

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/check.h"

namespace lockstep::parallel {
namespace {

using Clock = std::chrono::steady_clock;
using ::testing::HasSubstr;

constexpr const char* kRecords = "LOCKSTEP_TEST_RECORDS";

}  // namespace

Peers join_run(const LaunchInfo& launch) {
  Peers peers = join(
      launch,
      {.monitor = {.beat = kBeat, .silence = kSilence, .record_folder = std::getenv(kRecords)}});
  peers.recorder->enter("", 0);
  return peers;
}

void run_rank(const LaunchInfo& launch, const std::function<void(Peers&)>& action) {
  int status = 0;
  {
    Peers peers = join_run(launch);
    std::fputs("begun\n", stderr);
    try {
      action(peers);
      peers.monitor->finish();
    } catch (const Error& error) {
      const RankFailure failure = peers.monitor->fail(error.code(), error.what());
      fmt::print(stderr, "lockstep: error[{}]: {}\n", failure.code, failure.text());
      status = failure.rank == peers.world->rank() ? 1 : 3;
    }
  }
  std::fflush(nullptr);
  ::_exit(status);
}

RecordFolder::RecordFolder() { ::setenv(kRecords, folder.path().c_str(), 1); }

StartedRanks::StartedRanks(int64_t size, Meeting meeting, const Starter& starter)
    : RankProcesses(size, meeting, starter) {
  for (int64_t rank = 0; rank < size; ++rank)
    EXPECT_TRUE(testing::wait_until((*this)[rank], [&] {
      return (*this)[rank].err().find("begun") != std::string::npos;
    })) << (*this)[rank].err();
  // They are in their calls, and have said so.
  std::this_thread::sleep_for(4 * kBeat);
}

void StartedRanks::expect_end(std::chrono::milliseconds time,
                              int64_t without,
                              const std::string& text) {
  const auto begun = Clock::now();
  for (int64_t rank = 0; rank < size(); ++rank) {
    if (rank == without) continue;
    const auto left = time - std::chrono::floor<std::chrono::milliseconds>(Clock::now() - begun);
    const testing::ProgramResult result = wait(rank, left);
    EXPECT_THAT(result.exit_code, ::testing::AnyOf(1, 3)) << "rank " << rank << result.err;
    EXPECT_THAT(result.err, HasSubstr(text)) << "rank " << rank;
    const size_t line = result.err.find("lockstep: error[");
    EXPECT_NE(line, std::string::npos);
    EXPECT_EQ(result.err.find('\n', line), result.err.size() - 1)
        << "rank " << rank << " says more than one line:\n"
        << result.err;
  }
  fmt::print("ended within {} ms\n",
             std::chrono::floor<std::chrono::milliseconds>(Clock::now() - begun).count());
}

}  // namespace lockstep::parallel
