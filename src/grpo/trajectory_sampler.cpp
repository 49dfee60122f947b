// SPDX-License-Identifier: Apache-2.0
#include "grpo/trajectory_sampler.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include <fmt/format.h>

namespace lockstep::grpo {

namespace {

/// What a template writes around an answer, about: headers, ends of turns, an empty thought.
constexpr int64_t kTemplateTokens = 32;

}  // namespace

TrajectorySampler::TrajectorySampler(const Parts& parts)
    : parts_(parts),
      limits_{.max_completion_length = parts.settings.max_new_tokens,
              .scope = parts.options.completion_length_limit_scope,
              .context = parts.rollout.max_model_len()} {}

int64_t TrajectorySampler::most_tokens(int64_t prompt_tokens) const {
  const int64_t left = limits_.context - prompt_tokens, turn = limits_.max_completion_length;
  if (limits_.scope == agent::LengthScope::kTotal) return std::min(left, turn);
  if (!parts_.options.max_turns) return left;
  const int64_t between = parts_.options.max_tool_response_length + kTemplateTokens;
  // The product may be larger than any number.
  if (*parts_.options.max_turns > left / std::max<int64_t>(turn + between, 1)) return left;
  return std::min(left, *parts_.options.max_turns * (turn + between) - between);
}

/// One call of sample().
class TrajectorySampler::Rounds {
 public:
  Rounds(const TrajectorySampler& sampler, const Draw& draw, const Done& done)
      : parts_(sampler.parts_), limits_(sampler.limits_), draw_(draw), done_(done) {}
  /// Whatever has not ended is over, after an error too.
  ~Rounds() {
    end(std::exchange(open_, {}));
    parts_.rollout.end_turns();
  }
  Rounds(const Rounds&) = delete;
  Rounds& operator=(const Rounds&) = delete;

  std::vector<GrowingTrajectory> run(const TrajectorySampler& sampler,
                                     const std::vector<const Prompt*>& round) {
    const std::vector<const Prompt*> prompts = draw_.part.of(round);
    if (prompts.empty()) return {};
    std::vector<rollout::GroupSpec> groups;
    for (size_t p = 0; p < prompts.size(); ++p) {
      const int64_t tokens = std::ssize(prompts[p]->encoded.ids);
      const size_t group = draw_.part.number(p);
      groups.push_back({tokens, sampler.most_tokens(tokens), draw_.group_size});
      for (int64_t s = 0; s < draw_.group_size; ++s) {
        all_.emplace_back(*prompts[p], parts_.encoder,
                          fmt::format("{:x}-{}-{}", draw_.number, group, s));
        all_.back().told().group = static_cast<int64_t>(group);
        open_.push_back(open_.size());
      }
    }
    parts_.rollout.begin_turns(groups);
    parts_.scheduler.begin(told_of(open_));
    for (GrowingTrajectory& trajectory : all_) {
      trajectory.begin();
      // An environment may have written a prompt that leaves no room.
      if (trajectory.room(limits_) < 1)
        parts_.rollout.check_room(std::ssize(trajectory.ids()), /*max_new_tokens=*/1);
    }
    number_groups(round);
    while (!open_.empty()) {
      sample_turns();
      follow();
    }
    return std::move(all_);
  }

 private:
  using Clock = std::chrono::steady_clock;

  std::vector<agent::Trajectory*> told_of(const std::vector<size_t>& places) {
    std::vector<agent::Trajectory*> told;
    for (const size_t place : places) told.push_back(&all_[place].told());
    return told;
  }

  void end(const std::vector<size_t>& places) noexcept {
    if (!places.empty()) parts_.scheduler.end(told_of(places));
  }

