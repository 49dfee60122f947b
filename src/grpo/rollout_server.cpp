// SPDX-License-Identifier: Apache-2.0
#include "grpo/rollout_server.h"

#include "base/check.h"
#include "base/json.h"
#include "base/log.h"
#include "grpo/completion_wire.h"

namespace lockstep::grpo {
namespace {

using std::chrono::milliseconds;
using Kind = RequestOutcome::Kind;

/// What an answer that is no 200 means.
Kind kind_of_status(int status) {
  switch (status) {
    case 429:
    case 503:
      return Kind::kBusy;
    case 400:
    case 413:
    case 422:
      return Kind::kRefused;
    case 500:
      return Kind::kFailed;
    default:
      // Another version of the weights, another key, another program.
      return Kind::kServerLost;
  }
}

}  // namespace

void RolloutServer::connect(const net::SamplerIdentity& expected,
                            milliseconds timeout,
                            const Cancelled& cancelled) {
  label_.clear();
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
  const Json models = client_.get_json("/v1/models", timeout, cancelled);
  const Json list = models.is_object() ? models.value("data", Json()) : Json();
  if (!list.is_array() || list.empty() || !list[0].is_object() || !list[0].contains("id") ||
      !list[0]["id"].is_string())
    fail<PeerError>("bad-answer", url(), "expected a model from GET /v1/models, got {}",
                    dump_json(models));
  model_ = list[0]["id"].get<std::string>();
  const Json world = client_.get_json("/get_world_size", timeout, cancelled);
  if (!world.is_object() || world.value("world_size", Json()) != 1)
    fail<PeerError>("bad-answer", url(), "expected a world size of 1, got {}", dump_json(world));
  client_.post_json("/init_weight_transfer_engine", {{"init_info", {{"backend", "directory"}}}},
                    timeout, cancelled);
}

/// A trainer that died in an update has left it open; an update that fails closes it.
void RolloutServer::start_update(milliseconds timeout, const Cancelled& cancelled) const {
  try {
    client_.post_json("/start_weight_update", Json::object(), timeout, cancelled);
  } catch (const PeerError& error) {
    if (error.code() != "peer-refused") throw;
    log_info("{}: an update of the weights was left open there; it is closed", url());
    client_.post("/update_weights", R"({"update_info":{"path":"","digest":""}})", timeout,
                 cancelled);
    client_.post_json("/start_weight_update", Json::object(), timeout, cancelled);
  }
}

void RolloutServer::take_weights(const WeightFolder& weights,
                                 milliseconds timeout,
                                 const Cancelled& cancelled) {
  label_.clear();
  start_update(timeout, cancelled);
  client_.post_json(
      "/update_weights",
      {{"update_info", {{"path", weights.path.string()}, {"digest", weights.digest}}}}, timeout,
      cancelled);
  client_.post_json("/finish_weight_update", {{"weight_version", weights.label}}, timeout,
                    cancelled);
  const Json info = client_.get_json("/weight_info", timeout, cancelled);
  const Json version = info.is_object() ? info.value("weight_version", Json()) : Json();
  if (version != weights.label)
    fail<PeerError>("version-mismatch", url(), "expected weights {}, got {}", weights.label,
                    dump_json(version));
  label_ = weights.label;
}

void RolloutServer::check_health(milliseconds timeout, const Cancelled& cancelled) const {
  const net::HttpAnswer answer = client_.get("/health", timeout, cancelled);
  if (answer.status != 200)
    fail<PeerError>("peer-refused", url(), "expected 200 from GET /health, got {}", answer.status);
}

RequestOutcome RolloutServer::sample(const rollout::Request& request,
                                     milliseconds timeout,
                                     const Cancelled& cancelled) const {
  RequestOutcome outcome;
  try {
    const net::HttpAnswer answer = client_.post(
        "/v1/completions", dump_json(completion_body(request, model_)), timeout, cancelled);
    if (answer.status == 200) {
      outcome.completions =
          read_completions(parse_json(answer.body, url(), "bad-answer"), request, url());
      return outcome;
    }
    outcome.kind = kind_of_status(answer.status);
    outcome.error = fmt::format("{}: expected 200 from POST /v1/completions, got {}: {}", url(),
                                answer.status, net::error_message(answer));
  } catch (const InterruptedError& error) {
    outcome = {Kind::kCancelled, error.what(), {}};
  } catch (const Error& error) {
    if (error.code() == "request-aborted") return {Kind::kFailed, error.what(), {}};
    // A failed connection, a passed deadline, or an answer that is no answer.
    outcome = {Kind::kServerLost, error.what(), {}};
  }
  return outcome;
}

}  // namespace lockstep::grpo
