// A loop over a few plain threads.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cstddef>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

namespace lockstep::layout {

/// Runs work(i) for 0 <= i < count on `num_threads` threads, of which the caller's is one. When a
/// call throws, no further one begins, and the first exception comes out.
template <class Work>
void run_parallel(int num_threads, size_t count, const Work& work) {
  std::atomic<size_t> next{0};
  std::exception_ptr error;
  std::mutex guard;
  const auto loop = [&] {
    try {
      for (size_t i = next++; i < count; i = next++) work(i);
    } catch (...) {
      const std::lock_guard lock(guard);
      if (!error) error = std::current_exception();
      next = count;
    }
  };
  std::vector<std::jthread> threads;
  for (int t = 1; t < num_threads && static_cast<size_t>(t) < count; ++t)
    threads.emplace_back(loop);
  loop();
  threads.clear();
  if (error) std::rethrow_exception(error);
}

}  // namespace lockstep::layout
