// Two network namespaces as two hosts, with a link between them.
// SPDX-License-Identifier: Apache-2.0
#include "tests/support/two_hosts.h"

#include <csignal>
#include <cstdlib>
#include <thread>

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/check.h"
#include "tests/parallel/started_ranks.h"

namespace lockstep::parallel {
namespace {

using namespace std::chrono_literals;

/// What starts a rank on its host: two on each.
RankProcesses::Starter starter_on(const testing::TwoHosts& hosts) {
  return [&hosts](int64_t rank) { return hosts.words(rank / 2); };
}

/// What the launcher tells a rank of the four.
LaunchInfo launch_of(const RankProcess& process) {
  return {.source = LaunchSource::kTorchrun,
          .rank = process.rank,
          .size = process.size,
          .local_rank = process.rank % 2,
          .local_size = 2,
          .node = process.rank / 2,
          .num_nodes = 2,
          .master_address = "n01",
          .master_port = process.store_port};
}

TEST(TwoHosts, TheirRanksMeetThoughAHostKnowsItselfAsLoopback) {
  if (this_rank()) {
    run_rank(launch_of(*this_rank()), [](Peers& peers) {
      const std::string own(100'000, static_cast<char>('a' + peers.world->rank()));
      const auto texts = peers.world->gather(own, {"texts"});
      for (size_t rank = 0; rank < texts.size(); ++rank)
        if (texts[rank] != std::string(own.size(), static_cast<char>('a' + rank)))
          fail<InternalError>("internal", "texts", "rank {} sent another text", rank);
    });
    return;
  }
  const testing::TwoHosts hosts;
  if (!hosts.is_there()) GTEST_SKIP() << "this machine allows no network namespaces";
  StartedRanks ranks(4, Meeting::kOfTheRanks, starter_on(hosts));
  for (int64_t rank = 0; rank < 4; ++rank) {
    const testing::ProgramResult result = ranks.wait(rank, 20s);
    EXPECT_EQ(result.exit_code, 0) << rank << result.err;
  }
}

TEST(TwoHosts, BothEndWhenTheirLinkIsCut) {
  if (this_rank()) {
    run_rank(launch_of(*this_rank()), [](Peers& peers) {
      if (peers.world->rank() == 3) std::this_thread::sleep_for(1min);
      peers.world->barrier({"a call"});
    });
    return;
  }
  testing::TwoHosts hosts;
  if (!hosts.is_there()) GTEST_SKIP() << "this machine allows no network namespaces";
  StartedRanks ranks(4, Meeting::kOfTheRanks, starter_on(hosts));
  hosts.set_link(false);
  // Each host names the other.
  const auto begun = std::chrono::steady_clock::now();
  for (int64_t rank = 0; rank < 4; ++rank) {
    const testing::ProgramResult result = ranks.wait(rank, kSilence + kEnd);
    EXPECT_EQ(result.exit_code, 3) << rank << result.err;
    EXPECT_THAT(result.err, ::testing::ContainsRegex(rank < 2 ? "error.rank-silent.: rank [23]"
                                                              : "error.store-late.: rank 0"));
  }
  EXPECT_LT(std::chrono::steady_clock::now() - begun, kSilence + kEnd);
}

}  // namespace
}  // namespace lockstep::parallel
