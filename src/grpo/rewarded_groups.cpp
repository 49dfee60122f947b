// SPDX-License-Identifier: Apache-2.0
#include "grpo/rewarded_groups.h"

#include <algorithm>
#include <iterator>

#include "base/check.h"
#include "base/json.h"

namespace lockstep::grpo {
namespace {

template <class T>
void move_range(std::vector<T>& from, size_t first, size_t count, std::vector<T>& to) {
  const auto begin = from.begin() + static_cast<ptrdiff_t>(first);
  std::move(begin, begin + static_cast<ptrdiff_t>(count), std::back_inserter(to));
}

template <class T>
void append(std::vector<T>& to, std::vector<T>& more) {
  move_range(more, 0, more.size(), to);
}

/// Brings a column up to `count` completions.
void fill_up(std::vector<Json>& column, size_t count) { column.resize(count); }

/// Appends what rewards noted of `more` completions to the notes of `before`.
void append_notes(reward::Notes& to, size_t before, reward::Notes&& from, size_t more) {
  for (auto& [name, numbers] : from.metrics) append(to.metrics[name], numbers);
  for (auto& [name, values] : from.extra) {
    std::vector<Json>& column = to.extra[name];
    fill_up(column, before);
    fill_up(values, more);
    append(column, values);
  }
  for (auto& [name, column] : to.extra) fill_up(column, before + more);
  if (!from.failures.empty()) to.failures = std::move(from.failures);
}

/// The notes of each reward function on the completions of all ranks. `places[rank]` are those of
/// its completions in the round, which has `count`.
reward::Notes join_notes(std::vector<JudgedGroups>& parts,
                         const std::vector<std::vector<size_t>>& places,
                         size_t count) {
  reward::Notes joined;
  const size_t functions = parts.front().judgement.notes.size();
  joined.failures.assign(functions, 0);
  for (size_t f = 0; f < functions; ++f) {
    reward::PlacedNotes all;
    for (size_t rank = 0; rank < parts.size(); ++rank) {
      RoundRewards::Judgement& own = parts[rank].judgement;
      all.take(std::move(own.notes.at(f)), places[rank], count);
      joined.failures[f] += own.failures.at(f);
    }
    all.move_to(joined);
  }
  return joined;
}

}  // namespace

RewardedGroups join_parts(std::vector<JudgedGroups> parts) {
  RewardedGroups round;
  round.groups.group_size = parts.front().groups.group_size;
  const auto size = static_cast<size_t>(round.groups.group_size);
  size_t groups = 0;
  for (const JudgedGroups& part : parts) groups += part.groups.prompts.size();
  std::vector<std::vector<size_t>> places(parts.size());
  for (size_t group = 0; group < groups; ++group) {
    const size_t rank = group % parts.size(), index = group / parts.size();
    SampledGroups& from = parts[rank].groups;
    round.groups.prompts.push_back(from.prompts.at(index));
    move_range(from.experiences, index * size, size, round.groups.experiences);
    move_range(from.texts, index * size, size, round.groups.texts);
    if (!from.records.empty()) move_range(from.records, index * size, size, round.groups.records);
    move_range(parts[rank].judgement.values, index * size, size, round.values);
    for (size_t i = 0; i < size; ++i) places[rank].push_back(group * size + i);
  }
  round.notes = join_notes(parts, places, groups * size);
  return round;
}

SampledGroups part_of_round(const RoundPart& part, SampledGroups round) {
  const auto size = static_cast<size_t>(round.group_size);
  SampledGroups own{.prompts = part.of(round.prompts), .group_size = round.group_size};
  for (size_t i = 0; i < own.prompts.size(); ++i) {
    const size_t first = part.number(i) * size;
    move_range(round.experiences, first, size, own.experiences);
    move_range(round.texts, first, size, own.texts);
    if (!round.records.empty()) move_range(round.records, first, size, own.records);
  }
  return own;
}

RewardedGroups take_group(RewardedGroups& round, size_t index) {
  const auto size = static_cast<size_t>(round.groups.group_size);
  RewardedGroups group;
  group.groups.group_size = round.groups.group_size;
  group.groups.prompts.push_back(round.groups.prompts.at(index));
  move_range(round.groups.experiences, index * size, size, group.groups.experiences);
  move_range(round.groups.texts, index * size, size, group.groups.texts);
  if (!round.groups.records.empty())
    move_range(round.groups.records, index * size, size, group.groups.records);
  move_range(round.values, index * size, size, group.values);
  for (auto& [name, column] : round.notes.extra) {
    fill_up(column, round.values.size());
    move_range(column, index * size, size, group.notes.extra[name]);
  }
  return group;
}

void append_groups(RewardedGroups& to, RewardedGroups&& more) {
  LOCKSTEP_CHECK(to.groups.group_size == more.groups.group_size, "groups of {} and of {}",
                 to.groups.group_size, more.groups.group_size);
  append_notes(to.notes, to.values.size(), std::move(more.notes), more.values.size());
  append(to.groups.prompts, more.groups.prompts);
  append(to.groups.experiences, more.groups.experiences);
  append(to.groups.texts, more.groups.texts);
  append(to.groups.records, more.groups.records);
  append(to.values, more.values);
}

RewardedGroups GroupPool::empty(int64_t group_size) {
  RewardedGroups none;
  none.groups.group_size = group_size;
  return none;
}

void GroupPool::add(RewardedGroups round,
                    std::span<const double> weights,
                    const AdvantageRule& rule) {
  const size_t count = round.groups.prompts.size();
  append_notes(kept_.notes, kept_.values.size(), {round.notes.metrics, {}, round.notes.failures},
               0);
  for (size_t i = 0; i < count; ++i) {
    RewardedGroups group = take_group(round, i);
    ++sampled_;
    if (group_differs(group.values, weights, rule)) {
      ++differing_;
      append_groups(kept_, std::move(group));
      continue;
    }
    equal_.push_back(std::move(group));
    if (std::ssize(equal_) > wanted_) equal_.erase(equal_.begin());
  }
}

int64_t GroupPool::missing() const {
  return std::max<int64_t>(wanted_ - std::ssize(kept_.groups.prompts), 0);
}

int64_t GroupPool::next_draw() const {
  const int64_t found = std::max<int64_t>(differing_, 1);
  return std::min(wanted_, (missing() * std::max(sampled_, found) + found - 1) / found);
}

RewardedGroups GroupPool::take() {
  RewardedGroups all = std::exchange(kept_, empty(kept_.groups.group_size));
  RewardedGroups batch = empty(all.groups.group_size);
  batch.notes.metrics = std::move(all.notes.metrics);
  batch.notes.failures = std::move(all.notes.failures);
  for (size_t i = 0; i < all.groups.prompts.size(); ++i)
    append_groups(std::ssize(batch.groups.prompts) < wanted_ ? batch : kept_, take_group(all, i));
  const int64_t missing = wanted_ - std::ssize(batch.groups.prompts);
  LOCKSTEP_CHECK(missing <= std::ssize(equal_), "{} groups missing of {}", missing, wanted_);
  for (auto group = equal_.end() - missing; group != equal_.end(); ++group)
    append_groups(batch, std::move(*group));
  equal_.clear();
  // What layers read for those that wait belongs to weights that change.
  for (Experience& experience : kept_.groups.experiences) experience.sample.drop_kept();
  sampled_ = differing_ = 0;
  return batch;
}

}  // namespace lockstep::grpo
