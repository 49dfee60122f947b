// SPDX-License-Identifier: Apache-2.0
#include "reward/plugin_host.h"

#include <algorithm>
#include <span>

#include <fmt/ranges.h>

#include "base/check.h"
#include "base/log.h"
#include "reward/external_reward.h"  // external_spec
#include "reward/share_out.h"

namespace lockstep::reward {

bool needs_python(std::string_view text) {
  return text == "math_verify" || (text.find(':') != text.npos && !external_spec(text));
}

PluginHost::PluginHost(const PluginOptions& options, PluginRequest request)
    : request_(std::move(request)),
      workers_(options,
               {.name = "plugins",
                .flag = "--external_plugins",
                .request = {{"rewards", request_.rewards},
                            {"builtin", request_.builtin},
                            {"args", request_.args}}}) {
  take_rewards(workers_.loaded());
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
  log_info("plugins: rewards from there: {}",
           names.empty() ? "none" : fmt::format("{}", fmt::join(names, ", ")));
}

const PluginReward* PluginHost::find(std::string_view text) const {
  for (size_t i = 0; i < rewards_.size(); ++i)
    if (request_.rewards[i] == text && rewards_[i]) return &*rewards_[i];
  return nullptr;
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
    score_part(worker, request, std::span(groups).subspan(begin, count), timeout);
  });
  workers_.log();
  return groups;
}

/// Puts answers in the place of groups.
void PluginHost::score_part(size_t worker,
                            const Json& request,
                            std::span<Json> groups,
                            std::chrono::milliseconds timeout) {
  std::string error;
  try {
    Json own = request;
    own["groups"] = Json::array();
    for (Json& group : groups) own["groups"].push_back(std::move(group));
    Json answer = workers_.ask(worker, own, timeout);
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
