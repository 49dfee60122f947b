// Ranks that are killed, stopped or fail, and what becomes of the others, and when.
// SPDX-License-Identifier: Apache-2.0
#include <csignal>
#include <cstdlib>
#include <thread>
#include <unistd.h>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/check.h"
#include "parallel/join.h"
#include "parallel/monitor.h"
#include "parallel/rank_record.h"
#include "tests/parallel/rank_processes.h"

namespace lockstep::parallel {
namespace {

using namespace std::chrono_literals;
using ::testing::HasSubstr;
using ::testing::StartsWith;
using Clock = std::chrono::steady_clock;

// How long a rank may be silent here; the program's own time would only make the tests longer.
constexpr auto kSilence = 1000ms, kBeat = 100ms;
// All ranks end so soon after the first failure is known.
constexpr auto kEnd = 2000ms;

constexpr const char* kRecords = "LOCKSTEP_TEST_RECORDS";

/// This rank's side of the run.
Peers join_run() {
  const RankProcess process = *this_rank();
  return join(
      {.source = LaunchSource::kTorchrun,
       .rank = process.rank,
       .size = process.size,
       .master_address = "127.0.0.1",
       .master_port = process.store_port,
       .uses_agent_store = process.is_store_of_test},
      {.monitor = {.beat = kBeat, .silence = kSilence, .record_folder = std::getenv(kRecords)}});
}

/// Runs a rank's part, and ends the process as the program would. Tells the test when it begins.
void run_rank(const std::function<void(Peers&)>& action) {
  int status = 0;
  {
    Peers peers = join_run();
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

/// A folder that processes started from now on know.
struct RecordFolder {
  RecordFolder() { ::setenv(kRecords, folder.path().c_str(), 1); }
  testing::TempDir folder;
};

/// The ranks of the current test, all of which have begun.
class StartedRanks : private RecordFolder, public RankProcesses {
 public:
  StartedRanks(int64_t size, Meeting meeting) : RankProcesses(size, meeting) {
    for (int64_t rank = 0; rank < size; ++rank)
      EXPECT_TRUE(testing::wait_until((*this)[rank], [&] {
        return (*this)[rank].err().find("begun") != std::string::npos;
      })) << (*this)[rank].err();
    // They are in their calls, and have said so.
    std::this_thread::sleep_for(4 * kBeat);
  }
  /// What their records say together.
  std::string explanation() const { return explain_hang(read_rank_records(folder.path())); }
  /// Expects all ranks but one to end within `time`, with one line that says `text`.
  void expect_end(std::chrono::milliseconds time, int64_t without, const std::string& text) {
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
};

/// Makes the kind's call; rank 1 never comes.
void wait_in_call(Group& group, int kind) {
  if (group.rank() == 1) std::this_thread::sleep_for(1min);
  std::vector<std::byte> own(100'000), all(own.size() * static_cast<size_t>(group.size())),
      got(all.size());
  std::vector<int64_t> counts(static_cast<size_t>(group.size()), std::ssize(own));
  if (kind == 0) group.all_to_all(all, counts, got, counts, {"a call"});
  if (kind == 1) group.all_gather(own, all, {"a call"});
  if (kind == 2) group.broadcast(own, 0, {"a call"});
  if (kind == 3) group.broadcast(own, 1, {"a call"});
}

class InCall : public ::testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(Kinds, InCall, ::testing::Values(0, 1, 2, 3));

TEST_P(InCall, TheOthersEndWhenARankIsKilled) {
  if (this_rank()) {
    run_rank([](Peers& peers) {
      peers.recorder->enter("train", 3);
      wait_in_call(*peers.world, GetParam());
    });
    return;
  }
  StartedRanks ranks(3, Meeting::kOfTheRanks);
  ranks[1].send(SIGKILL);
  ranks.expect_end(kEnd, 1, "#1 \"a call\": a call: expected rank 1 in ");
}

TEST(Faults, TheOthersEndWhenTheRankWithTheStoreIsKilled) {
  if (this_rank()) {
    run_rank([](Peers& peers) { wait_in_call(*peers.world, 1); });
    return;
  }
  StartedRanks ranks(3, Meeting::kOfTheRanks);
  ranks[0].send(SIGKILL);
  ranks.expect_end(kEnd, 0, "rank 0");
}

TEST(Faults, ARankThatIsStoppedIsNamed) {
  if (this_rank()) {
    run_rank([](Peers& peers) {
      peers.recorder->enter("sampling", 5);
      peers.world->barrier({"start"});
      wait_in_call(*peers.world, 1);
    });
    return;
  }
  StartedRanks ranks(3, Meeting::kOfTheRanks);
  ranks[1].send(SIGSTOP);
  ranks.expect_end(kSilence + kEnd, 1,
                   "error[rank-silent]: rank 1, sampling of step 5, after all-gather #1 \"start\": "
                   "expected a sign of life within 1000 ms, got none");
  EXPECT_THAT(ranks.explanation(),
              StartsWith("rank 1 may not have entered all-gather #2 \"a call\", which ranks 0 2 "
                         "wait for\n"));
}

TEST(Faults, TheRankWithTheStoreThatIsStoppedIsNamed) {
  if (this_rank()) {
    run_rank([](Peers& peers) { wait_in_call(*peers.world, 1); });
    return;
  }
  StartedRanks ranks(3, Meeting::kOfTheRanks);
  ranks[0].send(SIGSTOP);
  ranks.expect_end(kSilence + kEnd, 0, "error[store-late]: rank 0");
}

TEST(Faults, AllEndWhenTheStoreIsGone) {
  if (this_rank()) {
    run_rank([](Peers& peers) { wait_in_call(*peers.world, 1); });
    return;
  }
  StartedRanks ranks(3, Meeting::kOfTheTest);
  ranks.end_store();
  ranks.expect_end(kEnd, -1, "error[store-lost]: rank ");
}

TEST(Faults, AllEndWithTheErrorOfARank) {
  if (this_rank()) {
    run_rank([](Peers& peers) {
      peers.world->barrier({"start"});
      peers.recorder->enter("rewards", 2);
      if (peers.world->rank() == 2) {
        std::this_thread::sleep_for(8 * kBeat);
        lockstep::fail<FormatError>("bad-row", "rows.jsonl:7", "expected a solution, got none");
      }
      wait_in_call(*peers.world, 1);
    });
    return;
  }
  StartedRanks ranks(4, Meeting::kOfTheRanks);
  ranks.expect_end(kEnd, -1,
                   "error[bad-row]: rank 2, rewards of step 2, after all-gather #1 \"start\": "
                   "rows.jsonl:7: expected a solution, got none");
  EXPECT_THAT(ranks.explanation(),
              StartsWith("ranks 1 2 never entered all-gather #2 \"a call\", which ranks 0 3 wait "
                         "for\n"));
}

TEST(Faults, TheCauseIsNamedWhenItsConnectionsCloseFirst) {
  if (this_rank()) {
    run_rank([](Peers& peers) {
      peers.world->barrier({"start"});
      if (peers.world->rank() != 1) {
        peers.world->barrier({"next"});
        return;
      }
      std::this_thread::sleep_for(8 * kBeat);
      peers.world.reset();
      std::this_thread::sleep_for(150ms);
      const RankFailure failure = peers.monitor->fail("no-memory", "expected more memory");
      fmt::print(stderr, "lockstep: error[{}]: {}\n", failure.code, failure.text());
      std::fflush(nullptr);
      ::_exit(1);
    });
    return;
  }
  StartedRanks ranks(3, Meeting::kOfTheRanks);
  ranks.expect_end(kEnd, -1, "error[no-memory]: rank 1, after ");
}

TEST(Faults, ARankThatEndsEarlyEndsTheOthers) {
  if (this_rank()) {
    if (this_rank()->rank == 1) {
      {
        const Peers peers = join_run();
        std::fputs("begun\n", stderr);
        std::this_thread::sleep_for(8 * kBeat);
      }
      ::_exit(0);
    }
    run_rank([](Peers& peers) { wait_in_call(*peers.world, 1); });
    return;
  }
  StartedRanks ranks(3, Meeting::kOfTheRanks);
  ranks.expect_end(kEnd, 1, "error[rank-ended]: rank 1: expected a whole run, got an early end");
}

TEST(Faults, ARankMayEndWellBeforeTheOthers) {
  if (this_rank()) {
    run_rank([](Peers& peers) {
      peers.world->barrier({"last"});
      // Longer than a rank may be silent.
      std::this_thread::sleep_for(peers.world->rank() * kSilence * 3 / 2);
    });
    return;
  }
  StartedRanks ranks(3, Meeting::kOfTheRanks);
  for (int64_t rank = 0; rank < 3; ++rank) {
    const testing::ProgramResult result = ranks.wait(rank, 3 * kSilence + 3s);
    EXPECT_EQ(result.exit_code, 0) << rank << result.err;
  }
}

}  // namespace
}  // namespace lockstep::parallel
