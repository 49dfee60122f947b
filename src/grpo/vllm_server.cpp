// SPDX-License-Identifier: Apache-2.0
#include "grpo/vllm_server.h"

#include <string_view>

#include "base/check.h"
#include "base/json.h"
#include "base/log.h"
#include "grpo/completion_wire.h"

namespace lockstep::grpo {
namespace {

using std::chrono::milliseconds;

constexpr int64_t kPluginProtocol = 1;
constexpr const char* kRpc = "/collective_rpc";
constexpr const char* kAbout = "/server_info?config_format=json";

/// A member of nested objects; null where one is missing.
Json find(const Json& object, std::initializer_list<const char*> path) {
  const Json* at = &object;
  for (const char* name : path) {
    if (!at->is_object() || !at->contains(name)) return {};
    at = &(*at)[name];
  }
  return *at;
}

std::string text_of(const Json& value) {
  return value.is_string() ? value.get<std::string>() : dump_json(value);
}

/// What a rank's plugin says went wrong.
std::string error_of(const Json& status) {
  const Json error = status.value("error", Json());
  if (!error.is_object()) return "no reason given";
  return fmt::format("{}: {}: {}", text_of(error.value("code", Json())),
                     text_of(error.value("where", Json())),
                     text_of(error.value("message", Json())));
}

[[noreturn]] void refuse_server(const std::string& url,
                                const std::string& expected,
                                const std::string& got) {
  fail<ConfigError>("wrong-server", url, "expected {}, got {}", expected, got);
}

}  // namespace

bool VllmServer::is_vllm(const Json& server_info) {
  return find(server_info, {"vllm_config"}).is_object() &&
         find(server_info, {"lockstep"}).is_null();
}

/// How the server was started.
void VllmServer::read_settings(const Json& about, const net::SamplerIdentity& expected) {
  const Json backend = find(about, {"vllm_config", "weight_transfer_config", "backend"});
  if (backend != "lockstep")
    refuse_server(
        url(),
        R"(--weight-transfer-config '{"backend":"lockstep"}' and the plugin of integrations/vllm)",
        "backend " + text_of(backend));
  const Json model = find(about, {"vllm_config", "model_config"});
  const Json mode = find(model, {"logprobs_mode"});
  if (mode != "processed_logprobs")
    refuse_server(
        url(),
        "--logprobs-mode processed_logprobs, since temperature is part of what is sampled from",
        text_of(mode));
  // "torch.bfloat16"
  std::string dtype = text_of(find(model, {"dtype"}));
  if (dtype.starts_with("torch.")) dtype = dtype.substr(6);
  if (dtype != expected.dtype)
    refuse_server(url(),
                  fmt::format("the trainer's dtype {} (--dtype of vLLM, or --torch_dtype here)",
                              expected.dtype),
                  dtype);
  const Json length = find(model, {"max_model_len"});
  if (!length.is_number_integer())
    fail<PeerError>("bad-answer", url(), "expected max_model_len from GET {}, got {}", kAbout,
                    text_of(length));
  info_ = {.identity = expected, .max_model_len = length.get<int64_t>(), .max_num_seqs = 256};
  if (const Json most = find(about, {"vllm_config", "scheduler_config", "max_num_seqs"});
      most.is_number_integer())
    info_.max_num_seqs = most.get<int64_t>();
}

void VllmServer::connect(const net::SamplerIdentity& expected,
                         milliseconds timeout,
                         const Cancelled& cancelled) {
  label_.clear();
  digest_.clear();
  const net::HttpAnswer answer = client_.get(kAbout, timeout, cancelled);
  if (answer.status == 503)
    fail<PeerError>("not-ready", url(), "expected 200 from GET {}, got 503: {}", kAbout,
                    net::error_message(answer));
  if (answer.status == 404)
    refuse_server(url(), "vLLM's control routes (start it with VLLM_SERVER_DEV_MODE=1)",
                  fmt::format("404 from GET {}", kAbout));
  const Json about = client_.get_json(kAbout, timeout, cancelled);
  read_settings(about, expected);
  const Json names = client_.get_json("/v1/models", timeout, cancelled);
  const Json data = find(names, {"data"});
  const Json name = data.is_array() && !data.empty() ? find(data[0], {"id"}) : Json();
  if (!name.is_string())
    fail<PeerError>("bad-answer", url(), "expected a model from GET /v1/models, got {}",
                    dump_json(names));
  model_ = name.get<std::string>();
  const Json world = find(client_.get_json("/get_world_size", timeout, cancelled), {"world_size"});
  num_ranks_ = world.is_number_integer() ? world.get<int64_t>() : 0;
  client_.post_json(
      "/init_weight_transfer_engine",
      {{"init_info",
        {{"backend", "lockstep"}, {"protocol", kPluginProtocol}, {"session", random_session()}}}},
      timeout, cancelled);
  for (const Json& status : statuses(timeout, cancelled))
    if (status.value("protocol", Json()) != kPluginProtocol)
      refuse_server(url(), fmt::format("a plugin of protocol {}", kPluginProtocol),
                    "one of " + text_of(status.value("protocol", Json())));
}

/// What each rank says of its weights.
std::vector<Json> VllmServer::statuses(milliseconds timeout, const Cancelled& cancelled) const {
  const Json answer = client_.post_json(kRpc, {{"method", "lockstep_status"}}, timeout, cancelled);
  const Json results = find(answer, {"results"});
  std::vector<Json> list;
  if (results.is_array())
    for (const Json& one : results)
      if (one.is_object()) list.push_back(one);
  if (std::ssize(list) != num_ranks_)
    fail<PeerError>("bad-answer", url(), "expected the status of {} ranks from the plugin, got {}",
                    num_ranks_, dump_json(answer).substr(0, 300));
  return list;
}

/// Each rank must be in `state`, with `expected` in `field`.
void VllmServer::expect_status(const char* field,
                               const std::string& expected,
                               const char* state,
                               milliseconds timeout,
                               const Cancelled& cancelled) const {
  int64_t rank = 0;
  for (const Json& status : statuses(timeout, cancelled)) {
    const std::string found = text_of(status.value(field, Json())),
                      found_state = text_of(status.value("state", Json()));
    // An engine that failed in an earlier change says so until it has served new weights.
    const bool waits_for_repair = found_state == "poisoned" && std::string_view(state) == "staged";
    if (found != expected || !(found_state == state || waits_for_repair))
      fail<PeerError>(found_state == "poisoned" ? "poisoned" : "version-mismatch", url(),
                      "expected rank {} to be {} with weights {}, got {} with {} ({})", rank, state,
                      expected, found_state, found, error_of(status));
    ++rank;
  }
}

/// Opens an update. One that another trainer has left open is closed on all ranks.
void VllmServer::start(milliseconds timeout, const Cancelled& cancelled) const {
  try {
    client_.post_json("/start_weight_update", Json::object(), timeout, cancelled);
  } catch (const PeerError& error) {
    if (error.code() != "peer-refused") throw;
    log_info("{}: an update of the weights was left open there; it is closed", url());
    client_.post_json(kRpc, {{"method", "lockstep_reset"}}, timeout, cancelled);
    client_.post_json("/start_weight_update", Json::object(), timeout, cancelled);
  }
}

void VllmServer::update(const WeightOffer& weights,
                        bool with_delta,
                        milliseconds timeout,
                        const Cancelled& cancelled) const {
  start(timeout, cancelled);
  Json info = update_info(weights, with_delta);
  info["version"] = weights.label;
  // One object for each rank.
  Json list = Json::array();
  for (int64_t rank = 0; rank < num_ranks_; ++rank) list.push_back(info);
  client_.post_json("/update_weights", {{"update_info", num_ranks_ == 1 ? info : list}}, timeout,
                    cancelled);
  expect_status("staged", weights.digest, "staged", timeout, cancelled);
  client_.post_json("/finish_weight_update", {{"weight_version", weights.label}}, timeout,
                    cancelled);
  expect_status("digest", weights.digest, "serving", timeout, cancelled);
}

void VllmServer::load_weights(const WeightOffer& weights,
                              bool with_delta,
                              milliseconds timeout,
                              const Cancelled& cancelled) {
  if (weights.is_folder())
    fail<ConfigError>("bad-flag", "--sync_transport",
                      "expected shm or tcp, the ways of weights to a vLLM server, got directory");
  // What was computed under the old weights is forgotten with the pause.
  client_.post_json("/pause?mode=keep&clear_cache=true", Json::object(), timeout, cancelled);
  const auto resume = [&] { client_.post_json("/resume", Json::object(), timeout, cancelled); };
  try {
    update(weights, with_delta, timeout, cancelled);
  } catch (const PeerError& error) {
    try {
      if (error.code() != "poisoned") {
        client_.post_json(kRpc, {{"method", "lockstep_reset"}}, timeout, cancelled);
        resume();
      }
    } catch (const PeerError& other) {
      log_warning("{}", other.what());
    }
    throw;
  }
  resume();
  digest_ = weights.digest;
  expect_weights(weights.label, digest_, timeout, cancelled);
}

void VllmServer::expect_weights(const std::string& label,
                                const std::string& digest,
                                milliseconds timeout,
                                const Cancelled& cancelled) const {
  const Json version =
      find(client_.get_json("/weight_info", timeout, cancelled), {"weight_version"});
  if (version != label)
    fail<PeerError>("version-mismatch", url(), "expected weights {}, got {}", label,
                    text_of(version));
  expect_status("digest", digest, "serving", timeout, cancelled);
}

void VllmServer::check_weights(milliseconds timeout, const Cancelled& cancelled) const {
  expect_weights(label_, digest_, timeout, cancelled);
}

RequestOutcome VllmServer::sample(const rollout::Request& request,
                                  milliseconds timeout,
                                  const Cancelled& cancelled) const {
  const auto read = [&](const Json& body) { return read_vllm_completions(body, request, url()); };
  return ask(vllm_completion_body(request, model_), read, timeout, cancelled);
}

}  // namespace lockstep::grpo
