// SPDX-License-Identifier: Apache-2.0
#include "agent/served_turns.h"

#include <algorithm>
#include <filesystem>
#include <thread>

#include "base/check.h"
#include "net/http_client.h"
#include "reward/external_reward.h"  // is_interrupted

namespace lockstep::agent {

Json json_of(const ServedTurns& turns) {
  if (!turns.is_on()) return nullptr;
  Json told{{"multi_turn_scheduler", turns.multi_turn_scheduler}, {"gym_env", turns.gym_env}};
  told["use_gym_env"] = turns.use_gym_env ? Json(*turns.use_gym_env) : Json();
  told["max_turns"] = turns.max_turns ? Json(*turns.max_turns) : Json();
  told["external_plugins"] = Json::array();
  for (const std::string& file : turns.external_plugins)
    told["external_plugins"].push_back(std::filesystem::absolute(file).string());
  return told;
}

std::optional<ServedTurns> served_turns(const Json& told, const std::string& where) {
  if (told.is_null()) return std::nullopt;
  ServedTurns turns;
  try {
    turns.multi_turn_scheduler = told.at("multi_turn_scheduler").get<std::string>();
    turns.gym_env = told.at("gym_env").get<std::string>();
    if (!told.at("use_gym_env").is_null()) turns.use_gym_env = told["use_gym_env"].get<bool>();
    if (!told.at("max_turns").is_null()) turns.max_turns = told["max_turns"].get<int64_t>();
    turns.external_plugins = told.at("external_plugins").get<std::vector<std::string>>();
  } catch (const Json::exception&) {
    fail<FormatError>("bad-server-info", where,
                      "expected multi_turn_scheduler, gym_env, use_gym_env, max_turns and "
                      "external_plugins in turns, got {}",
                      dump_json(told));
  }
  return turns;
}

std::optional<ServedTurns> ask_for_turns(const std::string& url,
                                         const std::string& api_key,
                                         std::chrono::milliseconds timeout) {
  constexpr const char* kAbout = "/server_info?config_format=json";
  constexpr std::chrono::milliseconds kPause{200}, kAnswer{10'000};
  const net::HttpClient client(url, api_key);
  const auto deadline = std::chrono::steady_clock::now() + timeout;
  while (true) {
    net::HttpAnswer answer;
    try {
      answer = client.get(kAbout, std::min(timeout, kAnswer), reward::is_interrupted);
    } catch (const PeerError&) {
      return std::nullopt;
    }
    // A server that is not ready says so; one that has no such route is none of ours.
    if (answer.status != 503) {
      if (answer.status != 200 || !Json::accept(answer.body)) return std::nullopt;
      const Json about = parse_json(answer.body, url, "bad-server-info");
      const Json own = about.is_object() ? about.value("lockstep", Json()) : Json();
      return served_turns(own.is_object() ? own.value("turns", Json()) : Json(), url);
    }
    if (std::chrono::steady_clock::now() > deadline)
      fail<PeerError>("not-ready", url, "expected 200 from GET {} within {:.4g} s, got 503", kAbout,
                      std::chrono::duration<double>(timeout).count());
    std::this_thread::sleep_for(kPause);
  }
}

}  // namespace lockstep::agent
