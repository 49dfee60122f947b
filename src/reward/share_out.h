// Shares work out among threads that mostly wait for others.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <atomic>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

namespace lockstep::reward {

/// Calls work(worker, index) for each index below `count`, in order but for those that run at once:
/// each of `workers` has one at a time. With one worker all runs on this thread. Rethrows what the
/// first of them threw, after which no other is begun.
template <class Work>
void share_out(size_t count, size_t workers, const Work& work) {
  std::atomic<size_t> next{0};
  std::mutex mutex;
  std::exception_ptr error;
  const auto run = [&](size_t worker) {
    try {
      for (size_t index = next++; index < count; index = next++) work(worker, index);
    } catch (...) {
      next = count;
      const std::lock_guard lock(mutex);
      if (!error) error = std::current_exception();
    }
  };
  std::vector<std::thread> threads;
  for (size_t worker = 1; worker < std::min(workers, count); ++worker)
    threads.emplace_back(run, worker);
  run(0);
  for (std::thread& thread : threads) thread.join();
  if (error) std::rethrow_exception(error);
}

}  // namespace lockstep::reward
