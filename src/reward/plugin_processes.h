// Processes that have all loaded the same plugins in Python (integrations/plugin_host).
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "base/json.h"
#include "base/line_process.h"
#include "reward/plugin_options.h"

namespace lockstep::reward {

/// The text of {"error": …}; "" where there is none.
std::string error_in(const Json& answer);

/// Threads: each process is asked by one at a time.
class PluginProcesses {
 public:
  /// What is loaded, and how it is called.
  struct Load {
    /// What errors and the log call the processes.
    std::string name;
    /// The flag that asks for them.
    std::string flag;
    /// Without "op" and "plugins".
    Json request;
  };
  /// Starts the first one, which loads the plugins, and logs with what. Throws ConfigError
  /// "bad-plugin" naming the flag, with what is wrong and where.
  PluginProcesses(const PluginOptions& options, Load load);

  size_t size() const { return workers_.size(); }
  /// What loading has been answered with.
  const Json& loaded() const { return loaded_; }
  /// The answer of a process to a line, an object; it loads the plugins before where it does not
  /// run. The time begins anew while it says that it makes progress. Throws PeerError and
  /// InterruptedError, after which it does not run.
  Json ask(size_t worker, const Json& request, std::chrono::milliseconds timeout);
  /// Logs what they have written to stderr.
  void log();

 private:
  Json ask_running(LineProcess& worker, const Json& request, std::chrono::milliseconds timeout);
  Json load(LineProcess& worker);

  Json load_, loaded_;
  std::vector<std::unique_ptr<LineProcess>> workers_;
};

}  // namespace lockstep::reward
