// Runs a function on every rank of a group of threads.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <exception>
#include <thread>
#include <vector>

#include "parallel/local_group.h"

namespace lockstep {

/// Calls action(group) on a thread for each rank, and throws what the first of them has thrown.
template <class Action>
void run_ranks(int64_t size, Action&& action) {
  auto groups = parallel::make_local_groups(size);
  std::vector<std::exception_ptr> errors(groups.size());
  std::vector<std::thread> threads;
  for (size_t rank = 0; rank < groups.size(); ++rank)
    threads.emplace_back([&, rank] {
      try {
        action(*groups[rank]);
      } catch (...) {
        errors[rank] = std::current_exception();
      }
    });
  for (std::thread& thread : threads) thread.join();
  for (const std::exception_ptr& error : errors)
    if (error) std::rethrow_exception(error);
}

}  // namespace lockstep
