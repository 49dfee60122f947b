// Threads that wait for one another spin first, since waking a thread that sleeps takes longer than
// most of our loops. Beside another busy program spinning keeps a processor from the very thread
// that is waited for; then a spin ends without success, again and again, and is left out for a
// while. libgomp can only do one or the other, so it is set to sleep soon (cli/openmp_wait.cpp) and
// left to libtorch's own loops.
// SPDX-License-Identifier: Apache-2.0
#include "tensor/parallel.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <exception>
#include <linux/futex.h>
#include <memory>
#include <mutex>
#include <omp.h>
#include <sys/syscall.h>
#include <thread>
#include <unistd.h>
#include <utility>
#include <vector>

#include <ATen/Parallel.h>

namespace lockstep {
namespace {

using Clock = std::chrono::steady_clock;

/// How long a thread spins before it sleeps: longer than what lies between two loops of a decode
/// step, shorter than what a loop of training takes.
constexpr std::chrono::microseconds kSpinTime{50};
/// Waits without a spin that follow on spins in vain, at most.
constexpr int kMostWithoutSpin = 64;

void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

/// A number that one thread sets and another waits for.
class Signal {
 public:
  uint32_t value() const { return value_.load(); }

  void set(uint32_t value) {
    value_.store(value);
    if (is_asleep_.load()) futex(FUTEX_WAKE_PRIVATE, 1);
  }

  /// Returns the number as soon as it is another than `old`. One thread at a time may wait.
  uint32_t wait_for_other_than(uint32_t old) {
    if (!spin(old)) {
      is_asleep_.store(true);
      // The kernel compares once more before the thread sleeps, so no set() is missed.
      while (value_.load() == old) futex(FUTEX_WAIT_PRIVATE, old);
      is_asleep_.store(false);
    }
    return value_.load();
  }

 private:
  bool spin(uint32_t old) {
    if (value_.load(std::memory_order_acquire) != old) return true;
    if (without_spin_ > 0) {
      --without_spin_;
      return false;
    }
    const auto end = Clock::now() + kSpinTime;
    do {
      for (int i = 0; i < 8; ++i) {
        relax();
        if (value_.load(std::memory_order_acquire) != old) {
          in_vain_ = 0;
          return true;
        }
      }
    } while (Clock::now() < end);
    // The first may have been the end of a phase; from the second on it is a habit.
    without_spin_ = std::min((1 << std::min(in_vain_, 16)) - 1, kMostWithoutSpin);
    ++in_vain_;
    return false;
  }

  void futex(int operation, uint32_t value) {
    static_assert(sizeof(value_) == sizeof(uint32_t));
    syscall(SYS_futex, &value_, operation, value, nullptr, nullptr, 0);
  }

  std::atomic<uint32_t> value_ = 0;
  std::atomic<bool> is_asleep_ = false;
  /// Of the thread that waits: spins in vain since the last success, and waits that are to come
  /// without one.
  int in_vain_ = 0, without_spin_ = 0;
};

struct Loop {
  int64_t begin, end, chunk;
  const void* body;
  void (*call)(const void*, int64_t, int64_t);

  void run_chunk(int64_t index) const {
    const int64_t first = begin + index * chunk;
    call(body, first, std::min(end, first + chunk));
  }
};

/// Of libtorch's loops on this thread. libtorch sets it when a thread first asks, once for its own
/// code and once for its headers in ours, and only later changes stay.
int64_t num_threads() {
  at::internal::lazy_init_num_threads();
  return at::get_num_threads();
}

thread_local bool is_in_loop = false;

/// While it lives, loops on this thread run on this thread alone, libtorch's too.
class OneThread {
 public:
  OneThread() : threads_(omp_get_max_threads()) {
    is_in_loop = true;
    omp_set_num_threads(1);
  }
  ~OneThread() {
    omp_set_num_threads(threads_);
    is_in_loop = false;
  }
  OneThread(const OneThread&) = delete;
  OneThread& operator=(const OneThread&) = delete;

