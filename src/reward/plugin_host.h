// The processes that run reward plugins in Python (integrations/plugin_host).
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "reward/external_options.h"
#include "reward/plugin_options.h"
#include "reward/plugin_processes.h"

namespace lockstep::reward {

/// What a run asks of its plugins.
struct PluginRequest {
  /// Entries of --reward_funcs, and those of them that are built in.
  std::vector<std::string> rewards, builtin;
  /// The run's options, which plugins get as `args`.
  Json args;
};

/// A reward that the plugins have.
struct PluginReward {
  /// Its place among PluginRequest::rewards.
  size_t index = 0;
  std::string name, class_name;
  /// Its call is a coroutine, so that calls for several groups wait together.
  bool is_async = false;
};

/// Processes that have all loaded the same plugins. Threads: safe; calls wait for one another.
class PluginHost {
 public:
  /// Starts a process, which loads the plugins. Throws ConfigError "bad-plugin" with what is wrong
  /// and where.
  PluginHost(const PluginOptions& options, PluginRequest request);

  /// The reward for an entry of --reward_funcs; null where the plugins have none, and for a
  /// built-in one that no plugin has replaced.
  const PluginReward* find(std::string_view text) const;
  /// The names that plugins have registered.
  const std::vector<std::string>& known() const { return known_; }

  /// Asks for the values of groups, a list of completions each, on a worker that has time. Returns
  /// an answer for each group, in order; where a process fails its groups have {"error": …}. Throws
  /// InterruptedError.
  std::vector<Json> score(const PluginReward& reward,
                          std::vector<Json> groups,
                          const Json& state,
                          std::chrono::milliseconds timeout);

 private:
  void score_part(size_t worker,
                  const Json& request,
                  std::span<Json> groups,
                  std::chrono::milliseconds timeout);
  void take_rewards(const Json& loaded);

  PluginRequest request_;
  std::vector<std::optional<PluginReward>> rewards_;
  std::vector<std::string> known_;
  /// Guards the processes.
  std::mutex mutex_;
  PluginProcesses workers_;
};

/// Whether an entry of --reward_funcs is only found in Python: "module:function", "math_verify".
bool needs_python(std::string_view text);

}  // namespace lockstep::reward
