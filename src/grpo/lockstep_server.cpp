// SPDX-License-Identifier: Apache-2.0
#include "grpo/lockstep_server.h"

#include "base/check.h"
#include "base/json.h"
#include "base/log.h"
#include "grpo/completion_wire.h"

namespace lockstep::grpo {
namespace {

using std::chrono::milliseconds;

constexpr const char* kLoadAdapter = "/v1/load_lora_adapter";
constexpr const char* kUnloadAdapter = "/v1/unload_lora_adapter";

/// The names that GET /v1/models lists, the model's first.
std::vector<std::string> model_names(const net::HttpClient& client,
                                     milliseconds timeout,
                                     const RolloutServer::Cancelled& cancelled) {
  const Json models = client.get_json("/v1/models", timeout, cancelled);
  const Json list = models.is_object() ? models.value("data", Json()) : Json();
  std::vector<std::string> names;
  if (list.is_array())
    for (const Json& one : list)
      if (one.is_object() && one.contains("id") && one["id"].is_string())
        names.push_back(one["id"].get<std::string>());
  if (names.empty() || names.size() != list.size())
    fail<PeerError>("bad-answer", client.url(), "expected a model from GET /v1/models, got {}",
                    dump_json(models));
  return names;
}

}  // namespace

void LockstepServer::connect(const net::SamplerIdentity& expected,
                             milliseconds timeout,
                             const Cancelled& cancelled) {
  label_.clear();
  adapter_digest_.clear();
  constexpr const char* kAbout = "/server_info?config_format=json";
  if (const net::HttpAnswer answer = client_.get(kAbout, timeout, cancelled); answer.status == 503)
    fail<PeerError>("not-ready", url(), "expected 200 from GET {}, got 503: {}", kAbout,
                    net::error_message(answer));
  const Json about = client_.get_json(kAbout, timeout, cancelled);
  info_ = net::sampler_info(about.is_object() ? about.value("lockstep", Json()) : Json(), url());
  const auto differences = net::differences(expected, info_.identity);
  if (!differences.empty())
    fail<ConfigError>("wrong-server", url(),
                      "expected the trainer's {} {}, got {} (start the server with the same model "
                      "and the same --torch_dtype and --exact)",
                      differences[0].field, differences[0].expected, differences[0].found);
  const std::vector<std::string> names = model_names(client_, timeout, cancelled);
  model_ = names[0];
  const Json world = client_.get_json("/get_world_size", timeout, cancelled);
  if (!world.is_object() || world.value("world_size", Json()) != 1)
    fail<PeerError>("bad-answer", url(), "expected a world size of 1, got {}", dump_json(world));
  session_ = random_session();
  client_.post_json("/init_weight_transfer_engine",
                    {{"init_info", {{"backend", "lockstep"}, {"session", session_}}}}, timeout,
                    cancelled);
  if (!base_) return;
  check_base(timeout, cancelled);
  // What a run of the same folder has left there, or this one before it lost the server.
  for (const std::string& name : names)
    if (name.starts_with(base_->adapter_prefix))
      client_.post(kUnloadAdapter, dump_json({{"lora_name", name}}), timeout, cancelled);
}

/// Compares the weights that the server has with those beside which an adapter is trained, and has
/// it call them so.
void LockstepServer::check_base(milliseconds timeout, const Cancelled& cancelled) const {
  // vLLM's name for the first rank of all kinds.
  constexpr const char* kRank = "dp0:pp0:pcp0:tp0:";
  Json baseline = Json::object();
  for (const auto& [name, digest] : base_->checksums) baseline[kRank + name] = digest;
  const Json answer = client_.post_json(
      "/weight_checker", {{"action", "compare"}, {"baseline", baseline}}, timeout, cancelled);
  if (!answer.is_object() || answer.value("match", Json()) != true) {
    const Json other = answer.is_object() ? answer.value("mismatches", Json()) : Json();
    fail<ConfigError>("wrong-server", url(),
                      "expected the weights beside which the adapter is trained, got others in {} "
                      "tensors, {} among them (start the server with the same model)",
                      other.size(), other.is_array() && !other.empty() ? dump_json(other[0]) : "");
  }
  client_.post_json("/update_weight_version", {{"new_version", base_->label}}, timeout, cancelled);
}

/// A trainer that died in an update has left it open; an update that fails closes it.
void LockstepServer::start_update(milliseconds timeout, const Cancelled& cancelled) const {
  try {
    client_.post_json("/start_weight_update", {{"session", session_}}, timeout, cancelled);
  } catch (const PeerError& error) {
    if (error.code() != "peer-refused") throw;
    log_info("{}: an update of the weights was left open there; it is closed", url());
    client_.post("/update_weights",
                 dump_json({{"session", session_}, {"update_info", {{"path", ""}}}}), timeout,
                 cancelled);
    client_.post_json("/start_weight_update", {{"session", session_}}, timeout, cancelled);
  }
}

void LockstepServer::load_weights(const WeightOffer& weights,
                                  bool with_delta,
                                  milliseconds timeout,
                                  const Cancelled& cancelled) {
  if (weights.adapter_name.empty())
    take_checkpoint(weights, with_delta, timeout, cancelled);
  else
    take_adapter(weights, timeout, cancelled);
}

void LockstepServer::take_checkpoint(const WeightOffer& weights,
                                     bool with_delta,
                                     milliseconds timeout,
                                     const Cancelled& cancelled) {
  start_update(timeout, cancelled);
  client_.post_json("/update_weights",
                    {{"session", session_}, {"update_info", update_info(weights, with_delta)}},
                    timeout, cancelled);
  client_.post_json("/finish_weight_update",
                    {{"session", session_}, {"weight_version", weights.label}}, timeout, cancelled);
  expect_version(weights.label, timeout, cancelled);
}

void LockstepServer::expect_version(const std::string& version,
                                    milliseconds timeout,
                                    const Cancelled& cancelled) const {
  const Json info = client_.get_json("/weight_info", timeout, cancelled);
  const Json found = info.is_object() ? info.value("weight_version", Json()) : Json();
  if (found != version)
    fail<PeerError>("version-mismatch", url(), "expected weights {}, got {}", version,
                    dump_json(found));
}

/// A version of the adapter has a name of its own, so that a request which names it gets no other;
/// the one before is taken away when the new one is there.
void LockstepServer::take_adapter(const WeightOffer& weights,
                                  milliseconds timeout,
                                  const Cancelled& cancelled) {
  Json request{{"lora_name", weights.adapter_name}, {"load_inplace", true}};
  if (weights.is_folder())
    request["lora_path"] = weights.path.string();
  else
    request["update_info"] = update_info(weights, /*with_delta=*/false);
  const net::HttpAnswer loaded = client_.post(kLoadAdapter, dump_json(request), timeout, cancelled);
  if (loaded.status != 200)
    fail<PeerError>("peer-refused", url(), "expected 200 from POST {}, got {}: {}", kLoadAdapter,
                    loaded.status, net::error_message(loaded));
  const Json card = client_.get_json("/v1/models/" + weights.adapter_name, timeout, cancelled);
  const Json found = card.is_object() ? card.value("lockstep", Json()) : Json();
  const Json expected{{"digest", weights.digest}, {"pairs", weights.num_pairs}};
  if (found != expected)
    fail<PeerError>("adapter-mismatch", url(), "expected adapter {} to be bound as {}, got {}",
                    weights.adapter_name, dump_json(expected), dump_json(found));
  expect_version(base_->label, timeout, cancelled);
  if (!adapter_digest_.empty() && model_ != weights.adapter_name)
    client_.post(kUnloadAdapter, dump_json({{"lora_name", model_}}), timeout, cancelled);
  model_ = weights.adapter_name;
  adapter_digest_ = weights.digest;
}

void LockstepServer::release(milliseconds timeout) noexcept {
  try {
    if (base_) {
      if (!adapter_digest_.empty())
        client_.post(kUnloadAdapter, dump_json({{"lora_name", model_}}), timeout);
    } else {
      client_.post("/shutdown_weight_transfer_engine", dump_json({{"session", session_}}), timeout);
    }
  } catch (const std::exception& error) {
    log_info("{}: what it has of this run was left there: {}", url(), error.what());
  }
}

RequestOutcome LockstepServer::sample(const rollout::Request& request,
                                      milliseconds timeout,
                                      const Cancelled& cancelled) const {
  const auto read = [&](const Json& body) {
    auto completions = read_completions(body, request, url());
    if (adapter_digest_.empty()) return completions;
    // Another adapter may have got the name.
    const auto fingerprint =
        net::answer_fingerprint(request.weight_version.value_or(""), adapter_digest_);
    if (body.value("system_fingerprint", Json()) != fingerprint)
      fail<PeerError>("bad-answer", url(), "expected an answer of {}, got one of {}", fingerprint,
                      dump_json(body.value("system_fingerprint", Json())));
    return completions;
  };
  return ask(completion_body(request, model_), read, timeout, cancelled);
}

}  // namespace lockstep::grpo
