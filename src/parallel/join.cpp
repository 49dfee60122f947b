// SPDX-License-Identifier: Apache-2.0
#include "parallel/join.h"

#include <tuple>
#include <unistd.h>
#include <utility>
#include <vector>

#include <fmt/ranges.h>

#include "base/check.h"
#include "parallel/c10d_group.h"
#include "parallel/c10d_store.h"
#include "parallel/host_address.h"
#include "parallel/local_group.h"

namespace lockstep::parallel {
namespace {

using Clock = std::chrono::steady_clock;
using Milliseconds = std::chrono::milliseconds;

/// A launcher's store outlives an attempt, with its keys, and may hold those of others.
std::string prefix_of(const LaunchInfo& launch, const JoinOptions& options) {
  return fmt::format("lockstep/{}/{}/{}/", launch.run_id, launch.restart_count, options.token);
}

std::string rank_key(int64_t rank) { return fmt::format("rank/{}", rank); }

/// Host and process, as errors name them.
std::string own_name() {
  char host[256] = {};
  ::gethostname(host, sizeof(host) - 1);
  return fmt::format("{}, process {}", host, ::getpid());
}

/// "ranks 2 3 5", at most eight of them.
std::string list_of(const std::vector<int64_t>& ranks) {
  constexpr size_t kMost = 8;
  const auto shown = std::span(ranks).first(std::min(ranks.size(), kMost));
  return fmt::format("rank{} {}{}", ranks.size() > 1 ? "s" : "", fmt::join(shown, " "),
                     ranks.size() > kMost ? fmt::format(" … ({} in all)", ranks.size()) : "");
}

/// Says that this rank is there, and waits for the others.
void wait_for_all(Store& store,
                  const LaunchInfo& launch,
                  const JoinOptions& options,
                  Milliseconds time) {
  if (store.add(fmt::format("taken/{}", launch.rank), 1) > 1)
    fail<PeerError>("rank-taken", fmt::format("rank {}", launch.rank),
                    "expected one process with this rank, got {} besides {}", own_name(),
                    store.get(rank_key(launch.rank), time));
  store.set(rank_key(launch.rank), own_name());
  std::vector<std::string> keys;
  for (int64_t rank = 0; rank < launch.size; ++rank) keys.push_back(rank_key(rank));
  if (store.wait(keys, time)) return;
  std::vector<int64_t> missing;
  for (int64_t rank = 0; rank < launch.size; ++rank)
    if (!store.has(rank_key(rank))) missing.push_back(rank);
  fail<PeerError>("rank-late", fmt::format("{}:{}", launch.master_address, launch.master_port),
                  "expected {} ranks within {} ms, got no {}", launch.size,
                  options.deadline.count(), list_of(missing));
}

/// The address under which the other ranks reach this host.
std::string own_address(Store& store, const LaunchInfo& launch, Milliseconds time) {
  // The host of rank 0 may know its own name as loopback's, of which the other hosts have no use;
  // they say how they know it.
  const std::string key = "address of node 0", local = local_address_towards(launch.master_address);
  if (launch.node != 0) store.set(key, resolve_host(launch.master_address));
  if (launch.num_nodes == 1 || launch.node != 0 || !is_loopback(local)) return local;
  return store.get(key, time);
}

/// The store and the world of ranks that are processes.
std::pair<std::unique_ptr<Store>, std::unique_ptr<Group>> meet(const LaunchInfo& launch,
                                                               const JoinOptions& options) {
  const auto end = Clock::now() + options.deadline;
  const auto left = [&] {
    return std::max(Milliseconds(1), std::chrono::ceil<Milliseconds>(end - Clock::now()));
  };
  auto store =
      make_prefix_store(make_c10d_store({.host = launch.master_address,
                                         .port = launch.master_port,
                                         .is_server = launch.rank == 0 && !launch.uses_agent_store,
                                         .is_one_host = launch.num_nodes == 1},
                                        options.deadline),
                        prefix_of(launch, options));
  wait_for_all(*store, launch, options, left());
  const std::string address = own_address(*store, launch, left());
  auto world = make_c10d_group(make_prefix_store(store->another(), "world/"),
                               {.rank = launch.rank,
                                .size = launch.size,
                                .address = address,
                                .deadline = left(),
                                .call_deadline = options.call_deadline});
  return {std::move(store), std::move(world)};
}

}  // namespace

Peers join(const LaunchInfo& launch, const JoinOptions& options) {
  Peers peers;
  peers.recorder = std::make_unique<Recorder>();
  std::unique_ptr<Group> world;
  if (launch.is_alone()) {
    peers.store = make_memory_store();
    world = std::move(make_local_groups(1).front());
  } else {
    std::tie(peers.store, world) = meet(launch, options);
  }
  peers.world = make_recorded_group(std::move(world), "world", *peers.recorder);
  peers.monitor = std::make_unique<Monitor>(
      peers.store->another(),
      Monitor::Place{
          .rank = launch.rank, .size = launch.size, .is_store_of_rank_0 = !launch.uses_agent_store},
      *peers.recorder, options.monitor);
  return peers;
}

}  // namespace lockstep::parallel
