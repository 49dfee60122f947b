// Ranks that are killed, stopped or fail, and what becomes of the others, and when.
// SPDX-License-Identifier: Apache-2.0
#include <csignal>
#include <cstdlib>
#include <ctime>
#include <thread>
#include <unistd.h>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/check.h"
#include "tests/parallel/started_ranks.h"

namespace lockstep::parallel {
namespace {

using namespace std::chrono_literals;
using ::testing::StartsWith;

/// What the ranks of these tests know at their start.
LaunchInfo launch_of(const RankProcess& process) {
  return {.source = LaunchSource::kTorchrun,
          .rank = process.rank,
          .size = process.size,
          .master_address = "127.0.0.1",
          .master_port = process.store_port,
          .uses_agent_store = process.is_store_of_test};
}
void run_rank(const std::function<void(Peers&)>& action) {
  parallel::run_rank(launch_of(*this_rank()), action);
}

/// Makes the kind's call; rank 1 never comes.
void wait_in_call(Group& group, int kind) {
  if (group.rank() == 1) std::this_thread::sleep_for(1min);
  std::vector<std::byte> own(100'000), all(own.size() * static_cast<size_t>(group.size())),
      got(all.size());
  std::vector<int64_t> counts(static_cast<size_t>(group.size()), std::ssize(own));
  if (kind == 0) group.all_to_all(all, counts, got, counts, {"a call"});
  if (kind == 1) group.all_gather(own, all, {"a call"});
  if (kind == 2) group.broadcast(own, 1, {"a call"});
}

class InCall : public ::testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(Kinds, InCall, ::testing::Values(0, 1, 2));

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
  ranks.expect_end(kSilence + kEnd, 0,
                   "error[store-late]: rank 0: expected an answer of the store within 1000 ms, got "
                   "none (this rank has the store); seen by rank ");
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
        const Peers peers = join_run(launch_of(*this_rank()));
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
      std::this_thread::sleep_for(peers.world->rank() * kSilence * 5 / 4);
    });
    return;
  }
  StartedRanks ranks(3, Meeting::kOfTheRanks);
  for (int64_t rank = 0; rank < 3; ++rank) {
    const testing::ProgramResult result = ranks.wait(rank, 3 * kSilence + 3s);
    EXPECT_EQ(result.exit_code, 0) << rank << result.err;
  }
}

/// The processor time that all threads of this process use in `action`.
std::chrono::milliseconds used_by(const std::function<void()>& action) {
  const auto now = [] {
    timespec time{};
    ::clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
    return std::chrono::seconds(time.tv_sec) + std::chrono::nanoseconds(time.tv_nsec);
  };
  const auto begun = now();
  action();
  return std::chrono::floor<std::chrono::milliseconds>(now() - begun);
}

TEST(Waiting, UsesNoProcessor) {
  if (!this_rank()) {
    StartedRanks ranks(2, Meeting::kOfTheRanks);
    for (int64_t rank = 0; rank < 2; ++rank) {
      const testing::ProgramResult result = ranks.wait(rank, 10s);
      EXPECT_EQ(result.exit_code, 0) << rank << result.err;
    }
    return;
  }
  run_rank([](Peers& peers) {
    std::vector<std::byte> own(1'000'000), all(2 * own.size());
    if (peers.world->rank() == 1) std::this_thread::sleep_for(1s);
    const auto waiting = used_by([&] { peers.world->barrier({"late"}); });
    // A call that is given up while the other rank sends leaves nothing that turns round and round.
    auto pending = peers.world->begin_all_gather(own, all, {"given up"});
    if (peers.world->rank() == 0) {
      pending.reset();
      const auto after = used_by([] { std::this_thread::sleep_for(1s); });
      if (waiting + after > 100ms)
        lockstep::fail<InternalError>("spin", "waiting", "{} ms and {} ms", waiting.count(),
                                      after.count());
    } else {
      EXPECT_THROW(pending->wait(), PeerError);
      std::this_thread::sleep_for(1s);
    }
  });
}

}  // namespace
}  // namespace lockstep::parallel
