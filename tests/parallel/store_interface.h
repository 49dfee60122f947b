// What every store does.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <string>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include "base/check.h"
#include "parallel/store.h"

namespace lockstep::parallel {

/// Expects of an empty store what all stores do.
inline void expect_store(Store& store) {
  using namespace std::chrono_literals;
  const std::string bytes("a\0b\xff", 4);
  EXPECT_FALSE(store.has("key"));
  store.set("key", "first");
  store.set("key", bytes);
  EXPECT_TRUE(store.has("key"));
  EXPECT_EQ(store.get("key", 1s), bytes);

  EXPECT_EQ(store.add("counter", 3), 3);
  EXPECT_EQ(store.another()->add("counter", -1), 2);
  EXPECT_TRUE(store.has("counter"));

  // A value that comes while another thread waits for it.
  const auto other = store.another();
  std::thread later([&] {
    std::this_thread::sleep_for(50ms);
    other->set("later", "now");
  });
  EXPECT_EQ(store.get("later", 5s), "now");
  later.join();

  const std::vector<std::string> there{"key", "later"}, missing{"key", "missing"};
  EXPECT_TRUE(store.wait(there, 1s));
  const auto begun = std::chrono::steady_clock::now();
  EXPECT_FALSE(store.wait(missing, 60ms));
  EXPECT_GE(std::chrono::steady_clock::now() - begun, 60ms);
  try {
    store.get("missing", 60ms);
    ADD_FAILURE() << "a value that nobody has set";
  } catch (const PeerError& error) {
    EXPECT_EQ(error.code(), "store-late");
  }
  EXPECT_LT(std::chrono::steady_clock::now() - begun, 2s);
  // It goes on after a wait that was in vain.
  EXPECT_TRUE(store.has("key"));
}

}  // namespace lockstep::parallel
