// SPDX-License-Identifier: Apache-2.0
#include "serve/answer_thread.h"

#include <exception>
#include <utility>

#include "base/log.h"

namespace lockstep::serve {

AnswerThread::AnswerThread() : thread_([this] { run(); }) {}

AnswerThread::~AnswerThread() {
  {
    const std::lock_guard lock(mutex_);
    is_stopping_ = true;
  }
  has_items_.notify_one();
  thread_.join();
}

void AnswerThread::post(std::shared_ptr<Generation> generation,
                        size_t prompt,
                        GenerationEvent&& event) {
  bool was_empty = false;
  {
    const std::lock_guard lock(mutex_);
    was_empty = items_.empty();
    items_.push_back({std::move(generation), prompt, std::move(event)});
  }
  if (was_empty) has_items_.notify_one();
}

void AnswerThread::run() {
  std::vector<Item> items;
  for (;;) {
    {
      std::unique_lock lock(mutex_);
      has_items_.wait(lock, [&] { return is_stopping_ || !items_.empty(); });
      if (is_stopping_) return;
      // The emptied list goes back, so that its memory is used again.
      items.swap(items_);
    }
    work(items);
    items.clear();
  }
}

void AnswerThread::work(std::vector<Item>& items) {
  const auto try_to = [](Generation& generation, const auto& action) {
    try {
      action();
    } catch (const std::exception& error) {
      log_warning("request {}: {}", generation.input().head.id, error.what());
      generation.fail({500, "internal", "", "the answer could not be written"});
    }
  };
  for (Item& item : items)
    try_to(*item.generation,
           [&] { item.generation->on_event(item.prompt, std::move(item.event)); });
  for (Item& item : items) try_to(*item.generation, [&] { item.generation->flush(); });
}

TaskThread::TaskThread() : thread_([this] { run(); }) {}

TaskThread::~TaskThread() {
  {
    const std::lock_guard lock(mutex_);
    is_stopping_ = true;
  }
  has_tasks_.notify_one();
  thread_.join();
}

void TaskThread::post(std::function<void()> task) {
  {
    const std::lock_guard lock(mutex_);
    tasks_.push_back(std::move(task));
  }
  has_tasks_.notify_one();
}

void TaskThread::run() {
  for (;;) {
    std::vector<std::function<void()>> tasks;
    {
      std::unique_lock lock(mutex_);
      has_tasks_.wait(lock, [&] { return is_stopping_ || !tasks_.empty(); });
      if (is_stopping_) return;
      tasks.swap(tasks_);
    }
    for (auto& task : tasks) {
      try {
        task();
      } catch (const std::exception& error) {
        log_warning("a request could not be read: {}", error.what());
      }
    }
  }
}

}  // namespace lockstep::serve
