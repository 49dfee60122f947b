// Trajectories for tests: a prompt, and turns of a model that tests write.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "agent/make_scheduler.h"
#include "tests/text/chat_models.h"

namespace lockstep::agent {

using text::json;

/// Qwen3's template, whose calls are JSON.
inline const text::ChatEncoder& qwen3() {
  static const text::ChatEncoder encoder = text::chat_model("qwen3.jinja");
  return encoder;
}

/// {"type": "function", …} with parameters that are all required texts.
inline Json function(const std::string& name, const std::vector<std::string>& parameters) {
  Json properties = Json::object();
  for (const std::string& one : parameters) properties[one] = {{"type", "string"}};
  return {{"type", "function"},
          {"function",
           {{"name", name},
            {"description", "d"},
            {"parameters",
             {{"type", "object"}, {"properties", properties}, {"required", parameters}}}}}};
}

/// A call as Qwen3 writes it.
inline std::string call(const std::string& name, const std::string& arguments) {
  return "<tool_call>\n{\"name\": \"" + name + "\", \"arguments\": " + arguments +
         "}\n</tool_call>";
}

/// Trajectories of one round, and who answers them.
class Round {
 public:
  explicit Round(std::unique_ptr<TurnScheduler> scheduler) : scheduler_(std::move(scheduler)) {}
  Round(const AgentOptions& options, const SchedulerContext& context)
      : Round(make_scheduler(options, context)) {}

  TurnScheduler& scheduler() { return *scheduler_; }
  /// Adds a trajectory of a row with these columns.
  Trajectory& add(Json columns = Json::object(), Json tools = nullptr) {
    text::Row& row = rows_.emplace_back();
    row.messages = Json::array({{{"role", "user"}, {"content", "1 + 2?"}}});
    row.columns = std::move(columns);
    row.tools = std::move(tools);
    row.where = "rows.jsonl:" + std::to_string(rows_.size());
    Trajectory& trajectory = trajectories_.emplace_back();
    trajectory.id = "t" + std::to_string(trajectories_.size() - 1);
    trajectory.group = std::ssize(trajectories_) - 1;
    trajectory.row = &row;
    trajectory.messages = row.messages;
    trajectory.tools = scheduler_->tools_of(row);
    return trajectory;
  }
  std::vector<Trajectory*> all() {
    std::vector<Trajectory*> all;
    for (Trajectory& trajectory : trajectories_) all.push_back(&trajectory);
    return all;
  }
  void begin() { scheduler_->begin(all()); }
  void end() { scheduler_->end(all()); }
  /// Ends a turn of each trajectory with one of these texts, and follows.
  std::vector<FollowUp> say(const std::vector<std::string>& texts,
                            std::string_view finish_reason = "stop") {
    for (size_t i = 0; i < texts.size(); ++i) {
      Trajectory& trajectory = trajectories_[i];
      trajectory.text = texts[i];
      trajectory.token_ids = qwen3().tokenizer().encode(texts[i]);
      trajectory.finish_reason = finish_reason;
      ++trajectory.num_turns;
      trajectory.messages.push_back({{"role", "assistant"}, {"content", texts[i]}});
    }
    std::vector<FollowUp> followed = scheduler_->follow(all());
    for (size_t i = 0; i < followed.size(); ++i)
      for (const Json& message : followed[i].messages) trajectories_[i].messages.push_back(message);
    return followed;
  }
  /// The messages that follow one turn of a single trajectory.
  Json answers(const std::string& text, std::string_view finish_reason = "stop") {
    return say({text}, finish_reason).at(0).messages;
  }

 private:
  std::unique_ptr<TurnScheduler> scheduler_;
  std::deque<text::Row> rows_;
  std::deque<Trajectory> trajectories_;
};

}  // namespace lockstep::agent
