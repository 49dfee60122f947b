// SPDX-License-Identifier: Apache-2.0
#include "agent/environment_scheduler.h"

#include <algorithm>
#include <cmath>

#include "agent/answer_cut.h"
#include "agent/tool_schemas.h"
#include "base/check.h"
#include "reward/reward_json.h"  // shown_answer
#include "reward/share_out.h"

namespace lockstep::agent {
namespace {

/// Observations are cut to some thousand tokens, but a reset may bring a long conversation along.
constexpr size_t kLongestAnswer = size_t{16} << 20;

[[noreturn]] void refuse(std::string_view expected, const Json& got) {
  fail<PeerError>("program-failed", "environment", "expected {}, got {}", expected,
                  reward::shown_answer(dump_json(got)));
}

/// The member of an answer; null where it is not there, or null.
Json member(const Json& answer, const char* key) {
  const auto found = answer.find(key);
  return found == answer.end() ? Json() : *found;
}

std::optional<std::string> text_in(const Json& answer, const char* key) {
  const Json value = member(answer, key);
  if (value.is_null()) return std::nullopt;
  if (!value.is_string()) refuse(fmt::format("text in {}", key), answer);
  return value.get<std::string>();
}

/// The messages of an answer; null where it has none.
Json messages_in(const Json& answer) {
  Json messages = member(answer, "messages");
  if (messages.is_null()) return messages;
  const bool is_list =
      messages.is_array() && std::all_of(messages.begin(), messages.end(), [](const Json& one) {
        return one.is_object() && one.contains("role") && one["role"].is_string() &&
               one.contains("content");
      });
  if (!is_list) refuse("a list of messages with role and content in messages", answer);
  return messages;
}

void add_infos(const Json& answer, Trajectory& trajectory) {
  const Json infos = member(answer, "infos");
  if (infos.is_null()) return;
  if (!infos.is_object()) refuse("an object in infos", answer);
  trajectory.infos.update(infos);
}

}  // namespace

Json env_config_of(const text::Row& row) {
  const auto refuse_column = [&](const char* column, const Json& got) {
    fail<FormatError>("bad-row", row.where, "expected an object{} in {}, got {}",
                      column == std::string_view("environment") ? " or a name" : "", column,
                      reward::shown_answer(dump_json(got)));
  };
  const Json none = Json::object();
  const Json& columns = row.columns.is_object() ? row.columns : none;
  if (const auto found = columns.find("env_config"); found != columns.end() && !found->is_null()) {
    Json config = *found;
    if (config.is_string()) {
      try {
        config = parse_json(config.get_ref<const std::string&>(), row.where);
      } catch (const FormatError&) {
        refuse_column("env_config", *found);
      }
    }
    if (!config.is_object()) refuse_column("env_config", *found);
    return config;
  }
  if (const auto found = columns.find("environment"); found != columns.end() && !found->is_null()) {
    if (found->is_string()) return {{"name", *found}};
    if (!found->is_object()) refuse_column("environment", *found);
    return *found;
  }
  return none;
}

EnvironmentScheduler::EnvironmentScheduler(EnvironmentSetup setup)
    : setup_(std::move(setup)),
      workers_({.name = "environment " + setup_.spec.name,
                .arguments = {},
                .longest_line = kLongestAnswer,
                .one_line_each = true},
               setup_.spec.target,
               setup_.options.tool_workers),
      episodes_(workers_.size()) {
  for (size_t worker = 0; worker < workers_.size(); ++worker) workers_[worker].start();
}

void EnvironmentScheduler::check(const text::Row& row) const {
  const Json config = env_config_of(row);
  const auto name = config.find("name");
  if (setup_.is_named && name != config.end() && *name != setup_.spec.name)
    fail<FormatError>("bad-row", row.where, "expected the environment {} in env_config, got {}",
                      setup_.spec.name, dump_json(*name));
}

/// Calls `step` for each trajectory whose episode is not lost: those of different processes at the
/// same time, those of one behind one another. One that throws PeerError is lost.
void EnvironmentScheduler::work(std::span<Trajectory* const> trajectories, const Work& step) {
  const auto by_worker = episodes_.by_worker(trajectories);
  reward::share_out(by_worker.size(), by_worker.size(), [&](size_t, size_t worker) {
    for (const size_t i : by_worker[worker]) {
      Episode& episode = episodes_.at(*trajectories[i]);
      // The one before may have ended the process.
      if (episode.is_lost) continue;
      try {
        step(*trajectories[i], episode, i);
      } catch (const PeerError& error) {
        episode.is_lost = true;
        setup_.failures->add(1, where_of(*trajectories[i]), error.what());
      }
    }
  });
  episodes_.take_rewards(trajectories);
}

/// The answer's object. A process that breaks takes all its trajectories along; one that says
/// {"error": …} goes on.
Json EnvironmentScheduler::ask(const Episode& episode, const Json& request) {
  LineProcess& process = workers_[episode.worker];
  Json answer;
  try {
    answer = reward::ask_json(process, dump_json(request), setup_.options.timeout());
  } catch (const PeerError& error) {
    const int others = episodes_.lose_all_of(episode.worker) - episode.is_open;
    if (others == 0) throw;
    fail<PeerError>(error.code(), "", "{} (other completions that end with it: {})", error.what(),
                    others);
  }
  if (!answer.is_object()) refuse("an object", answer);
  if (const auto error = text_in(answer, "error"))
    fail<PeerError>("program-failed", process.name(), "expected to {}, got the error: {}",
                    request["op"].get<std::string>(), *error);
  return answer;
}

void EnvironmentScheduler::begin(std::span<Trajectory* const> trajectories) {
  episodes_.add(trajectories);
  work(trajectories, [&](Trajectory& trajectory, Episode& episode, size_t) {
    const Json none = Json::object();
    const Json answer =
        ask(episode, {{"op", "reset"},
                      {"id", trajectory.id},
                      {"messages", trajectory.messages},
                      {"columns", trajectory.row ? trajectory.row->columns : none},
                      {"env_config", trajectory.row ? env_config_of(*trajectory.row) : none},
                      {"tools", trajectory.tools}});
    episode.is_open = true;
    reset(trajectory, answer);
  });
  workers_.log();
  setup_.failures->report();
}

/// Takes what a reset says: the prompt, the tools.
void EnvironmentScheduler::reset(Trajectory& trajectory, const Json& answer) const {
  const auto system = text_in(answer, "system"), observation = text_in(answer, "observation");
  Json messages = messages_in(answer);
  const Json tools = member(answer, "tools");
  if (!tools.is_null() && (!tools.is_array() || covered(tools).size() != tools.size()))
    refuse("a list of functions in tools", answer);
  add_infos(answer, trajectory);
  if (!tools.is_null()) trajectory.tools = covered(tools);
  if (messages.is_null() && (observation || system)) {
    messages = observation ? Json::array({{{"role", "user"}, {"content", *observation}}})
                           : trajectory.messages;
    if (system) {
      if (!messages.empty() && messages[0]["role"] == "system") messages.erase(0);
      messages.insert(messages.begin(), Json{{"role", "system"}, {"content", *system}});
    }
  }
  if (!messages.is_null()) trajectory.messages = std::move(messages);
  trajectory.reward = 0;
}

std::vector<FollowUp> EnvironmentScheduler::follow(std::span<Trajectory* const> trajectories) {
  std::vector<FollowUp> followed(trajectories.size());
  work(trajectories, [&](Trajectory& trajectory, Episode& episode, size_t index) {
    const Json answer = ask(episode, {{"op", "step"},
                                      {"id", trajectory.id},
                                      {"turn", trajectory.num_turns},
                                      {"text", trajectory.text},
                                      {"messages", trajectory.messages},
                                      {"finish_reason", trajectory.finish_reason}});
    followed[index] = step(trajectory, answer);
  });
  workers_.log();
  setup_.failures->report();
  return followed;
}

/// Takes what a step says: the reward, and what the model reads next.
FollowUp EnvironmentScheduler::step(Trajectory& trajectory, const Json& answer) const {
  const auto observation = text_in(answer, "observation");
  Json messages = messages_in(answer);
  const Json reward = member(answer, "reward"), done = member(answer, "done");
  if (!reward.is_null() && (!reward.is_number() || !std::isfinite(reward.get<double>())))
    refuse("a number in reward", answer);
  if (!done.is_null() && !done.is_boolean()) refuse("true or false in done", answer);
  // As ms-swift's check_finished has it: a turn that was cut off is the last, unless one says more.
  const bool is_over = done.is_null() ? trajectory.finish_reason == "length" : done.get<bool>();
  if (!is_over && !observation && (messages.is_null() || messages.empty()))
    refuse("an observation, messages or \"done\": true", answer);
  Json step_rewards =
      trajectory.num_turns > 1 ? trajectory.infos.value("step_rewards", Json()) : Json();
  if (!step_rewards.is_array()) step_rewards = Json::array();
  add_infos(answer, trajectory);
  const double value = reward.is_null() ? 0 : reward.get<double>();
  trajectory.reward = trajectory.reward.value_or(0) + value;
  step_rewards.push_back(value);
  trajectory.infos["total_reward"] = *trajectory.reward;
  trajectory.infos["step_rewards"] = std::move(step_rewards);
  trajectory.infos["gym_done"] = is_over;
  FollowUp follow_up;
  if (is_over) return follow_up;
  follow_up.messages = messages.is_null()
                           ? Json::array({{{"role", "user"}, {"content", *observation}}})
                           : std::move(messages);
  for (Json& message : follow_up.messages)
    if (message["content"].is_string())
      message["content"] =
          cut_to_tokens(message["content"].get_ref<const std::string&>(),
                        setup_.options.max_tool_response_length, *setup_.tokenizer);
  return follow_up;
}

void EnvironmentScheduler::end(std::span<Trajectory* const> trajectories) noexcept {
  std::vector<Trajectory*> known;
  for (Trajectory* trajectory : trajectories)
    if (episodes_.contains(*trajectory)) known.push_back(trajectory);
  try {
    // A failure is told with the next ones: these trajectories have all that they need.
    std::vector<std::optional<double>> rewards;
    for (const Trajectory* trajectory : known) rewards.push_back(trajectory->reward);
    work(known, [&](Trajectory& trajectory, Episode& episode, size_t) {
      ask(episode, {{"op", "close"}, {"id", trajectory.id}});
    });
    for (size_t i = 0; i < known.size(); ++i) known[i]->reward = rewards[i];
    workers_.log();
  } catch (...) {
    // The user wants to end: the processes end with this scheduler.
  }
  for (const Trajectory* trajectory : known) episodes_.erase(*trajectory);
}

}  // namespace lockstep::agent
