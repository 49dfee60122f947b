// Schedulers of ms-swift in Python answer the model.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "agent/episodes.h"
#include "agent/make_scheduler.h"
#include "agent/options.h"
#include "agent/turn_reader.h"
#include "agent/turn_scheduler.h"
#include "reward/failures.h"
#include "reward/plugin_processes.h"

namespace lockstep::agent {

/// A scheduler that plugins register or ms-swift has (gym_scheduler, math_tip_trick), in
/// --plugin_workers processes, each with trajectories of its own.
///
/// They are other processes than those of rewards: a scheduler keeps objects for each trajectory,
/// so that its process cannot be shared with what may end it, and rewards are asked while other
/// completions are still sampled. What a process is asked of several trajectories is one line, in
/// which all that its hooks wait for waits together.
///
/// A trajectory whose hook or step fails is over, and so are all of a process that is late or ends;
/// they have no reward. Threads: as TurnScheduler.
class PluginScheduler final : public TurnScheduler {
 public:
  /// Throws ConfigError "bad-plugin".
  PluginScheduler(const AgentOptions& options,
                  const SchedulerContext& context,
                  std::shared_ptr<reward::Failures> failures);

  void check(const text::Row& row) const override;
  void begin(std::span<Trajectory* const> trajectories) override;
  std::vector<FollowUp> follow(std::span<Trajectory* const> trajectories) override;
  void end(std::span<Trajectory* const> trajectories) noexcept override;
  bool gives_reward() const override { return options_.has_environment(); }

 private:
  using Say = std::function<Json(const Trajectory&, const Episode&)>;
  using Take = std::function<void(Trajectory&, Episode&, const Json& answer, size_t index)>;

  void ask(std::span<Trajectory* const> trajectories,
           const char* operation,
           const Say& say,
           const Take& take);
  void ask_worker(std::span<Trajectory* const> trajectories,
                  const std::vector<size_t>& places,
                  const char* operation,
                  const Say& say,
                  const Take& take);
  Json turn_of(const Trajectory& trajectory, const Episode& episode) const;
  FollowUp take_turn(Trajectory& trajectory, Episode& episode, const Json& answer) const;
  Continuation continuation_of(const Trajectory& trajectory,
                               Episode& episode,
                               const Json& answer) const;

  AgentOptions options_;
  const text::ChatEncoder* encoder_;
  TurnReader reader_;
  std::shared_ptr<reward::Failures> failures_;
  reward::PluginProcesses processes_;
  Episodes episodes_;
  std::set<std::string> environments_;
};

}  // namespace lockstep::agent
