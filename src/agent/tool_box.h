// What the model calls: tools, and calls of them.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "agent/options.h"
#include "agent/turn_scheduler.h"
#include "base/json.h"
#include "reward/external_reward.h"  // ExternalSpec
#include "reward/plugin_options.h"

namespace lockstep::agent {

/// A tool by its name.
struct Tool {
  std::string name;
  /// As OpenAI's API has it, {"type": "function", "function": {…}}; null where the tool itself does
  /// not say it.
  Json schema;
  /// Whether a call is only made with the arguments that its schema asks for: programs and URLs
  /// are not made to check them, functions of Python do it themselves.
  bool needs_check = true;
};

/// What a tool has answered.
struct ToolAnswer {
  /// What the model reads.
  std::string content;
  /// The call failed: `content` says so.
  bool is_error = false;
  /// Why, where the tool itself is broken: it was late, has ended or answers nonsense.
  std::optional<std::string> breakdown;
};

/// A call of a tool, and its answer.
struct ToolJob {
  const Trajectory* trajectory = nullptr;
  /// Tells it from all others of the round.
  std::string id;
  std::string name;
  /// An object.
  Json arguments;
  ToolAnswer answer;
};

/// Tools that are called in the same way. Threads: one function at a time.
class ToolBox {
 public:
  virtual ~ToolBox() = default;
  virtual const std::vector<Tool>& tools() const = 0;
  /// Answers calls of its tools, as many at once as it can. Throws InterruptedError.
  virtual void call(std::span<ToolJob* const> jobs) = 0;
  /// Logs what its processes have said. Call on the thread that may log.
  virtual void log() {}
};

/// A program, of which --tool_workers processes run. Each call is a line of JSON (call_json), which
/// it answers with a line (answer_in). Throws PeerError "program-failed".
std::unique_ptr<ToolBox> make_program_tool(const reward::ExternalSpec& spec,
                                           const AgentOptions& options);
/// A URL, to which the same objects are posted, --tool_workers at once. A call is posted once: it
/// may have an effect. Throws ConfigError "bad-url".
std::unique_ptr<ToolBox> make_url_tool(const reward::ExternalSpec& spec,
                                       const AgentOptions& options);
/// Functions in Python, "[NAME=]module:function" or "[NAME=]file.py:function", in --plugin_workers
/// processes; `args` are the run's options. Throws ConfigError "bad-plugin".
std::unique_ptr<ToolBox> make_python_tools(const std::vector<std::string>& texts,
                                           const AgentOptions& options,
                                           const reward::PluginOptions& plugins,
                                           const Json& args);

/// The call as a tool in another process gets it; docs/multi-turn.md lists the members.
Json call_json(const ToolJob& job);
/// What a tool's answer says: text, {"content": …}, {"error": TEXT}, or any other value as its
/// JSON.
ToolAnswer answer_in(const Json& answer);
/// The answer of a call that failed with this text: {"error": TEXT}, as the model reads it.
ToolAnswer error_answer(const std::string& text);
/// The answer in place of one that a broken tool owes.
ToolAnswer breakdown_answer(const std::string& why);

}  // namespace lockstep::agent
