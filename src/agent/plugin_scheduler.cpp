// SPDX-License-Identifier: Apache-2.0
#include "agent/plugin_scheduler.h"

#include <algorithm>
#include <utility>

#include <fmt/ranges.h>

#include "agent/answer_cut.h"
#include "agent/environment_scheduler.h"  // env_config_of
#include "base/check.h"
#include "base/log.h"
#include "reward/reward_json.h"  // shown_answer
#include "reward/share_out.h"

namespace lockstep::agent {
namespace {

const std::string kFrom = "the scheduler";

std::string scheduler_name(const AgentOptions& options) {
  return options.multi_turn_scheduler.empty() ? "gym_scheduler" : options.multi_turn_scheduler;
}

reward::PluginProcesses::Load load_of(const AgentOptions& options, const Json& args) {
  const auto or_null = [](const std::string& text) { return text.empty() ? Json() : Json(text); };
  Json turns{{"scheduler", scheduler_name(options)},
             {"gym_env", or_null(options.gym_env)},
             {"max_turns", options.max_turns ? Json(*options.max_turns) : Json()},
             {"model", args.is_object() ? args.value("model", Json()) : Json()},
             {"tools", Json::array()}};
  return {.name = "turns",
          .flag = options.multi_turn_scheduler.empty() ? "--gym_env" : "--multi_turn_scheduler",
          .request = {{"rewards", Json::array()},
                      {"builtin", Json::array()},
                      {"args", args},
                      {"turns", std::move(turns)}}};
}

/// What was sampled last of a turn, as it stands at the end of the turn's text; and whether the
/// last token only ended it.
struct Sampled {
  std::string text;
  bool has_stop = false;
};

Sampled sampled_of(const Trajectory& trajectory, const text::Tokenizer& tokenizer) {
  const std::span<const int64_t> ids(trajectory.token_ids);
  std::string whole = tokenizer.decode(ids);
  if (ids.empty() || trajectory.text.ends_with(whole)) return {std::move(whole), false};
  return {tokenizer.decode(ids.first(ids.size() - 1)), true};
}

}  // namespace

PluginScheduler::PluginScheduler(const AgentOptions& options,
                                 const SchedulerContext& context,
                                 std::shared_ptr<reward::Failures> failures)
    : options_(options),
      encoder_(context.encoder),
      reader_(*context.encoder),
      failures_(std::move(failures)),
      processes_(context.plugins, load_of(options, context.args)),
      episodes_(processes_.size()) {
  const Json& turns = processes_.loaded().at("turns");
  log_info("turns: the scheduler {} answers the model", turns.at("scheduler").get<std::string>());
  for (const Json& name : turns.at("envs")) environments_.insert(name.get<std::string>());
}

void PluginScheduler::check(const text::Row& row) const {
  if (!gives_reward()) return;
  const Json config = env_config_of(row);
  const auto found = config.find("name");
  if (found == config.end() && !options_.gym_env.empty()) return;
  if (found == config.end() || !found->is_string() ||
      !environments_.contains(found->get<std::string>()))
    fail<FormatError>(
        "bad-row", row.where, "expected the name of an environment in env_config ({}), got {}",
        fmt::join(environments_, ", "), found == config.end() ? "none" : dump_json(*found));
}

/// Asks each process about all of its trajectories that are not lost.
void PluginScheduler::ask(std::span<Trajectory* const> trajectories,
                          const char* operation,
                          const Say& say,
                          const Take& take) {
  const auto by_worker = episodes_.by_worker(trajectories);
  reward::share_out(by_worker.size(), by_worker.size(), [&](size_t, size_t worker) {
    if (!by_worker[worker].empty())
      ask_worker(trajectories, by_worker[worker], operation, say, take);
  });
  episodes_.take_rewards(trajectories);
  processes_.log();
}

void PluginScheduler::ask_worker(std::span<Trajectory* const> trajectories,
                                 const std::vector<size_t>& places,
                                 const char* operation,
                                 const Say& say,
                                 const Take& take) {
  const size_t worker = episodes_.at(*trajectories[places[0]]).worker;
  Json list = Json::array();
  for (const size_t i : places)
    list.push_back(say(*trajectories[i], episodes_.at(*trajectories[i])));
  Json answers;
  try {
    Json answer = processes_.ask(worker, {{"op", operation}, {"trajectories", std::move(list)}},
                                 options_.timeout());
    if (const std::string error = reward::error_in(answer); !error.empty())
      fail<PeerError>("program-failed", kFrom, "{}", error);
    answers = answer.value("trajectories", Json());
    if (!answers.is_array() || answers.size() != places.size())
      fail<PeerError>("program-failed", kFrom, "expected an answer for each completion, got {}",
                      reward::shown_answer(dump_json(answer)));
  } catch (const PeerError& error) {
    for (const size_t i : places) episodes_.at(*trajectories[i]).is_open = true;
    const int lost = episodes_.lose_all_of(worker);
    failures_->add(1, where_of(*trajectories[places[0]]),
                   fmt::format("{} (completions that end with it: {})", error.what(), lost));
    return;
  }
  for (size_t k = 0; k < places.size(); ++k) {
    Trajectory& trajectory = *trajectories[places[k]];
    Episode& episode = episodes_.at(trajectory);
    try {
      if (!answers[k].is_object()) answers[k] = Json{{"error", dump_json(answers[k])}};
      if (const std::string error = reward::error_in(answers[k]); !error.empty())
        fail<PeerError>("program-failed", kFrom, "expected to {}, got {}", operation, error);
      take(trajectory, episode, answers[k], places[k]);
    } catch (const PeerError& error) {
      episode.is_lost = true;
      failures_->add(1, where_of(trajectory), error.what());
    }
  }
}

void PluginScheduler::begin(std::span<Trajectory* const> trajectories) {
  episodes_.add(trajectories);
  ask(
      trajectories, "begin",
      [&](const Trajectory& trajectory, const Episode&) {
        Json columns = trajectory.row ? trajectory.row->columns : Json::object();
        Json variables = trajectory.row ? trajectory.row->chat_template_kwargs : Json();
        // Environments get an object, also where the row has its text or a name alone.
        if (gives_reward() && trajectory.row)
          if (Json config = env_config_of(*trajectory.row); !config.empty())
            columns["env_config"] = std::move(config);
        return Json{{"id", trajectory.id},
                    {"messages", trajectory.messages},
                    {"tools", trajectory.tools},
                    {"columns", std::move(columns)},
                    {"chat_template_kwargs", std::move(variables)}};
      },
      [&](Trajectory& trajectory, Episode& episode, const Json& answer, size_t) {
        episode.is_open = true;
        const Json messages = answer.value("messages", Json());
        if (!messages.is_array() || messages.empty())
          fail<PeerError>("program-failed", kFrom, "expected messages to begin with, got {}",
                          dump_json(messages));
        trajectory.messages = messages;
        if (const Json tools = answer.value("tools", Json()); tools.is_array())
          trajectory.tools = tools;
        if (gives_reward()) trajectory.reward = 0;
      });
  failures_->report();
}

Json PluginScheduler::turn_of(const Trajectory& trajectory, const Episode& episode) const {
  // Of a turn that goes on, ms-swift's hooks get what is new.
  const std::string completion = trajectory.text.starts_with(episode.turn_so_far)
                                     ? trajectory.text.substr(episode.turn_so_far.size())
                                     : trajectory.text;
  Json calls = Json::array();
  for (const text::ToolCall& call : reader_.read(trajectory, completion).calls)
    calls.push_back({{"name", call.name}, {"arguments", call.arguments}});
  return {{"id", trajectory.id},
          {"turn", trajectory.num_turns},
          {"messages", trajectory.messages},
          {"completion", completion},
          {"token_ids", trajectory.token_ids},
          {"finish_reason", trajectory.finish_reason},
          {"calls", std::move(calls)},
          {"is_last", trajectory.is_last}};
}

std::vector<FollowUp> PluginScheduler::follow(std::span<Trajectory* const> trajectories) {
  std::vector<FollowUp> followed(trajectories.size());
  ask(
      trajectories, "follow",
      [&](const Trajectory& trajectory, const Episode& episode) {
        return turn_of(trajectory, episode);
      },
      [&](Trajectory& trajectory, Episode& episode, const Json& answer, size_t index) {
        followed[index] = take_turn(trajectory, episode, answer);
      });
  failures_->report();
  return followed;
}

/// Takes what the hooks and the step of a turn say.
FollowUp PluginScheduler::take_turn(Trajectory& trajectory,
                                    Episode& episode,
                                    const Json& answer) const {
  if (const Json infos = answer.value("infos", Json()); infos.is_object())
    trajectory.infos.update(infos);
  if (gives_reward()) {
    const Json total = trajectory.infos.value("total_reward", Json());
    trajectory.reward = total.is_number() ? std::optional(total.get<double>()) : std::nullopt;
  }
  episode.turn_so_far.clear();
  FollowUp follow_up;
  if (answer.contains("continuation")) {
    follow_up.continuation = continuation_of(trajectory, episode, answer["continuation"]);
    return follow_up;
  }
  if (answer.contains("turn")) trajectory.messages.back() = answer["turn"];
  follow_up.messages = answer.value("messages", Json::array());
  for (Json& message : follow_up.messages)
    if (message.is_object() && message.contains("content") && message["content"].is_string())
      message["content"] = cut_to_tokens(message["content"].get_ref<const std::string&>(),
                                         options_.max_tool_response_length, encoder_->tokenizer());
  return follow_up;
}

/// A turn that goes on, behind tokens of its own or text. The token that ended it is not kept: the
/// model went on without it in ms-swift, too.
Continuation PluginScheduler::continuation_of(const Trajectory& trajectory,
                                              Episode& episode,
                                              const Json& answer) const {
  const text::Tokenizer& tokenizer = encoder_->tokenizer();
  const Sampled sampled = sampled_of(trajectory, tokenizer);
  const std::string before =
      trajectory.text.substr(0, trajectory.text.size() - sampled.text.size());
  const size_t count = trajectory.token_ids.size() - sampled.has_stop;
  Continuation continuation{.text = answer.value("text", ""), .kept = 0, .ids = {}};
  if (const Json ids = answer.value("ids", Json()); ids.is_array() && !ids.empty()) {
    continuation.kept = std::min(answer.value("kept", size_t{0}), count);
    continuation.ids = ids.get<std::vector<int64_t>>();
    for (const int64_t id : continuation.ids)
      if (id < 0 || id >= tokenizer.size())
        fail<PeerError>("program-failed", kFrom, "expected ids below {}, got {}", tokenizer.size(),
                        id);
    continuation.text = before +
                        tokenizer.decode(std::span(trajectory.token_ids).first(continuation.kept)) +
                        tokenizer.decode(continuation.ids);
  } else if (!continuation.text.starts_with(before)) {
    fail<PeerError>("program-failed", kFrom,
                    "expected a turn that goes on to begin as it began, with {:?}, got {:?}",
                    before, continuation.text.substr(0, before.size()));
  }
  episode.turn_so_far = continuation.text;
  return continuation;
}

void PluginScheduler::end(std::span<Trajectory* const> trajectories) noexcept {
  std::vector<Trajectory*> known;
  std::vector<std::optional<double>> rewards;
  for (Trajectory* trajectory : trajectories)
    if (episodes_.contains(*trajectory)) known.push_back(trajectory);
  try {
    for (const Trajectory* trajectory : known) rewards.push_back(trajectory->reward);
    ask(
        known, "end", [](const Trajectory& one, const Episode&) { return Json(one.id); },
        [](Trajectory&, Episode&, const Json&, size_t) {});
  } catch (...) {
    // The user wants to end: the processes end with this scheduler.
  }
  // A failure is told with the next ones: these trajectories have all that they need.
  for (size_t i = 0; i < rewards.size(); ++i) known[i]->reward = rewards[i];
  for (const Trajectory* trajectory : known) episodes_.erase(*trajectory);
}

}  // namespace lockstep::agent
