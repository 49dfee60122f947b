// Two network namespaces as two hosts, with a link between them.
// SPDX-License-Identifier: Apache-2.0
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

/// Two hosts, n01 and n02, as far as the network goes. Each knows itself as 127.0.1.1, as Debian's
/// hosts do, and the other one by its address.
class TwoHosts {
 public:
  TwoHosts() : first_(holder()), second_(holder()) {
    for (auto* host : {&first_, &second_}) {
      const std::string files = fmt::format("/proc/{}/ns/net", host->process());
      is_there_ = is_there_ && testing::wait_until(*host, [&] {
                    return std::filesystem::read_symlink(files) !=
                           std::filesystem::read_symlink("/proc/self/ns/net");
                  });
    }
    is_there_ = is_there_ && is_done("ip link add va netns {} type veth peer name vb netns {}",
                                     first_.process(), second_.process());
    is_there_ = is_there_ && set_up(first_, "va", "192.168.97.1", "n01", "192.168.97.2 n02");
    is_there_ = is_there_ && set_up(second_, "vb", "192.168.97.2", "n02", "192.168.97.1 n01");
  }

  /// Whether this machine allows them.
  bool is_there() const { return is_there_; }
  /// What starts a rank on its host: two on each.
  RankProcesses::Starter starter() const {
    return [this](int64_t rank) { return words(rank < 2 ? first_ : second_); };
  }
  void cut_the_link() { EXPECT_TRUE(is_done("nsenter -t {} -n ip link set va down", pid(first_))); }

 private:
  static testing::RunningProgram holder() {
    testing::ProgramWorld world;
    world.program = "/usr/bin/unshare";
    return testing::RunningProgram({"-n", "-m", "sleep", "120"}, world);
  }
  template <class... Args>
  static bool is_done(fmt::format_string<Args...> command, Args&&... args) {
    const std::string text = fmt::format(command, std::forward<Args>(args)...) + " 2>/dev/null";
    return std::system(text.c_str()) == 0;
  }
  static pid_t pid(const testing::RunningProgram& host) { return host.process(); }
  static std::vector<std::string> words(const testing::RunningProgram& host) {
    return {"/usr/bin/nsenter", "-t", std::to_string(host.process()), "-n", "-m"};
  }
  bool set_up(const testing::RunningProgram& host,
              const std::string& link,
              const std::string& address,
              const std::string& name,
              const std::string& other) {
    const auto file =
        folder_.write(name, fmt::format("127.0.0.1 localhost\n127.0.1.1 {}\n{}\n", name, other));
    return is_done(
        "nsenter -t {0} -n -m sh -c 'ip addr add {1}/24 dev {2} && ip link set {2} up && "
        "ip link set lo up && mount --bind {3} /etc/hosts'",
        pid(host), address, link, file.string());
  }

  testing::TempDir folder_;
  testing::RunningProgram first_, second_;
  bool is_there_ = true;
};

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
  const TwoHosts hosts;
  if (!hosts.is_there()) GTEST_SKIP() << "this machine allows no network namespaces";
  StartedRanks ranks(4, Meeting::kOfTheRanks, hosts.starter());
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
  TwoHosts hosts;
  if (!hosts.is_there()) GTEST_SKIP() << "this machine allows no network namespaces";
  StartedRanks ranks(4, Meeting::kOfTheRanks, hosts.starter());
  hosts.cut_the_link();
  // Each host names the other.
  const auto begun = std::chrono::steady_clock::now();
  for (int64_t rank = 0; rank < 4; ++rank) {
    const testing::ProgramResult result = ranks.wait(rank, kSilence + kEnd);
    EXPECT_EQ(result.exit_code, 3) << rank << result.err;
    EXPECT_THAT(result.err, ::testing::HasSubstr(rank < 2 ? "error[rank-silent]: rank 2"
                                                          : "error[store-late]: "
                                                            "rank 0"));
  }
  EXPECT_LT(std::chrono::steady_clock::now() - begun, kSilence + kEnd);
}

}  // namespace
}  // namespace lockstep::parallel
