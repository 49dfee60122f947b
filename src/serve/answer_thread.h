// The thread that makes answers out of what the sampler tells.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <condition_variable>
#include <cstddef>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <variant>
#include <vector>

#include "serve/generation.h"

namespace lockstep::serve {

/// Takes the sampler's events off its hands: post() costs the sampler a lock and a move. All events
/// that wait are worked on together, and each stream is written to once for them. Threads: any may
/// post.
class AnswerThread {
 public:
  AnswerThread();
  /// Drops what waits.
  ~AnswerThread();
  AnswerThread(const AnswerThread&) = delete;
  AnswerThread& operator=(const AnswerThread&) = delete;

  void post(std::shared_ptr<Generation> generation, size_t prompt, GenerationEvent&& event);

 private:
  struct Item {
    std::shared_ptr<Generation> generation;
    size_t prompt;
    GenerationEvent event;
  };
  void run();
  static void work(std::vector<Item>& items);

  std::mutex mutex_;
  std::condition_variable has_items_;
  std::vector<Item> items_;
  bool is_stopping_ = false;
  std::thread thread_;
};

/// A thread that runs functions in their order, for work that would hold up others: reading and
/// encoding requests. What they throw is logged. Threads: any may post.
class TaskThread {
 public:
  TaskThread();
  /// Drops what waits.
  ~TaskThread();
  TaskThread(const TaskThread&) = delete;
  TaskThread& operator=(const TaskThread&) = delete;

  void post(std::function<void()> task);

 private:
  void run();

  std::mutex mutex_;
  std::condition_variable has_tasks_;
  std::vector<std::function<void()>> tasks_;
  bool is_stopping_ = false;
  std::thread thread_;
};

}  // namespace lockstep::serve
