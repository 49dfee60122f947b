// SPDX-License-Identifier: Apache-2.0
#include "tests/support/fake_rollout_server.h"

#include <stdexcept>

#include "base/check.h"

namespace lockstep::testing {
namespace {

/// A route's refusal.
[[noreturn]] void refuse(int status, const std::string& message) {
  throw RequestError(status, "refused", "", message);
}

Json error_body(const std::string& message) {
  return {{"error", {{"message", message}, {"type", "error"}, {"code", nullptr}}}};
}

}  // namespace

FakeRolloutServer::FakeRolloutServer(Script script) : script_(std::move(script)) {
  server_ = std::make_unique<SocketServer>(
      [this](SocketConnection& connection, const SocketRequest& request) {
        answer(connection, request);
      },
      script_.port);
}

std::vector<std::string> FakeRolloutServer::labels() const {
  const std::lock_guard lock(mutex_);
  return labels_;
}

std::map<std::string, Json> FakeRolloutServer::adapters() const {
  const std::lock_guard lock(mutex_);
  return adapters_;
}

void FakeRolloutServer::answer(SocketConnection& connection, const SocketRequest& request) {
  if (script_.intercept(connection, request)) return;
  try {
    const auto key = request.headers.find("authorization");
    if (!script_.api_key.empty() && request.target != "/health" &&
        (key == request.headers.end() || key->second != "Bearer " + script_.api_key))
      refuse(401, "wrong key");
    const Json body = request.body.empty() ? Json::object() : parse_json(request.body, "body");
    connection.answer(200, dump_json(route(request, body)));
  } catch (const RequestError& error) {
    connection.answer(error.status(), dump_json(error_body(error.what())));
  } catch (const std::exception& error) {
    connection.answer(500, dump_json(error_body(error.what())));
  }
}

Json FakeRolloutServer::route(const SocketRequest& request, const Json& body) {
  const std::string& target = request.target;
  if (target == "/v1/completions")
    return body.contains("prompt_logprobs") ? scores(body) : completions(body);
  const std::lock_guard lock(mutex_);
  if (target == "/health") return Json::object();
  if (target == "/server_info?config_format=json")
    return {{"lockstep", net::to_json(script_.info)}};
  if (target.starts_with("/v1/models") || target.starts_with("/v1/load_lora") ||
      target.starts_with("/v1/unload_lora"))
    return adapter_route(target, body);
  if (target == "/weight_checker") {
    const std::vector<std::string> others = script_.compare(body["baseline"]);
    return {{"match", others.empty()}, {"mismatches", others}};
  }
  if (target == "/update_weight_version") {
    label_ = body["new_version"];
    return {{"success", true}};
  }
  if (target == "/get_world_size") return {{"world_size", 1}};
  if (target == "/weight_info") return {{"weight_version", label_}};
  if (target == "/init_weight_transfer_engine") {
    if (body["init_info"]["backend"] != "lockstep") refuse(400, "no such backend");
    return {{"message", "ready"}};
  }
  if (target == "/shutdown_weight_transfer_engine") return {{"message", "closed"}};
  if (target == "/start_weight_update") {
    if (std::exchange(is_updating_, true)) refuse(500, "an update is open");
    has_update_ = false;
    return {{"message", "started"}};
  }
  if (target == "/update_weights") {
    if (!is_updating_) refuse(500, "no update is open");
    is_updating_ = false;
    const Json& info = body["update_info"];
    if (info.value("transport", "directory") == "shm") {
      script_.load(
          fmt::format("shm:{}:{}", info["name"].get<std::string>(), info["bytes"].get<int64_t>()),
          info["digest"]);
    } else {
      if (info["path"] == "") refuse(500, "no folder");
      script_.load(info["path"], info["digest"]);
    }
    is_updating_ = has_update_ = true;
    return {{"message", "updated"}};
  }
  if (target == "/finish_weight_update") {
    if (!std::exchange(is_updating_, false) || !has_update_) refuse(500, "nothing to finish");
    label_ = body["weight_version"];
    labels_.push_back(label_);
    return {{"message", "finished"}};
  }
  refuse(404, "no such route: " + target);
}

Json FakeRolloutServer::adapter_route(const std::string& target, const Json& body) {
  if (target == "/v1/models") {
    Json list = Json::array({{{"id", "model"}}});
    for (const auto& [name, adapter] : adapters_) list.push_back({{"id", name}});
    return {{"data", list}};
  }
  if (target == "/v1/load_lora_adapter") {
    adapters_[body["lora_name"]] = script_.bind(body["lora_path"]);
    return "Success";
  }
  if (target == "/v1/unload_lora_adapter") {
    if (!adapters_.erase(body["lora_name"])) refuse(404, "no such adapter");
    return "Success";
  }
  const auto found = adapters_.find(target.substr(target.rfind('/') + 1));
  if (found == adapters_.end()) refuse(404, "no such model");
  return {{"id", found->first}, {"lockstep", found->second}};
}

Json FakeRolloutServer::scores(const Json& body) {
  const auto ids = body["prompt"].get<std::vector<int64_t>>();
  const std::vector<float> values = script_.score(ids);
  Json list = Json::array({nullptr});
  for (size_t i = 1; i < ids.size(); ++i)
    list.push_back({{std::to_string(ids[i]), {{"logprob", shortest_double(values[i - 1])}}}});
  return {{"choices", Json::array({{{"index", 0}, {"prompt_logprobs", list}}})}};
}

Json FakeRolloutServer::completions(const Json& body) {
  const int now = ++in_work_;
  for (int most = most_at_once_; now > most && !most_at_once_.compare_exchange_weak(most, now);) {
  }
  std::string label, adapter;
  {
    const std::lock_guard lock(mutex_);
    label = label_;
    const auto found = adapters_.find(body["model"].get<std::string>());
    if (found != adapters_.end()) adapter = found->second["digest"];
  }
  if (body.contains("weight_version") && body["weight_version"] != label) {
    --in_work_;
    refuse(409, "the weights are " + label);
  }
  Json choices = Json::array();
  const auto made = script_.complete(body, label);
  for (size_t i = 0; i < made.size(); ++i) {
    Json logprobs = Json::array();
    for (const float value : made[i].logprobs) logprobs.push_back(shortest_double(value));
    choices.push_back(
        {{"index", i},
         {"text", ""},
         {"finish_reason", made[i].is_stopped ? "stop" : "length"},
         {"token_ids", made[i].ids},
         {"logprobs", {{"token_logprobs", logprobs}}},
         {"weight_versions",
          Json::array({{{"version", label}, {"start", 0}, {"end", made[i].ids.size()}}})}});
  }
  --in_work_;
  ++completed_;
  return {{"id", "cmpl-1"},
          {"choices", choices},
          {"system_fingerprint", net::answer_fingerprint(label, adapter)}};
}

}  // namespace lockstep::testing
