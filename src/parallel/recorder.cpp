// SPDX-License-Identifier: Apache-2.0
#include "parallel/recorder.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include <fmt/format.h>

namespace lockstep::parallel {
namespace {

class RecordedPending : public Pending {
 public:
  RecordedPending(std::unique_ptr<Pending> pending, Recorder& recorder, uint64_t number)
      : pending_(std::move(pending)), recorder_(recorder), number_(number) {}
  void wait() override {
    pending_->wait();
    recorder_.end(number_);
  }

 private:
  std::unique_ptr<Pending> pending_;
  Recorder& recorder_;
  uint64_t number_;
};

class RecordedGroup : public Group {
 public:
  RecordedGroup(std::unique_ptr<Group> group, std::string name, Recorder& recorder)
      : group_(std::move(group)), name_(std::move(name)), recorder_(recorder) {}

  int64_t rank() const override { return group_->rank(); }
  int64_t size() const override { return group_->size(); }

  std::unique_ptr<Pending> begin_all_to_all(std::span<const std::byte> send,
                                            std::span<const int64_t> send_counts,
                                            std::span<std::byte> receive,
                                            std::span<const int64_t> receive_counts,
                                            const Call& call) override {
    return record("all-to-all", std::ssize(send) + std::ssize(receive), call, [&] {
      return group_->begin_all_to_all(send, send_counts, receive, receive_counts, call);
    });
  }
  std::unique_ptr<Pending> begin_all_gather(std::span<const std::byte> own,
                                            std::span<std::byte> all,
                                            const Call& call) override {
    return record("all-gather", std::ssize(all), call,
                  [&] { return group_->begin_all_gather(own, all, call); });
  }
  std::unique_ptr<Pending> begin_broadcast(std::span<std::byte> bytes,
                                           int64_t root,
                                           const Call& call) override {
    return record(fmt::format("broadcast of rank {}", root), std::ssize(bytes), call,
                  [&] { return group_->begin_broadcast(bytes, root, call); });
  }

 private:
  template <class Begin>
  std::unique_ptr<Pending> record(std::string operation,
                                  int64_t bytes,
                                  const Call& call,
                                  Begin&& begin) {
    const uint64_t number = recorder_.begin({.group = name_,
                                             .sequence = ++num_calls_,
                                             .operation = std::move(operation),
                                             .name = call.name,
                                             .bytes = bytes});
    return std::make_unique<RecordedPending>(begin(), recorder_, number);
  }

  std::unique_ptr<Group> group_;
  std::string name_;
  Recorder& recorder_;
  uint64_t num_calls_ = 0;
};

}  // namespace

std::string RecordedCall::text() const {
  return fmt::format("{} #{} \"{}\"{}", operation, sequence, name,
                     group == "world" ? "" : " of " + group);
}

void Recorder::enter(std::string phase, int64_t step) {
  const std::lock_guard lock(mutex_);
  phase_ = std::move(phase);
  step_ = step;
}

uint64_t Recorder::begin(RecordedCall call) {
  using Seconds = std::chrono::duration<double>;
  call.begun = Seconds(std::chrono::system_clock::now().time_since_epoch()).count();
  const std::lock_guard lock(mutex_);
  call.phase = phase_;
  call.step = step_;
  const uint64_t number = num_calls_++;
  if (calls_.size() < room_)
    calls_.push_back(std::move(call));
  else
    calls_[number % room_] = std::move(call);
  return number;
}

void Recorder::end(uint64_t number) {
  const std::lock_guard lock(mutex_);
  if (num_calls_ - number <= room_) calls_[number % room_].is_done = true;
}

RankProgress Recorder::progress() const {
  const std::lock_guard lock(mutex_);
  RankProgress progress{.phase = phase_, .step = step_, .num_calls = num_calls_};
  if (num_calls_ > 0) progress.last_call = calls_[(num_calls_ - 1) % room_];
  return progress;
}

std::vector<RecordedCall> Recorder::calls() const {
  const std::lock_guard lock(mutex_);
  std::vector<RecordedCall> list = calls_;
  if (num_calls_ > room_)
    std::ranges::rotate(list, list.begin() + static_cast<int64_t>(num_calls_ % room_));
  return list;
}

std::unique_ptr<Group> make_recorded_group(std::unique_ptr<Group> group,
                                           std::string name,
                                           Recorder& recorder) {
  return std::make_unique<RecordedGroup>(std::move(group), std::move(name), recorder);
}

}  // namespace lockstep::parallel
