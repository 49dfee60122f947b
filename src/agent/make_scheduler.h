// Who answers the model between its turns, as the flags say.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>

#include "agent/options.h"
#include "agent/turn_scheduler.h"
#include "reward/plugin_options.h"
#include "text/chat_encoder.h"

namespace lockstep::agent {

/// What a scheduler is made with.
struct SchedulerContext {
  /// The checkpoint's tokenizer and template, which outlive it: answers are cut by its tokens, and
  /// calls are in its dialect.
  const text::ChatEncoder* encoder = nullptr;
  /// The flags of plugins: files, the Python, its host script.
  reward::PluginOptions plugins;
  /// The run's options, which plugins get as `args`.
  Json args;
};

/// The scheduler of a run; null where completions have one turn. Starts what runs in other
/// processes. Throws ConfigError naming the flag: "bad-tool", "bad-plugin", "bad-flag", "bad-url".
std::unique_ptr<TurnScheduler> make_scheduler(const AgentOptions& options,
                                              const SchedulerContext& context);

}  // namespace lockstep::agent
