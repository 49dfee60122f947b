// SPDX-License-Identifier: Apache-2.0
#include "parallel/store.h"

#include <algorithm>
#include <condition_variable>
#include <map>
#include <mutex>
#include <utility>
#include <vector>

#include "base/check.h"

namespace lockstep::parallel {
namespace {

struct Memory {
  std::mutex mutex;
  std::condition_variable changed;
  std::map<std::string, std::string> values;
  std::map<std::string, int64_t> counters;

  bool has(const std::string& key) const { return values.contains(key) || counters.contains(key); }
};

class MemoryStore : public Store {
 public:
  // Shared by all ways to it, whose threads end in any order.
  explicit MemoryStore(std::shared_ptr<Memory> memory) : memory_(std::move(memory)) {}

  void set(const std::string& key, const std::string& value) override {
    const std::lock_guard lock(memory_->mutex);
    memory_->values[key] = value;
    memory_->changed.notify_all();
  }

  std::string get(const std::string& key, std::chrono::milliseconds deadline) override {
    std::unique_lock lock(memory_->mutex);
    if (!memory_->changed.wait_for(lock, deadline, [&] { return memory_->values.contains(key); }))
      fail<PeerError>("store-late", "the store of this process",
                      "expected a value of {} within {} ms, got none", key, deadline.count());
    return memory_->values[key];
  }

  bool has(const std::string& key) override {
    const std::lock_guard lock(memory_->mutex);
    return memory_->has(key);
  }

  bool wait(std::span<const std::string> keys, std::chrono::milliseconds deadline) override {
    std::unique_lock lock(memory_->mutex);
    return memory_->changed.wait_for(lock, deadline, [&] {
      return std::ranges::all_of(keys, [&](const auto& key) { return memory_->has(key); });
    });
  }

  int64_t add(const std::string& key, int64_t number) override {
    const std::lock_guard lock(memory_->mutex);
    memory_->changed.notify_all();
    return memory_->counters[key] += number;
  }

  std::unique_ptr<Store> another() override { return std::make_unique<MemoryStore>(memory_); }

 private:
  std::shared_ptr<Memory> memory_;
};

class PrefixStore : public Store {
 public:
  PrefixStore(std::unique_ptr<Store> store, std::string prefix)
      : store_(std::move(store)), prefix_(std::move(prefix)) {}

  void set(const std::string& key, const std::string& value) override {
    store_->set(prefix_ + key, value);
  }
  std::string get(const std::string& key, std::chrono::milliseconds deadline) override {
    return store_->get(prefix_ + key, deadline);
  }
  bool has(const std::string& key) override { return store_->has(prefix_ + key); }
  bool wait(std::span<const std::string> keys, std::chrono::milliseconds deadline) override {
    std::vector<std::string> whole;
    for (const std::string& key : keys) whole.push_back(prefix_ + key);
    return store_->wait(whole, deadline);
  }
  int64_t add(const std::string& key, int64_t number) override {
    return store_->add(prefix_ + key, number);
  }
  std::unique_ptr<Store> another() override {
    return std::make_unique<PrefixStore>(store_->another(), prefix_);
  }

 private:
  std::unique_ptr<Store> store_;
  std::string prefix_;
};

}  // namespace

std::unique_ptr<Store> make_memory_store() {
  return std::make_unique<MemoryStore>(std::make_shared<Memory>());
}

std::unique_ptr<Store> make_prefix_store(std::unique_ptr<Store> store, std::string prefix) {
  return std::make_unique<PrefixStore>(std::move(store), std::move(prefix));
}

}  // namespace lockstep::parallel
