// Groups of processes, over Gloo and loopback.
// SPDX-License-Identifier: Apache-2.0
#include <csignal>
#include <cstdlib>
#include <fcntl.h>
#include <filesystem>

#include <gtest/gtest.h>

#include "base/check.h"
#include "parallel/c10d_store.h"
#include "parallel/host_address.h"
#include "tests/parallel/group_interface.h"
#include "tests/parallel/rank_processes.h"
#include "tests/parallel/store_interface.h"

namespace lockstep::parallel {
namespace {

using namespace std::chrono_literals;

INSTANTIATE_TEST_SUITE_P(Processes,
                         Groups,
                         ::testing::Values(GroupKind{"Gloo", run_on_processes, 1},
                                           GroupKind{"Gloo", run_on_processes, 2},
                                           GroupKind{"Gloo", run_on_processes, 4},
                                           GroupKind{"Gloo", run_on_processes, 8}),
                         name_of_kind);

TEST(C10dStore, DoesWhatStoresDo) {
  const int socket = listen_at("127.0.0.1", 0);
  const uint16_t port = port_of(socket);
  ::close(socket);
  const auto store = make_c10d_store({.host = "127.0.0.1", .port = port, .is_server = true}, 20s);
  expect_store(*store);
  const auto client = make_c10d_store({.host = "localhost", .port = port}, 20s);
  EXPECT_TRUE(client->has("key"));
}

TEST(C10dStore, OneThatIsNotThereIsAnErrorWithItsName) {
  const auto begun = std::chrono::steady_clock::now();
  try {
    make_c10d_store({.host = "127.0.0.1", .port = 1}, 300ms);
    FAIL();
  } catch (const PeerError& error) {
    EXPECT_EQ(error.code(), "store-late");
    EXPECT_EQ(error.where(), "127.0.0.1:1");
  }
  EXPECT_LT(std::chrono::steady_clock::now() - begun, 3s);
}

TEST(C10dGroup, ItsFilesCloseOnExec) {
  run_on_processes(2, [](Group& group) {
    group.barrier({"one"});
    for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
      const int descriptor = std::atoi(entry.path().filename().c_str());
      std::error_code gone;
      const std::string target = std::filesystem::read_symlink(entry.path(), gone).string();
      if (descriptor <= 2 || !target.starts_with("socket:")) continue;
      EXPECT_TRUE(::fcntl(descriptor, F_GETFD) & FD_CLOEXEC) << descriptor << " " << target;
    }
  });
}

}  // namespace
}  // namespace lockstep::parallel
