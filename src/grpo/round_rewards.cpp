// SPDX-License-Identifier: Apache-2.0
#include "grpo/round_rewards.h"

#include <algorithm>
#include <utility>

#include "base/check.h"

namespace lockstep::grpo {

RoundRewards::RoundRewards(const reward::Rewarder& rewarder,
                           const reward::RunState& run,
                           const RoundPart& part)
    : rewarder_(&rewarder), run_(run), part_(part) {}

RoundRewards::~RoundRewards() { stop(); }

void RoundRewards::stop() {
  {
    const std::lock_guard lock(mutex_);
    is_stopped_ = true;
  }
  changed_.notify_all();
  for (const auto& worker : workers_)
    if (worker->thread.joinable()) worker->thread.join();
}

void RoundRewards::begin(std::vector<const Prompt*> prompts, int64_t group_size) {
  LOCKSTEP_CHECK(!std::exchange(has_begun_, true), "the round has begun");
  prompts_ = std::move(prompts);
  group_size_ = static_cast<size_t>(group_size);
  completed_.resize(prompts_.size() * group_size_);
  left_.assign(prompts_.size(), group_size_);
  for (const auto& function : rewarder_->functions()) {
    Worker& worker = *workers_.emplace_back(std::make_unique<Worker>());
    worker.function = function.get();
    worker.values.resize(completed_.size());
  }
  for (const auto& worker : workers_)
    if (worker->function->num_failures())
      worker->thread = std::thread([this, one = worker.get()] { work(*one); });
}

void RoundRewards::add(size_t place, Completed completed) {
  {
    const std::lock_guard lock(mutex_);
    if (error_) std::rethrow_exception(error_);
    completed_[place] = std::move(completed);
    const size_t group = place / group_size_;
    if (--left_[group] == 0) ready_.push_back(group);
  }
  changed_.notify_all();
}

reward::RewardInput RoundRewards::input_of(size_t completion) const {
  const Prompt& prompt = *prompts_[completion / group_size_];
  const Completed& completed = completed_[completion];
  reward::RewardInput input{.completion = completed.text,
                            .token_ids = completed.token_ids,
                            .finish_reason = completed.finish_reason,
                            .columns = &prompt.row->columns,
                            .messages = &prompt.messages,
                            .tools = &prompt.tools,
                            .prompt = prompt.encoded.text,
                            .text_prompt = prompt.row->text_prompt,
                            .group = static_cast<int64_t>(part_.number(completion / group_size_)),
                            .where = prompt.row->where};
  if (const auto& record = completed.record) {
    input.messages = &record->prompt_messages;
    input.prompt = record->prompt;
    input.turns = &record->messages;
    input.turn_ids = &record->turn_ids;
    input.infos = &record->infos;
    input.environment_reward = record->reward;
  }
  return input;
}

/// Judges the completions of some groups and puts the values in their places.
void RoundRewards::judge(Worker& worker, std::span<const size_t> groups) {
  if (groups.empty()) return;
  std::vector<reward::RewardInput> inputs;
  std::vector<size_t> places;
  for (const size_t group : groups)
    for (size_t i = group * group_size_; i < (group + 1) * group_size_; ++i) {
      inputs.push_back(input_of(i));
      places.push_back(i);
    }
  reward::PlacedNotes notes;
  const auto values = worker.function->judge(inputs, run_, notes);
  LOCKSTEP_CHECK(values.size() == inputs.size(), "{} values of {} for {} completions",
                 values.size(), worker.function->name(), inputs.size());
  for (size_t i = 0; i < places.size(); ++i) worker.values[places[i]] = values[i];
  worker.notes.take(std::move(notes), places, completed_.size());
}

/// The thread of a reward in another process.
void RoundRewards::work(Worker& worker) {
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock, [&] {
      return is_stopped_ || error_ || is_complete_ || worker.taken < ready_.size();
    });
    if (is_stopped_ || error_ || worker.taken == ready_.size()) return;
    const std::vector<size_t> groups(ready_.begin() + static_cast<std::ptrdiff_t>(worker.taken),
                                     ready_.end());
    worker.taken = ready_.size();
    worker.busy_since = Clock::now();
    lock.unlock();
    std::exception_ptr error;
    try {
      judge(worker, groups);
    } catch (...) {
      error = std::current_exception();
    }
    lock.lock();
    worker.busy += Clock::now() - *std::exchange(worker.busy_since, std::nullopt);
    if (error && !error_) error_ = error;
  }
}

RoundRewards::Judgement RoundRewards::finish() {
  {
    const std::lock_guard lock(mutex_);
    LOCKSTEP_CHECK(ready_.size() == prompts_.size(), "{} of {} groups are done", ready_.size(),
                   prompts_.size());
    is_complete_ = true;
    for (const auto& worker : workers_) {
      auto busy = worker->busy;
      if (worker->busy_since) busy += Clock::now() - *worker->busy_since;
      hidden_seconds_ = std::max(hidden_seconds_, std::chrono::duration<double>(busy).count());
    }
  }
  changed_.notify_all();
  std::vector<size_t> all(prompts_.size());
  for (size_t i = 0; i < all.size(); ++i) all[i] = i;
  for (const auto& worker : workers_)
    if (!worker->thread.joinable()) judge(*worker, all);
  for (const auto& worker : workers_)
    if (worker->thread.joinable()) worker->thread.join();
  if (error_) std::rethrow_exception(error_);
  Judgement judgement;
  judgement.values.resize(completed_.size());
  for (const auto& worker : workers_) {
    for (size_t i = 0; i < completed_.size(); ++i) judgement.values[i].push_back(worker->values[i]);
    judgement.notes.push_back(std::move(worker->notes));
    judgement.failures.push_back(worker->function->num_failures().value_or(0));
  }
  return judgement;
}

}  // namespace lockstep::grpo
