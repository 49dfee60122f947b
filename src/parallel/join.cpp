// SPDX-License-Identifier: Apache-2.0
#include "parallel/join.h"

#include <unistd.h>
#include <utility>
#include <vector>

#include <fmt/ranges.h>

#include "base/check.h"
#include "base/interrupt.h"
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

/// Throws where another process has this rank.
void take_rank(Store& store, const LaunchInfo& launch, Milliseconds time) {
  if (store.add(fmt::format("taken/{}", launch.rank), 1) > 1)
    fail<PeerError>("rank-taken", fmt::format("rank {}", launch.rank),
                    "expected one process with this rank, got {} besides {}", own_name(),
                    store.get(rank_key(launch.rank), time));
}

/// Says that this rank is there, and waits for the others.
void wait_for_all(Store& store,
                  const LaunchInfo& launch,
                  const JoinOptions& options,
                  Clock::time_point end) {
  // A signal that comes meanwhile is heard between two waits.
  constexpr Milliseconds kHeardWithin{250};
  store.set(rank_key(launch.rank), own_name());
  std::vector<std::string> keys;
  for (int64_t rank = 0; rank < launch.size; ++rank) keys.push_back(rank_key(rank));
  do {
    if (store.wait(keys, kHeardWithin)) return;
    throw_if_interrupted();
  } while (Clock::now() < end);
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

/// Where and until when the ranks meet.
struct Meeting {
  const LaunchInfo& launch;
  const JoinOptions& options;
  Clock::time_point end = Clock::now() + options.deadline;

  Milliseconds left() const {
    return std::max(Milliseconds(1), std::chrono::ceil<Milliseconds>(end - Clock::now()));
  }
};

std::unique_ptr<Store> store_of(const Meeting& meeting) {
  const LaunchInfo& launch = meeting.launch;
  return make_prefix_store(
      make_c10d_store({.host = launch.master_address,
                       .port = launch.master_port,
                       .is_server = launch.rank == 0 && !launch.uses_agent_store,
                       .is_one_host = launch.num_nodes == 1},
                      meeting.options.deadline),
      prefix_of(launch, meeting.options));
}

std::unique_ptr<Group> world_of(Store& store, const Meeting& meeting) {
  wait_for_all(store, meeting.launch, meeting.options, meeting.end);
  const std::string address = own_address(store, meeting.launch, meeting.left());
  return make_c10d_group(make_prefix_store(store.another(), "world/"),
                         {.rank = meeting.launch.rank,
                          .size = meeting.launch.size,
                          .address = address,
                          .deadline = meeting.left(),
                          .call_deadline = meeting.options.call_deadline});
}

/// Joins the ranks that are processes.
void meet(const LaunchInfo& launch, const JoinOptions& options, Peers& peers) {
  const Meeting meeting{.launch = launch, .options = options};
  peers.recorder->enter("joining", 0);
  peers.store = store_of(meeting);
  take_rank(*peers.store, launch, meeting.left());
  // From here on nobody waits for a rank that is gone: this one is watched before it says that it
  // is there, and watches while it waits.
  peers.monitor = std::make_unique<Monitor>(
      peers.store->another(),
      Monitor::Place{
          .rank = launch.rank, .size = launch.size, .is_store_of_rank_0 = !launch.uses_agent_store},
      *peers.recorder, options.monitor);
  try {
    peers.world = make_recorded_group(world_of(*peers.store, meeting), "world", *peers.recorder);
  } catch (const PeerError& error) {
    const RankFailure first = peers.monitor->fail(error.code(), error.what());
    fail<PeerError>(first.code.c_str(), first.place(), "{}", first.message);
  } catch (const Error& error) {
    peers.monitor->fail(error.code(), error.what());
    throw;
  }
}

}  // namespace

Peers join(const LaunchInfo& launch, const JoinOptions& options) {
  Peers peers;
  peers.recorder = std::make_unique<Recorder>();
  if (launch.is_alone()) {
    peers.store = make_memory_store();
    peers.world =
        make_recorded_group(std::move(make_local_groups(1).front()), "world", *peers.recorder);
    peers.monitor = std::make_unique<Monitor>(peers.store->another(), Monitor::Place{},
                                              *peers.recorder, options.monitor);
  } else {
    meet(launch, options, peers);
  }
  return peers;
}

}  // namespace lockstep::parallel
