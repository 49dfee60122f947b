// SPDX-License-Identifier: Apache-2.0
#include "agent/tool_scheduler.h"

#include <algorithm>

#include <fmt/ranges.h>

#include "agent/episodes.h"  // where_of
#include "agent/tool_schemas.h"
#include "base/check.h"
#include "reward/share_out.h"

namespace lockstep::agent {
namespace {

/// The arguments of a call. Numbers keep the digits that the model wrote.
Json arguments_in(const text::ToolCall& call) {
  return parse_json(call.arguments, "tool call", "bad-json", {.keep_digits = true});
}

/// As messages hold them: numbers are doubles, as templates and rewards read them.
Json rounded(Json arguments) {
  try {
    Json copy = arguments;
    round_kept_digits(copy);
    return copy;
  } catch (const FormatError&) {
    // A number that no double holds: the call as it was written.
    return dump_json(arguments, /*spaced=*/true);
  }
}

}  // namespace

ToolScheduler::ToolScheduler(ToolSetup setup) : setup_(std::move(setup)), reader_(*setup_.encoder) {
  if (reader_.dialect() == text::ToolDialect::kNone)
    fail<ConfigError>("bad-tool", "--tools",
                      "expected a chat template that writes calls as <tool_call> with JSON (Qwen3) "
                      "or <function=NAME> (Qwen3.5), got one that writes none that can be read");
  take_boxes();
  make_default_list();
}

void ToolScheduler::take_boxes() {
  for (size_t box = 0; box < setup_.boxes.size(); ++box)
    for (const Tool& tool : setup_.boxes[box]->tools())
      if (!places_.emplace(tool.name, Place{tool, box}).second)
        fail<ConfigError>("bad-tool", "--tools",
                          "expected tools of different names (NAME=…), got {} twice", tool.name);
}

/// The tools in the order of the flag, each with its schema of the file, else its own.
void ToolScheduler::make_default_list() {
  Json list = Json::array();
  for (const Json& schema : setup_.schemas)
    if (!places_.contains(name_in(schema)))
      fail<ConfigError>("bad-tool", "--tool_schemas", "expected functions among {}, got {}",
                        known_names(), name_in(schema));
  for (const std::string& name : setup_.order) {
    const auto found = std::find_if(setup_.schemas.begin(), setup_.schemas.end(),
                                    [&](const Json& schema) { return name_in(schema) == name; });
    const Json& schema = found == setup_.schemas.end() ? places_.at(name).tool.schema : *found;
    if (schema.is_null())
      undescribed_.push_back(name);
    else
      list.push_back(schema);
  }
  if (!undescribed_.empty() && !setup_.schemas.is_null())
    fail<ConfigError>("bad-tool", "--tool_schemas",
                      "expected a function for each tool that is a program or a URL, got none for "
                      "{}",
                      fmt::join(undescribed_, ", "));
  if (!list.empty()) default_list_ = covered(list);
}

std::string ToolScheduler::known_names() const {
  std::vector<std::string> names;
  for (const auto& [name, place] : places_) names.push_back(name);
  return fmt::format("{}", fmt::join(names, ", "));
}

void ToolScheduler::check(const text::Row& row) const {
  if (setup_.next) setup_.next->check(row);
  if (row.tools.is_array() && !row.tools.empty()) {
    for (const Json& tool : row.tools) {
      const std::string name = name_in(tool);
      if (name.empty())
        fail<FormatError>("bad-row", row.where,
                          "expected functions as OpenAI's API has them in tools, got {}",
                          dump_json(tool).substr(0, 200));
      if (!places_.contains(name))
        fail<FormatError>("bad-row", row.where, "expected tools that --tools names ({}), got {}",
                          known_names(), name);
    }
  } else if (!undescribed_.empty()) {
    fail<ConfigError>("bad-tool", "--tools",
                      "expected --tool_schemas with what {} is called with, since the row at {} "
                      "has no tools of its own, got none",
                      fmt::join(undescribed_, ", "), row.where);
  }
}

Json ToolScheduler::tools_of(const text::Row& row) const {
  if (row.tools.is_array() && !row.tools.empty()) return row.tools;
  return default_list_;
}

void ToolScheduler::begin(std::span<Trajectory* const> trajectories) {
  for (Trajectory* trajectory : trajectories)
    if (!trajectory->tools.is_array() || trajectory->tools.empty())
      trajectory->tools = trajectory->row ? tools_of(*trajectory->row) : default_list_;
  if (setup_.next) setup_.next->begin(trajectories);
}

/// Takes the calls out of the last turn; false if it has none, or some that others answer.
bool ToolScheduler::take_calls(Trajectory& trajectory, std::vector<ToolJob>& jobs) const {
  if (trajectory.finish_reason == "length") return false;
  ReadTurn turn = reader_.read(trajectory, trajectory.text);
  if (turn.calls.empty()) return false;
  const auto is_others = [&](const text::ToolCall& call) {
    return !places_.contains(call.name) && trajectory.tools.is_array() &&
           std::any_of(trajectory.tools.begin(), trajectory.tools.end(),
                       [&](const Json& tool) { return name_in(tool) == call.name; });
  };
  // Tools that an environment has brought along are its own.
  if (setup_.next && std::any_of(turn.calls.begin(), turn.calls.end(), is_others)) return false;

  Json& message = trajectory.messages.back();
  message["content"] = std::move(turn.content);
  Json& calls = message["tool_calls"] = Json::array();
  for (size_t i = 0; i < turn.calls.size(); ++i) {
    Json arguments = arguments_in(turn.calls[i]);
    calls.push_back(
        {{"type", "function"},
         {"function", {{"name", turn.calls[i].name}, {"arguments", rounded(arguments)}}}});
    // No one would read the answer.
    if (trajectory.is_last) continue;
    jobs.push_back({.trajectory = &trajectory,
                    .id = fmt::format("{}-{}-{}", trajectory.id, trajectory.num_turns, i),
                    .name = turn.calls[i].name,
                    .arguments = std::move(arguments),
                    .answer = {}});
  }
  return true;
}

/// Answers a call that cannot be made.
void ToolScheduler::refuse(ToolJob& job) const {
  std::vector<std::string> names;
  for (const Json& tool : job.trajectory->tools) {
    const std::string name = name_in(tool);
    if (!places_.contains(name)) continue;
    names.push_back(name);
    if (name != job.name) continue;
    if (!places_.at(name).tool.needs_check) return;
    if (const auto wrong = wrong_arguments(tool, job.arguments)) job.answer = error_answer(*wrong);
    return;
  }
  job.answer = error_answer(
      fmt::format("Tool {} not found. There are: {}.", job.name, fmt::join(names, ", ")));
}

void ToolScheduler::run(std::vector<ToolJob>& jobs) {
  std::vector<std::vector<ToolJob*>> by_box(setup_.boxes.size());
  for (ToolJob& job : jobs) {
    refuse(job);
    if (!job.answer.is_error) by_box[places_.at(job.name).box].push_back(&job);
  }
  reward::share_out(by_box.size(), by_box.size(), [&](size_t, size_t box) {
    if (!by_box[box].empty()) setup_.boxes[box]->call(by_box[box]);
  });
  for (const auto& box : setup_.boxes) box->log();
  for (const ToolJob& job : jobs)
    if (job.answer.breakdown)
      setup_.failures->add(1, where_of(*job.trajectory), *job.answer.breakdown);
  setup_.failures->report();
}

std::vector<FollowUp> ToolScheduler::follow(std::span<Trajectory* const> trajectories) {
  std::vector<FollowUp> followed(trajectories.size());
  std::vector<ToolJob> jobs;
  /// The trajectory of each job, and those that others answer.
  std::vector<size_t> owners, rest;
  for (size_t i = 0; i < trajectories.size(); ++i)
    if (take_calls(*trajectories[i], jobs))
      owners.resize(jobs.size(), i);
    else
      rest.push_back(i);
  run(jobs);
  for (size_t k = 0; k < jobs.size(); ++k) {
    Trajectory& trajectory = *trajectories[owners[k]];
    ++trajectory.num_tool_calls;
    trajectory.num_tool_failures += jobs[k].answer.is_error;
    followed[owners[k]].messages.push_back(
        {{"role", "tool"},
         {"name", jobs[k].name},
         {"content", cut_to_tokens(jobs[k].answer.content, setup_.max_response_length,
                                   setup_.encoder->tokenizer())}});
  }
  if (!setup_.next || rest.empty()) return followed;
  std::vector<Trajectory*> others;
  for (const size_t i : rest) others.push_back(trajectories[i]);
  std::vector<FollowUp> answers = setup_.next->follow(others);
  for (size_t k = 0; k < rest.size(); ++k) followed[rest[k]] = std::move(answers[k]);
  return followed;
}

void ToolScheduler::end(std::span<Trajectory* const> trajectories) noexcept {
  if (setup_.next) setup_.next->end(trajectories);
}

}  // namespace lockstep::agent
