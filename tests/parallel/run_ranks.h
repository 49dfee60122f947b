// Runs a function on every rank of a group of threads.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <exception>
#include <memory>
#include <thread>
#include <vector>

#include "parallel/local_group.h"

namespace lockstep {

/// Calls action(*ranks[r]) on a thread for each rank r, whose part of `ranks` ends with it, and
/// throws what the first of them has thrown.
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
      ranks[rank].reset();
    });
  for (std::thread& thread : threads) thread.join();
  for (const std::exception_ptr& error : errors)
    if (error) std::rethrow_exception(error);
}

/// Calls action(group) on a thread for each rank, and throws what the first of them has thrown.
template <class Action>
void run_ranks(int64_t size, Action&& action) {
  run_on_threads(parallel::make_local_groups(size), action);
}

}  // namespace lockstep
