// Runs a function on every rank of a group of threads.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <exception>
#include <memory>
#include <thread>
#include <vector>

#include "base/check.h"
#include "parallel/local_group.h"

namespace lockstep {

/// Calls action(*ranks[r]) on a thread for each rank r, whose part of `ranks` ends with it, and
/// throws what one of them has thrown: an error of its own rather than that another rank was lost.
template <class Part, class Action>
void run_on_threads(std::vector<std::unique_ptr<Part>> ranks, Action&& action) {
  std::vector<std::exception_ptr> errors(ranks.size());
  std::vector<std::thread> threads;
  for (size_t rank = 0; rank < ranks.size(); ++rank)
    threads.emplace_back([&, rank] {
      try {
        action(*ranks[rank]);
      } catch (...) {
        errors[rank] = std::current_exception();
      }
      // Nobody waits for it any more.
      ranks[rank].reset();
    });
  for (std::thread& thread : threads) thread.join();
  std::exception_ptr lost;
  for (const std::exception_ptr& error : errors) {
    try {
      if (error) std::rethrow_exception(error);
    } catch (const PeerError&) {
      lost = error;
    }
  }
  if (lost) std::rethrow_exception(lost);
}

/// Calls action(group) on a thread for each rank, and throws as run_on_threads does.
template <class Action>
void run_ranks(int64_t size, Action&& action) {
  run_on_threads(parallel::make_local_groups(size), action);
}

}  // namespace lockstep
