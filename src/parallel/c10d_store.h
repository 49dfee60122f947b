// The store of ranks that are processes: torch's TCPStore.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>

#include "parallel/store.h"

namespace lockstep::parallel {

/// Where a store is, and who listens there.
struct StoreAddress {
  std::string host;
  uint16_t port = 0;
  /// Whether this process listens; the others are clients. It listens at the host's address alone,
  /// unless that is loopback's on one host among several (`is_one_host` false), where the others
  /// could not come.
  bool is_server = false;
  bool is_one_host = true;
};

/// Connects to the store, as soon as it is there. With `is_server` it ends with the object that
/// this returns, whatever other ways to it there are.
///
/// Throws PeerError "store-late" when it is not there within `deadline`; IoError "store-address"
/// when this process cannot listen. Its waits are no longer than their deadlines, but a store whose
/// process is stopped holds up the others' calls until it goes on.
std::unique_ptr<Store> make_c10d_store(const StoreAddress& address,
                                       std::chrono::milliseconds deadline);

}  // namespace lockstep::parallel