 private:
  int threads_;
};

class Pool {
 public:
  /// Chunk 0 runs on the calling thread, the others on one worker each; but what a worker has not
  /// begun when chunk 0 ends runs on the calling thread too, so that nobody waits for a worker to
  /// wake up. False where another thread holds the workers; then nothing has run.
  bool run(const Loop& loop, int64_t chunks) {
    const std::unique_lock lock(mutex_, std::try_to_lock);
    if (!lock) return false;
    while (std::ssize(workers_) < chunks - 1) add_worker();
    loop_ = &loop;
    ++ticket_;
    const uint32_t last_done = done_.value();
    unfinished_.store(static_cast<int>(chunks));
    for (int64_t i = 1; i < chunks; ++i) worker(i).turn.set(worker(i).turn.value() + 1);
    run_chunk(0);
    int finished = 1;
    for (int64_t i = 1; i < chunks; ++i)
      if (worker(i).claim(worker(i).turn.value())) {
        run_chunk(i);
        ++finished;
      }
    if (unfinished_.fetch_sub(finished) != finished) done_.wait_for_other_than(last_done);
    if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
    return true;
  }

 private:
  struct alignas(64) Worker {
    /// Counts the loops that the worker is asked to take part in.
    Signal turn;
    /// The last of them whose chunk somebody runs or has run.
    std::atomic<uint32_t> claimed = 0;

    /// True for the first who asks.
    bool claim(uint32_t wanted) {
      uint32_t before = wanted - 1;
      return claimed.compare_exchange_strong(before, wanted);
    }
  };

  /// Of chunk `index` >= 1.
  Worker& worker(int64_t index) { return *workers_[static_cast<size_t>(index - 1)]; }

  /// Workers sleep until the process ends, and are not joined.
  void add_worker() {
    workers_.push_back(std::make_unique<Worker>());
    std::thread([this, worker = workers_.back().get(), index = std::ssize(workers_)] {
      num_threads();
      const OneThread one_thread;
      for (uint32_t turn = 0;;) {
        turn = worker->turn.wait_for_other_than(turn);
        if (!worker->claim(turn)) continue;
        run_chunk(index);
        // When the last chunk is counted, the next loop may begin.
        const uint32_t ticket = ticket_;
        if (unfinished_.fetch_sub(1) == 1) done_.set(ticket);
      }
    }).detach();
  }

  void run_chunk(int64_t index) {
    try {
      loop_->run_chunk(index);
    } catch (...) {
      const std::lock_guard lock(error_mutex_);
      if (!error_) error_ = std::current_exception();
    }
  }

  std::mutex mutex_;
  std::vector<std::unique_ptr<Worker>> workers_;
  const Loop* loop_ = nullptr;
  /// The number of the loop that runs.
  uint32_t ticket_ = 0;
  std::atomic<int> unfinished_ = 0;
  Signal done_;
  std::mutex error_mutex_;
  std::exception_ptr error_;
};

}  // namespace

void internal::run_parallel(int64_t begin,
                            int64_t end,
                            int64_t grain,
                            const void* body,
                            void (*call)(const void*, int64_t, int64_t)) {
  if (begin >= end) return;
  const int64_t count = end - begin;
  if (count > 1 && count > grain && !is_in_loop && !at::in_parallel_region()) {
    grain = std::max<int64_t>(1, grain);
    const int64_t threads = std::min(num_threads(), (count + grain - 1) / grain);
    if (threads > 1) {
      const Loop loop{begin, end, (count + threads - 1) / threads, body, call};
      // Never destroyed: its workers wait in it when static objects are.
      static Pool& pool = *new Pool;
      const OneThread one_thread;
      if (pool.run(loop, (count + loop.chunk - 1) / loop.chunk)) return;
    }
  }
  call(body, begin, end);
}

}  // namespace lockstep
