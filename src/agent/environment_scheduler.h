// Environments answer the model: programs that step with each of its turns, and give the reward.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "agent/episodes.h"
#include "agent/options.h"
#include "agent/turn_scheduler.h"
#include "reward/external_reward.h"  // ExternalSpec
#include "reward/failures.h"
#include "reward/json_process.h"
#include "text/tokenizer.h"

namespace lockstep::agent {

/// What the row says of its environment: its column `env_config`, an object or that as text, or
/// `environment`, which may be a name. An empty object where it says nothing. Throws FormatError
/// "bad-row".
Json env_config_of(const text::Row& row);

/// What an EnvironmentScheduler works with.
struct EnvironmentSetup {
  reward::ExternalSpec spec;
  /// Whether the user has named it, so that rows may only ask for this name.
  bool is_named = false;
  AgentOptions options;
  /// Outlives the scheduler.
  const text::Tokenizer* tokenizer = nullptr;
  std::shared_ptr<reward::Failures> failures;
};

/// A program of which --tool_workers processes run, each with trajectories of its own; docs/
/// multi-turn.md has the protocol.
///
///   not begun ─reset▶ open ─step▶ open ─step (done)▶ over ─close▶ gone
///   any ─(late, ended, or an answer that is none: all of the process)▶ lost ─▶ gone
///   any ─({"error": …}: this one)▶ lost
///
/// A lost trajectory is over and has no reward. Threads: as TurnScheduler.
class EnvironmentScheduler final : public TurnScheduler {
 public:
  /// Starts the processes. Throws PeerError "program-failed".
  explicit EnvironmentScheduler(EnvironmentSetup setup);

  void check(const text::Row& row) const override;
  void begin(std::span<Trajectory* const> trajectories) override;
  std::vector<FollowUp> follow(std::span<Trajectory* const> trajectories) override;
  void end(std::span<Trajectory* const> trajectories) noexcept override;
  bool gives_reward() const override { return true; }

 private:
  using Work = std::function<void(Trajectory&, Episode&, size_t index)>;

  void work(std::span<Trajectory* const> trajectories, const Work& step);
  Json ask(const Episode& episode, const Json& request);
  void reset(Trajectory& trajectory, const Json& answer) const;
  FollowUp step(Trajectory& trajectory, const Json& answer) const;

  EnvironmentSetup setup_;
  reward::ProgramWorkers workers_;
  Episodes episodes_;
};

}  // namespace lockstep::agent
