// Tools that are functions in Python.
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <utility>

#include <fmt/ranges.h>

#include "agent/tool_box.h"
#include "base/check.h"
#include "base/log.h"
#include "reward/plugin_processes.h"
#include "reward/reward_json.h"  // shown_answer
#include "reward/share_out.h"

namespace lockstep::agent {
namespace {

class PythonTools final : public ToolBox {
 public:
  PythonTools(const std::vector<std::string>& texts,
              const AgentOptions& options,
              const reward::PluginOptions& plugins,
              const Json& args)
      : timeout_(options.timeout()),
        processes_(plugins,
                   {.name = "tools",
                    .flag = "--tools",
                    .request = {{"rewards", Json::array()},
                                {"builtin", Json::array()},
                                {"args", args},
                                {"turns",
                                 {{"scheduler", Json()},
                                  {"gym_env", Json()},
                                  {"max_turns", Json()},
                                  {"model", Json()},
                                  {"tools", texts}}}}}) {
    std::vector<std::string> names;
    for (const Json& tool : processes_.loaded().at("turns").at("tools")) {
      tools_.push_back(
          {.name = tool.at("name"), .schema = tool.at("schema"), .needs_check = false});
      is_async_.push_back(tool.at("is_async"));
      names.push_back(tools_.back().name);
    }
    log_info("tools: functions: {}", fmt::join(names, ", "));
  }

  const std::vector<Tool>& tools() const override { return tools_; }

  /// Asynchronous functions of a process wait together; each other call is a line of its own, so
  /// that a deadline ends one of them.
  void call(std::span<ToolJob* const> jobs) override {
    std::vector<std::vector<ToolJob*>> parts;
    std::vector<ToolJob*> waiting;
    for (ToolJob* job : jobs)
      if (is_async_[index_of(*job)])
        waiting.push_back(job);
      else
        parts.push_back({job});
    const size_t workers = processes_.size(), size = (waiting.size() + workers - 1) / workers;
    for (size_t begin = 0; begin < waiting.size(); begin += size) {
      const auto first = waiting.begin() + static_cast<std::ptrdiff_t>(begin);
      parts.emplace_back(
          first, first + static_cast<std::ptrdiff_t>(std::min(size, waiting.size() - begin)));
    }
    reward::share_out(parts.size(), workers,
                      [&](size_t worker, size_t part) { call_part(worker, parts[part]); });
  }

  void log() override { processes_.log(); }

 private:
  size_t index_of(const ToolJob& job) const {
    const auto found = std::find_if(tools_.begin(), tools_.end(),
                                    [&](const Tool& tool) { return tool.name == job.name; });
    LOCKSTEP_CHECK(found != tools_.end(), "{} is no function", job.name);
    return static_cast<size_t>(found - tools_.begin());
  }

  void call_part(size_t worker, const std::vector<ToolJob*>& jobs) {
    Json calls = Json::array();
    for (const ToolJob* job : jobs)
      calls.push_back({{"tool", index_of(*job)}, {"arguments", job->arguments}});
    try {
      const Json answer =
          processes_.ask(worker, {{"op", "call"}, {"calls", std::move(calls)}}, timeout_);
      const Json answers = answer.value("answers", Json());
      if (!answers.is_array() || answers.size() != jobs.size())
        fail<PeerError>("program-failed", "tool " + jobs[0]->name,
                        "expected an answer for each call, got {}",
                        reward::shown_answer(dump_json(answer)));
      for (size_t i = 0; i < jobs.size(); ++i) jobs[i]->answer = answer_in(answers[i]);
    } catch (const PeerError& error) {
      // One that is late takes along what waits beside it; it has failed once.
      for (ToolJob* job : jobs) job->answer = error_answer(error.what());
      jobs[0]->answer.breakdown = error.what();
    }
  }

  std::chrono::milliseconds timeout_;
  reward::PluginProcesses processes_;
  std::vector<Tool> tools_;
  std::vector<bool> is_async_;
};

}  // namespace

std::unique_ptr<ToolBox> make_python_tools(const std::vector<std::string>& texts,
                                           const AgentOptions& options,
                                           const reward::PluginOptions& plugins,
                                           const Json& args) {
  return std::make_unique<PythonTools>(texts, options, plugins, args);
}

}  // namespace lockstep::agent
