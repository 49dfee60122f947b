// Tools answer the model's calls.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "agent/answer_cut.h"
#include "agent/options.h"
#include "agent/tool_box.h"
#include "agent/turn_reader.h"
#include "agent/turn_scheduler.h"
#include "reward/failures.h"
#include "text/chat_encoder.h"

namespace lockstep::agent {

/// What a ToolScheduler works with.
struct ToolSetup {
  std::vector<std::unique_ptr<ToolBox>> boxes;
  /// The names of all tools in the order in which prompts name them.
  std::vector<std::string> order;
  /// --tool_schemas: a list, or null.
  Json schemas;
  int64_t max_response_length = 1024;
  /// Outlives the scheduler.
  const text::ChatEncoder* encoder = nullptr;
  /// Who answers turns without a call; null: they are the last ones.
  std::unique_ptr<TurnScheduler> next;
  std::shared_ptr<reward::Failures> failures;
};

/// Runs the calls of a turn, those of all trajectories together, and answers each by a message.
///
///   turn ─(calls that it has tools for)▶ their answers
///        ─(calls, but no turn can follow)▶ the end
///        ─(none, or cut off)▶ what the next scheduler says, or the end
///
/// The message of the turn becomes {"content" without the calls, "tool_calls"}. A call that fails
/// is answered {"error": TEXT}, which the model reads. Threads: as TurnScheduler.
class ToolScheduler final : public TurnScheduler {
 public:
  /// Throws ConfigError "bad-tool" for tools that no prompt could name.
  explicit ToolScheduler(ToolSetup setup);

  void check(const text::Row& row) const override;
  Json tools_of(const text::Row& row) const override;
  void begin(std::span<Trajectory* const> trajectories) override;
  std::vector<FollowUp> follow(std::span<Trajectory* const> trajectories) override;
  void end(std::span<Trajectory* const> trajectories) noexcept override;
  bool gives_reward() const override { return setup_.next && setup_.next->gives_reward(); }

 private:
  /// A tool and the box that it lies in.
  struct Place {
    Tool tool;
    size_t box = 0;
  };

  void take_boxes();
  void make_default_list();
  bool take_calls(Trajectory& trajectory, std::vector<ToolJob>& jobs) const;
  void run(std::vector<ToolJob>& jobs);
  void refuse(ToolJob& job) const;
  std::string known_names() const;

  ToolSetup setup_;
  TurnReader reader_;
  std::map<std::string, Place> places_;
  /// What prompts name whose rows name none: an array, or null.
  Json default_list_;
  /// Tools of which nothing but a row's own column can say what they are.
  std::vector<std::string> undescribed_;
};

}  // namespace lockstep::agent
