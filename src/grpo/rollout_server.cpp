// SPDX-License-Identifier: Apache-2.0
#include "grpo/rollout_server.h"

#include <random>
#include <utility>

#include "base/check.h"
#include "base/json.h"

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

void RolloutServer::check_health(milliseconds timeout, const Cancelled& cancelled) const {
  const net::HttpAnswer answer = client_.get("/health", timeout, cancelled);
  if (answer.status != 200)
    fail<PeerError>("peer-refused", url(), "expected 200 from GET /health, got {}", answer.status);
}

RequestOutcome RolloutServer::ask(
    const Json& body,
    const std::function<std::vector<rollout::Completion>(const Json&)>& read,
    milliseconds timeout,
    const Cancelled& cancelled) const {
  RequestOutcome outcome;
  try {
    const net::HttpAnswer answer =
        client_.post("/v1/completions", dump_json(body), timeout, cancelled);
    if (answer.status == 200) {
      outcome.completions = read(parse_json(answer.body, url(), "bad-answer"));
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

std::string RolloutServer::random_session() {
  std::random_device random;
  std::string session;
  for (int word = 0; word < 4; ++word) session += fmt::format("{:08x}", random());
  return session;
}

int64_t RolloutServer::take_weights(const WeightOffer& weights,
                                    milliseconds timeout,
                                    const Cancelled& cancelled) {
  label_.clear();
  const std::string held = std::exchange(held_, "");
  const bool with_delta = weights.has_delta_from(held);
  load_weights(weights, with_delta, timeout, cancelled);
  label_ = weights.label;
  if (!weights.host.empty()) held_ = weights.digest;
  return weights.bytes_taken(with_delta);
}

std::vector<float> RolloutServer::score(const std::vector<int64_t>& ids,
                                        milliseconds timeout,
                                        const Cancelled& cancelled) const {
  const Json answer = client_.post_json(
      "/v1/completions",
      {{"model", model_}, {"prompt", ids}, {"max_tokens", 1}, {"prompt_logprobs", 0}}, timeout,
      cancelled);
  const auto refuse = [&](const Json& got) {
    fail<PeerError>("bad-answer", url(), "expected the log-probabilities of a prompt, got {}",
                    dump_json(got).substr(0, 300));
  };
  const Json::json_pointer place("/choices/0/prompt_logprobs");
  const Json list = answer.contains(place) ? answer.at(place) : Json();
  if (!list.is_array() || list.size() != ids.size()) refuse(answer);
  std::vector<float> logprobs;
  for (size_t i = 1; i < ids.size(); ++i) {
    const std::string id = std::to_string(ids[i]);
    const Json& one = list[i];
    const Json value =
        one.is_object() && one.contains(id) ? one[id].value("logprob", Json()) : Json();
    if (!value.is_number()) refuse(one);
    logprobs.push_back(static_cast<float>(value.get<double>()));
  }
  return logprobs;
}

}  // namespace lockstep::grpo
