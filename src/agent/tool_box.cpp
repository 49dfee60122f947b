// SPDX-License-Identifier: Apache-2.0
#include "agent/tool_box.h"

#include <algorithm>
#include <atomic>

#include "base/check.h"
#include "reward/json_process.h"
#include "reward/retrying_client.h"
#include "reward/share_out.h"

namespace lockstep::agent {
namespace {

/// Answers are cut to some thousand tokens: whoever writes more in a line than this does not answer
/// but floods.
constexpr size_t kLongestAnswer = size_t{4} << 20;
/// The model reads numbers with the digits that they are written with.
constexpr JsonLimits kAnswerLimits{.keep_digits = true};

/// A tool that has been late so often in a row is not waited for any more in this round: each wait
/// may take a minute. The next round tries it again, once.
constexpr int kMostLate = 3;

/// One tool, whose calls are asked one by one.
class AskedTool : public ToolBox {
 public:
  explicit AskedTool(const std::string& name) { tools_.push_back({.name = name, .schema = {}}); }
  const std::vector<Tool>& tools() const override { return tools_; }

 protected:
  /// The answer to a call, which `ask` asks for.
  template <class Ask>
  ToolAnswer answer_of(const ToolJob& job, const Ask& ask) {
    if (num_late_ >= kMostLate)
      return breakdown_answer(fmt::format("{}: not called, after the last {} calls got no answer",
                                          job.name, kMostLate));
    try {
      ToolAnswer answer = answer_in(ask(call_json(job)));
      num_late_ = 0;
      return answer;
    } catch (const PeerError& error) {
      if (error.code() == "deadline") ++num_late_;
      return breakdown_answer(error.what());
    }
  }
  void begin_round() { num_late_ = std::min(num_late_.load(), kMostLate - 1); }

 private:
  std::vector<Tool> tools_;
  /// How many calls in a row were late.
  std::atomic<int> num_late_{0};
};

class ProgramTool final : public AskedTool {
 public:
  ProgramTool(const reward::ExternalSpec& spec, const AgentOptions& options)
      : AskedTool(spec.name),
        timeout_(options.timeout()),
        workers_({.name = "tool " + spec.name,
                  .arguments = {},
                  .longest_line = kLongestAnswer,
                  .one_line_each = true},
                 spec.target,
                 options.tool_workers) {
    // What they load does not count as time of the first call's.
    for (size_t worker = 0; worker < workers_.size(); ++worker) workers_[worker].start();
  }
  void call(std::span<ToolJob* const> jobs) override {
    begin_round();
    workers_.share(jobs.size(), [&](LineProcess& process, size_t index) {
      jobs[index]->answer = answer_of(*jobs[index], [&](const Json& call) {
        return reward::ask_json(process, dump_json(call), timeout_, kAnswerLimits);
      });
    });
  }
  void log() override { workers_.log(); }

 private:
  std::chrono::milliseconds timeout_;
  reward::ProgramWorkers workers_;
};

class UrlTool final : public AskedTool {
 public:
  UrlTool(const reward::ExternalSpec& spec, const AgentOptions& options)
      : AskedTool(spec.name),
        num_workers_(static_cast<size_t>(options.tool_workers)),
        client_(spec.target, {.reward_timeout = options.tool_timeout, .reward_retries = 0}) {}
  void call(std::span<ToolJob* const> jobs) override {
    begin_round();
    reward::share_out(jobs.size(), num_workers_, [&](size_t, size_t index) {
      jobs[index]->answer = answer_of(*jobs[index], [&](const Json& call) {
        return client_.post("", dump_json(call), kAnswerLimits);
      });
    });
  }

 private:
  size_t num_workers_;
  reward::RetryingClient client_;
};

/// A value as text: text as it stands, all else as JSON.
std::string text_of(const Json& value) {
  return value.is_string() ? value.get<std::string>() : dump_json(value, /*spaced=*/true);
}

}  // namespace

Json call_json(const ToolJob& job) {
  const Trajectory& trajectory = *job.trajectory;
  return {{"name", job.name},
          {"arguments", job.arguments},
          {"id", job.id},
          {"trajectory", trajectory.id},
          {"columns", trajectory.row ? trajectory.row->columns : Json::object()}};
}

ToolAnswer answer_in(const Json& answer) {
  if (answer.is_object()) {
    if (const auto error = answer.find("error"); error != answer.end() && error->is_string())
      return error_answer(error->get<std::string>());
    if (const auto content = answer.find("content"); content != answer.end())
      return {.content = text_of(*content)};
  }
  return {.content = text_of(answer)};
}

ToolAnswer error_answer(const std::string& text) {
  return {.content = dump_json({{"error", text}}, /*spaced=*/true), .is_error = true};
}

ToolAnswer breakdown_answer(const std::string& why) {
  ToolAnswer answer = error_answer(why);
  answer.breakdown = why;
  return answer;
}

std::unique_ptr<ToolBox> make_program_tool(const reward::ExternalSpec& spec,
                                           const AgentOptions& options) {
  return std::make_unique<ProgramTool>(spec, options);
}

std::unique_ptr<ToolBox> make_url_tool(const reward::ExternalSpec& spec,
                                       const AgentOptions& options) {
  return std::make_unique<UrlTool>(spec, options);
}

}  // namespace lockstep::agent
