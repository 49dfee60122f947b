// Processes that find each other, or do not.
// SPDX-License-Identifier: Apache-2.0
#include "parallel/join.h"

#include <array>
#include <thread>
#include <unistd.h>

#include <gtest/gtest.h>

#include "base/check.h"
#include "tests/parallel/rank_processes.h"

namespace lockstep::parallel {
namespace {

using namespace std::chrono_literals;

/// What a launcher would tell this process.
LaunchInfo launch_of(const RankProcess& process) {
  return {.source = LaunchSource::kTorchrun,
          .rank = process.rank,
          .size = process.size,
          .local_rank = process.rank,
          .local_size = process.size,
          .master_address = "127.0.0.1",
          .master_port = process.store_port,
          .run_id = "test",
          .uses_agent_store = true};
}

/// Starts the ranks of the current test, and returns what they printed after they have ended well.
std::vector<std::string> run_processes(int64_t size, Meeting meeting = Meeting::kOfTheTest) {
  RankProcesses ranks(size, meeting);
  std::vector<std::string> printed;
  for (int64_t rank = 0; rank < size; ++rank) {
    const testing::ProgramResult result = ranks.wait(rank, 30s);
    EXPECT_EQ(result.exit_code, 0) << "rank " << rank << ":\n" << result.out << result.err;
    printed.push_back(result.out);
  }
  return printed;
}

/// The PeerError that joining throws, as "code: what".
std::string error_of_joining(const LaunchInfo& launch, const JoinOptions& options) {
  try {
    join(launch, options);
    return "none";
  } catch (const PeerError& error) {
    return error.code() + ": " + error.what();
  }
}

TEST(Join, AProcessThatIsAloneMeetsNobody) {
  const Peers peers = join({});
  EXPECT_EQ(peers.world->size(), 1);
  peers.store->set("key", "value");
  EXPECT_EQ(peers.world->gather("own", {"texts"}), std::vector<std::string>{"own"});
  EXPECT_EQ(peers.recorder->progress().last_call->name, "texts");
  peers.monitor->finish();
}

TEST(Join, TheRanksMeetAtTheLaunchersStore) {
  if (!this_rank()) {
    run_processes(3);
    return;
  }
  const Peers peers = join(launch_of(*this_rank()));
  EXPECT_EQ(peers.world->rank(), this_rank()->rank);
  EXPECT_EQ(peers.world->gather(std::to_string(peers.world->rank()), {"ranks"}),
            (std::vector<std::string>{"0", "1", "2"}));
  peers.monitor->finish();
}

TEST(Join, TheRanksMeetWhereTheFirstListens) {
  if (!this_rank()) {
    run_processes(4, Meeting::kOfTheRanks);
    return;
  }
  LaunchInfo launch = launch_of(*this_rank());
  launch.uses_agent_store = false;
  // The others try until it listens.
  if (launch.rank == 0) std::this_thread::sleep_for(300ms);
  const Peers peers = join(launch);
  peers.store->set(std::to_string(launch.rank), "here");
  peers.world->barrier({"end"});
  EXPECT_EQ(peers.store->get("2", 1s), "here");
  peers.monitor->finish();
}

TEST(Join, TwoHostsMayBeOne) {
  if (!this_rank()) {
    run_processes(2, Meeting::kOfTheRanks);
    return;
  }
  LaunchInfo launch = launch_of(*this_rank());
  launch.uses_agent_store = false;
  launch.node = launch.rank;
  launch.num_nodes = 2;
  launch.master_address = "localhost";
  const Peers peers = join(launch);
  peers.world->barrier({"end"});
  peers.monitor->finish();
}

TEST(Join, RanksThatDoNotComeAreNamed) {
  if (!this_rank()) {
    run_processes(4);
    return;
  }
  LaunchInfo launch = launch_of(*this_rank());
  if (launch.rank % 2 == 1) return;
  const auto begun = std::chrono::steady_clock::now();
  const std::string expected = fmt::format(
      "127.0.0.1:{}: expected 4 ranks within 1500 ms, got no ranks 1 3", launch.master_port);
  JoinOptions options{.deadline = 1500ms};
  // The first that gives up ends the other one.
  options.monitor.last_words = [&](const RankFailure& failure) {
    fmt::print("{}\n", failure.text());
    std::fflush(nullptr);
    ::_exit(failure.code == "rank-late" && failure.text().ends_with(", joining: " + expected) ? 0
                                                                                              : 1);
  };
  const std::string error = error_of_joining(launch, options);
  EXPECT_TRUE(error.starts_with("rank-late: rank ") && error.ends_with(", joining: " + expected))
      << error;
  EXPECT_LT(std::chrono::steady_clock::now() - begun, 4s);
}

/// A rank that has come and is gone ends those that wait for one that has not come yet.
TEST(Join, ARankThatFallsSilentMeanwhileEndsTheOthers) {
  if (!this_rank()) {
    RankProcesses ranks(3, Meeting::kOfTheRanks);
    for (const int64_t rank : {1, 2}) ranks.wait(rank, 10s);
    const testing::ProgramResult result = ranks.wait(0, 5s);
    EXPECT_EQ(result.exit_code, 3);
    EXPECT_NE(result.err.find("error[rank-silent]: rank 1, joining: expected a sign of life"),
              std::string::npos)
        << result.err;
    return;
  }
  LaunchInfo launch = launch_of(*this_rank());
  launch.uses_agent_store = false;
  if (launch.rank == 2) return;
  if (launch.rank == 1)
    std::thread([] {
      std::this_thread::sleep_for(2s);
      ::_exit(0);
    }).detach();
  join(launch, {.deadline = 30s, .monitor = {.beat = 100ms, .silence = 1s}});
}

TEST(Join, AnAttemptOrATokenOfItsOwnMeetsNobodyElse) {
  if (!this_rank()) {
    run_processes(3);
    return;
  }
  LaunchInfo launch = launch_of(*this_rank());
  const std::string token = launch.rank == 2 ? "other" : "ours";
  if (launch.rank == 1) launch.restart_count = 1;
  const std::string error = error_of_joining(launch, {.deadline = 1s, .token = token});
  constexpr std::array<const char*, 3> kOthers{"1 2", "0 2", "0 1"};
  EXPECT_TRUE(
      error.starts_with("rank-late") &&
      error.ends_with(std::string("got no ranks ") + kOthers[static_cast<size_t>(launch.rank)]))
      << error;
}

TEST(Join, ALaterAttemptDoesNotMeetTheFormerOnesKeys) {
  if (!this_rank()) {
    run_processes(2);
    return;
  }
  LaunchInfo launch = launch_of(*this_rank());
  for (; launch.restart_count < 3; ++launch.restart_count) {
    const Peers peers = join(launch);
    EXPECT_FALSE(peers.store->has("left"));
    peers.world->barrier({"looked"});
    peers.store->set("left", "something");
    peers.monitor->finish();
  }
}

TEST(Join, ARankThatIsThereTwiceIsAnError) {
  if (!this_rank()) {
    const std::vector<std::string> printed = run_processes(2);
    EXPECT_NE(printed[0].find("<taken>") == std::string::npos,
              printed[1].find("<taken>") == std::string::npos);
    return;
  }
  LaunchInfo launch = launch_of(*this_rank());
  launch.rank = 1;
  const std::string error = error_of_joining(launch, {.deadline = 1s});
  // One of the two has the rank, and waits for rank 0 in vain.
  EXPECT_TRUE(error.starts_with("rank-taken: rank 1: expected one process") ||
              error.find("got no rank 0") != std::string::npos)
      << error;
  std::fputs(error.starts_with("rank-taken") ? "<taken>" : "<first>", stdout);
}

}  // namespace
}  // namespace lockstep::parallel
