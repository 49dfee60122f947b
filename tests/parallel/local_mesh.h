// Messages between threads of one process: a mesh without a transport.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <condition_variable>
#include <map>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <tuple>
#include <vector>

#include "parallel/mesh.h"

namespace lockstep::parallel {

namespace detail {

struct Slot {
  std::span<const std::byte> sent;
  std::span<std::byte> received;
  bool has_sent = false, has_received = false, is_done = false;
};

struct Hub {
  std::mutex mutex;
  std::condition_variable changed;
  // By sender, receiver and tag.
  std::map<std::tuple<int64_t, int64_t, uint32_t>, std::shared_ptr<Slot>> slots;
  std::vector<bool> is_gone;
};

class LocalTransfer : public Transfer {
 public:
  LocalTransfer(std::shared_ptr<Hub> hub, std::shared_ptr<Slot> slot, int64_t a, int64_t b)
      : hub_(std::move(hub)), slot_(std::move(slot)), ranks_{a, b} {}
  ~LocalTransfer() override {
    const std::lock_guard lock(hub_->mutex);
    // What is not done now must not touch the bytes later.
    if (!slot_->is_done) slot_->has_sent = slot_->has_received = false;
  }
  bool wait(std::chrono::milliseconds time) override {
    std::unique_lock lock(hub_->mutex);
    const auto is_over = [&] { return slot_->is_done || is_cancelled_ || is_lost(); };
    if (!hub_->changed.wait_for(lock, time, is_over)) throw std::runtime_error("late");
    if (!slot_->is_done && is_lost()) throw std::runtime_error("connection closed");
    return slot_->is_done;
  }
  void cancel() override {
    const std::lock_guard lock(hub_->mutex);
    is_cancelled_ = true;
    hub_->changed.notify_all();
  }

 private:
  bool is_lost() const {
    return std::ranges::any_of(
        ranks_, [&](int64_t rank) { return hub_->is_gone[static_cast<size_t>(rank)]; });
  }

  std::shared_ptr<Hub> hub_;
  std::shared_ptr<Slot> slot_;
  std::vector<int64_t> ranks_;
  bool is_cancelled_ = false;
};

class LocalMesh : public Mesh {
 public:
  LocalMesh(std::shared_ptr<Hub> hub, int64_t rank) : hub_(std::move(hub)), rank_(rank) {}
  ~LocalMesh() override {
    const std::lock_guard lock(hub_->mutex);
    hub_->is_gone[static_cast<size_t>(rank_)] = true;
    hub_->changed.notify_all();
  }
  int64_t rank() const override { return rank_; }
  int64_t size() const override { return std::ssize(hub_->is_gone); }
  std::unique_ptr<Transfer> send(std::span<const std::byte> bytes,
                                 int64_t to,
                                 uint32_t tag) override {
    return add(rank_, to, tag, [&](Slot& slot) {
      slot.sent = bytes;
      slot.has_sent = true;
    });
  }
  std::unique_ptr<Transfer> receive(std::span<std::byte> bytes,
                                    int64_t from,
                                    uint32_t tag) override {
    return add(from, rank_, tag, [&](Slot& slot) {
      slot.received = bytes;
      slot.has_received = true;
    });
  }

 private:
  template <class Set>
  std::unique_ptr<Transfer> add(int64_t from, int64_t to, uint32_t tag, Set&& set) {
    const std::lock_guard lock(hub_->mutex);
    const auto key = std::tuple(from, to, tag);
    auto& found = hub_->slots[key];
    if (!found) found = std::make_shared<Slot>();
    const std::shared_ptr<Slot> slot = found;
    set(*slot);
    if (slot->has_sent && slot->has_received) {
      if (slot->sent.size() > slot->received.size())
        throw std::logic_error("a message longer than its room, which ends a process");
      std::ranges::copy(slot->sent, slot->received.begin());
      slot->is_done = true;
      hub_->slots.erase(key);
      hub_->changed.notify_all();
    }
    return std::make_unique<LocalTransfer>(hub_, slot, from, to);
  }

  std::shared_ptr<Hub> hub_;
  int64_t rank_;
};

}  // namespace detail

/// Makes the meshes of a group of threads, by rank. As with a transport, a message is sent when it
/// is received, and a mesh that is destroyed ends the others' transfers with it.
inline std::vector<std::unique_ptr<Mesh>> make_local_meshes(int64_t size) {
  const auto hub = std::make_shared<detail::Hub>();
  hub->is_gone.resize(static_cast<size_t>(size));
  std::vector<std::unique_ptr<Mesh>> meshes;
  for (int64_t rank = 0; rank < size; ++rank)
    meshes.push_back(std::make_unique<detail::LocalMesh>(hub, rank));
  return meshes;
}

}  // namespace lockstep::parallel