  /// Gives each group the first of its occurrence numbers, of which no two groups have one in
  /// common: they must not depend on which other groups are sampled here. A prompt that an
  /// environment has written may be that of other groups too.
  void number_groups(const std::vector<const Prompt*>& round) {
    const std::vector<uint64_t> seen = occurrences_of(round);
    stride_ = 2 * round.size();
    for (GrowingTrajectory& trajectory : all_) {
      const auto group = static_cast<size_t>(trajectory.told().group);
      const bool is_own = trajectory.ids() == round[group]->encoded.ids;
      first_occurrence_[trajectory.told().group] = is_own ? seen[group] : round.size() + group;
    }
  }

  uint64_t occurrence_of(GrowingTrajectory& trajectory) {
    const int64_t group = trajectory.told().group;
    return first_occurrence_[group] + stride_ * seen_[{group, trajectory.ids()}]++;
  }

  /// The next turn of each, those of equal ids behind one another as samples of one request.
  void sample_turns() {
    std::vector<rollout::Request> requests;
    for (const size_t place : open_) {
      GrowingTrajectory& trajectory = all_[place];
      rollout::RequestSettings settings = parts_.settings;
      settings.max_new_tokens = trajectory.room(limits_);
      if (!requests.empty() && requests.back().prompt == trajectory.ids() &&
          requests.back().settings.max_new_tokens == settings.max_new_tokens &&
          all_[place].told().group == last_group_) {
        ++requests.back().num_samples;
        continue;
      }
      last_group_ = all_[place].told().group;
      requests.push_back({.id = {},
                          .prompt = trajectory.ids(),
                          .num_samples = 1,
                          .settings = std::move(settings),
                          .occurrence = occurrence_of(trajectory),
                          .draw = draw_.number,
                          .weight_version = {},
                          .deadline = {}});
    }
    int64_t tokens = 0;
    const int64_t over = std::ssize(all_) - std::ssize(open_);
    auto generated =
        parts_.rollout.generate(requests, draw_.weight_version, [&](int64_t so_far, int64_t) {
          tokens = so_far;
          draw_.progress(tokens_ + tokens, over);
        });
    tokens_ += tokens;
    auto place = open_.begin();
    for (auto& samples : generated)
      for (rollout::Completion& completion : samples)
        all_[*place++].append_turn(std::move(completion));
  }

  /// Asks what comes behind the turns, and ends those that are over.
  void follow() {
    const auto& options = parts_.options;
    const bool is_late =
        options.trajectory_timeout &&
        std::chrono::duration<double>(Clock::now() - begun_).count() > *options.trajectory_timeout;
    const auto told = told_of(open_);
    for (agent::Trajectory* one : told)
      one->is_last = is_late || (options.max_turns && one->num_turns >= *options.max_turns);
    auto answers = parts_.scheduler.follow(told);
    std::vector<size_t> left, over;
    for (size_t i = 0; i < open_.size(); ++i) {
      const bool goes_on =
          !told[i]->is_last && all_[open_[i]].append(std::move(answers[i]), limits_);
      (goes_on ? left : over).push_back(open_[i]);
    }
    open_ = std::move(left);
    end(over);
    for (const size_t place : over) done_(place, all_[place]);
  }

  const Parts& parts_;
  const TurnLimits& limits_;
  const Draw& draw_;
  const Done& done_;
  Clock::time_point begun_ = Clock::now();
  std::vector<GrowingTrajectory> all_;
  /// Places of those that are not over, in order.
  std::vector<size_t> open_;
  /// By group: the occurrence number of its first request for some ids, and how often it has asked
  /// for them. Those of later ones are further numbers of a group by `stride_` each.
  std::map<int64_t, uint64_t> first_occurrence_;
  std::map<std::pair<int64_t, std::vector<int64_t>>, uint64_t> seen_;
  uint64_t stride_ = 1;
  int64_t last_group_ = -1;
  int64_t tokens_ = 0;
};

std::vector<GrowingTrajectory> TrajectorySampler::sample(const std::vector<const Prompt*>& round,
                                                         const Draw& draw,
                                                         const Done& done) const {
  return Rounds(*this, draw, done).run(*this, round);
}

}  // namespace lockstep::grpo
