// SPDX-License-Identifier: Apache-2.0
#include "reward/plugin_host.h"

#include <algorithm>
#include <span>

#include <fmt/ranges.h>

#include "base/check.h"
#include "base/log.h"
#include "reward/external_reward.h"  // external_spec
#include "reward/json_process.h"
#include "reward/process_log.h"
#include "reward/reward_json.h"
#include "reward/share_out.h"

namespace lockstep::reward {
namespace {

/// Plugins may import all of torch.
constexpr std::chrono::milliseconds kLoadTimeout{300'000};

/// The text of {"error": …}; "" where there is none.
std::string error_in(const Json& answer) {
  const auto found = answer.find("error");
  return found != answer.end() && found->is_string() ? found->get<std::string>() : "";
}

}  // namespace

bool needs_python(std::string_view text) {
  return text == "math_verify" || (text.find(':') != text.npos && !external_spec(text));
}

PluginHost::PluginHost(const PluginOptions& options, PluginRequest request)
    : options_(options), request_(std::move(request)) {
  for (int64_t i = 0; i < options.plugin_workers; ++i)
    workers_.push_back(std::make_unique<LineProcess>(
        LineProgram{.name = "plugins",
                    .arguments = {options.plugin_python, "-u", options.host_script},
                    .variables = {{"PYTHONIOENCODING", "utf-8"}}}));
  try {
    take_rewards(load(*workers_[0]));
  } catch (const PeerError& error) {
    log_stderr(*workers_[0]);
    fail<ConfigError>("bad-plugin", "--external_plugins", "{}", error.what());
  }
  log_stderr(*workers_[0]);
}

Json PluginHost::load(LineProcess& worker) {
  const Json answer = ask(worker,
                          {{"op", "load"},
                           {"plugins", options_.external_plugins},
                           {"rewards", request_.rewards},
                           {"builtin", request_.builtin},
                           {"args", request_.args}},
                          kLoadTimeout);
  if (const std::string error = error_in(answer); !error.empty())
    fail<PeerError>("program-failed", worker.name(), "{}", error);
  return answer;
}

void PluginHost::take_rewards(const Json& loaded) {
  known_ = loaded.at("known").get<std::vector<std::string>>();
  std::vector<std::string> names;
  for (size_t i = 0; i < request_.rewards.size(); ++i) {
    const Json& one = loaded.at("rewards").at(i);
    auto& reward = rewards_.emplace_back();
    if (one.is_null()) continue;
    reward = PluginReward{i, one.at("name"), one.at("class_name"), one.at("is_async")};
    names.push_back(reward->name);
  }
  const std::string swift = loaded.at("swift"), problem = loaded.at("problem");
  log_info("plugins: Python {}, {}; rewards from there: {}", loaded.at("python").get<std::string>(),
           swift == "stub" ? "without ms-swift" : "ms-swift " + swift,
           names.empty() ? "none" : fmt::format("{}", fmt::join(names, ", ")));
  if (!problem.empty())
    log_info("plugins: ms-swift is installed, but cannot be used ({}); stand-ins serve", problem);
}

const PluginReward* PluginHost::find(std::string_view text) const {
  for (size_t i = 0; i < rewards_.size(); ++i)
    if (request_.rewards[i] == text && rewards_[i]) return &*rewards_[i];
  return nullptr;
}

/// One line there, one line back. Throws PeerError for an answer that is no JSON object.
Json PluginHost::ask(LineProcess& worker, const Json& request, std::chrono::milliseconds timeout) {
  Json answer = ask_json(worker, request, timeout);
  if (answer.is_object()) return answer;
  worker.stop();
  fail<PeerError>("program-failed", worker.name(), "expected an object of JSON, got {}",
                  shown_answer(dump_json(answer)));
}

std::vector<Json> PluginHost::score(const PluginReward& reward,
                                    std::vector<Json> groups,
                                    const Json& state,
                                    std::chrono::milliseconds timeout) {
  const std::lock_guard lock(mutex_);
  Json request{{"op", "score"}, {"reward", reward.index}, {"state", state}};
  // What waits in Python for others waits for all groups at once; other calls have a group each, so
  // that a deadline ends one of them.
  const size_t workers = workers_.size(),
               size = reward.is_async ? (groups.size() + workers - 1) / workers : 1,
               parts = size ? (groups.size() + size - 1) / size : 0;
  share_out(parts, workers, [&](size_t worker, size_t part) {
    const size_t begin = part * size, count = std::min(size, groups.size() - begin);
    score_part(*workers_[worker], request, std::span(groups).subspan(begin, count), timeout);
  });
  for (const auto& worker : workers_) log_stderr(*worker);
  return groups;
}

/// Puts answers in the place of groups.
void PluginHost::score_part(LineProcess& worker,
                            const Json& request,
                            std::span<Json> groups,
                            std::chrono::milliseconds timeout) {
  std::string error;
  try {
    if (!worker.is_running()) load(worker);
    Json own = request;
    own["groups"] = Json::array();
    for (Json& group : groups) own["groups"].push_back(std::move(group));
    Json answer = ask(worker, own, timeout);
    error = error_in(answer);
    const auto found = answer.find("groups");
    if (error.empty() && found != answer.end() && found->is_array() &&
        found->size() == groups.size()) {
      for (size_t i = 0; i < groups.size(); ++i) groups[i] = std::move((*found)[i]);
      return;
    }
    if (error.empty()) error = "expected an answer for each group, got " + dump_json(answer);
  } catch (const PeerError& failure) {
    error = failure.what();
  }
  for (Json& group : groups) group = {{"error", error}};
}

}  // namespace lockstep::reward
