// Stores in this process.
// SPDX-License-Identifier: Apache-2.0
#include "parallel/store.h"

#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include "base/check.h"
#include "parallel/host_address.h"
#include "tests/parallel/store_interface.h"

namespace lockstep::parallel {
namespace {

using namespace std::chrono_literals;

TEST(MemoryStore, DoesWhatStoresDo) { expect_store(*make_memory_store()); }

TEST(PrefixStore, DoesWhatStoresDo) { expect_store(*make_prefix_store(make_memory_store(), "a/")); }

TEST(PrefixStore, HoldsItsKeysApart) {
  const auto memory = make_memory_store();
  const auto first = make_prefix_store(memory->another(), "first/");
  const auto second = make_prefix_store(memory->another(), "second/");
  first->set("key", "1");
  EXPECT_FALSE(second->has("key"));
  EXPECT_FALSE(memory->has("key"));
  EXPECT_EQ(memory->get("first/key", 1s), "1");
  EXPECT_EQ(first->another()->get("key", 1s), "1");
}

TEST(HostAddress, IsNumericAndTowardsTheOther) {
  EXPECT_EQ(resolve_host("localhost"), "127.0.0.1");
  EXPECT_EQ(local_address_towards("127.0.0.1"), "127.0.0.1");
  EXPECT_TRUE(is_loopback("127.0.1.1"));
  EXPECT_TRUE(is_loopback("::1"));
  EXPECT_FALSE(is_loopback("10.0.0.1"));
  EXPECT_THROW(resolve_host("no-such-host.invalid"), IoError);
}

TEST(HostAddress, ATakenPortIsAnError) {
  const int socket = listen_at("127.0.0.1", 0);
  try {
    listen_at("127.0.0.1", port_of(socket));
    FAIL();
  } catch (const IoError& error) {
    EXPECT_EQ(error.code(), "store-address");
    EXPECT_EQ(error.where(), fmt::format("127.0.0.1:{}", port_of(socket)));
  }
  ::close(socket);
}

}  // namespace
}  // namespace lockstep::parallel
