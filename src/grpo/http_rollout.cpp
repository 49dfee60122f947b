// SPDX-License-Identifier: Apache-2.0
#include "grpo/http_rollout.h"

#include <algorithm>
#include <exception>
#include <thread>

#include "base/check.h"
#include "base/interrupt.h"
#include "base/log.h"
#include "grpo/request_round.h"

namespace lockstep::grpo {
namespace {

using std::chrono::milliseconds;
using Clock = std::chrono::steady_clock;

/// How often a server that is not there yet is asked again.
constexpr milliseconds kStartInterval{500};
/// How long a lost server may take to answer when it is asked whether it is back.
constexpr milliseconds kReturnTimeout{2'000};

/// Whether the user wants the run to end and nothing holds it.
bool is_interrupted() {
  try {
    throw_if_interrupted();
  } catch (const InterruptedError&) {
    return true;
  }
  return false;
}

double seconds(milliseconds time) { return static_cast<double>(time.count()) / 1000; }

}  // namespace

HttpRollout::HttpRollout(const HttpRolloutOptions& options,
                         const net::SamplerIdentity& expected,
                         WriteWeights write_weights)
    : options_(options), expected_(expected), write_weights_(std::move(write_weights)) {
  for (const std::string& url : options.urls) {
    auto server = std::make_unique<SamplingServer>(url, options.api_key,
                                                   options_.base ? &*options_.base : nullptr);
    for (const auto& other : servers_)
      if (other->server.url() == server->server.url())
        fail<ConfigError>("bad-flag", "--rollout_server", "expected each server once, got {} twice",
                          url);
    servers_.push_back(std::move(server));
  }
  if (servers_.empty())
    fail<ConfigError>("bad-flag", "--rollout_server", "expected the URL of a server, got none");
  for (const auto& server : servers_) wait_for(*server);
}

HttpRollout::~HttpRollout() {
  for (const auto& one : servers_)
    if (one->is_alive) one->server.release(kReturnTimeout);
}

/// Asks a server that may just be starting until it answers.
void HttpRollout::wait_for(SamplingServer& one) {
  const auto deadline = Clock::now() + options_.start_timeout;
  for (bool is_first = true;; is_first = false) {
    const auto left = std::chrono::duration_cast<milliseconds>(deadline - Clock::now());
    try {
      one.server.connect(expected_, std::max(left, milliseconds(1)), is_interrupted);
      one.is_alive = true;
      const net::SamplerInfo& info = one.server.info();
      log_info("server {}: {} sequences at once, {} tokens each, {}", one.server.url(),
               info.max_num_seqs, info.max_model_len, info.identity.dtype);
      return;
    } catch (const PeerError& error) {
      // A server that nobody reaches may be starting, too; one that answers otherwise is another.
      const bool may_be_starting =
          error.code() == "connection-failed" || error.code() == "not-ready";
      if (!may_be_starting || left <= kStartInterval) throw;
      if (is_first)
        log_info("server {}: not there yet; waiting for at most {:.4g} s", one.server.url(),
                 seconds(options_.start_timeout));
    }
    std::this_thread::sleep_for(kStartInterval);
    throw_if_interrupted();
  }
}

int64_t HttpRollout::max_model_len() const {
  int64_t least = options_.max_model_len.value_or(servers_[0]->server.info().max_model_len);
  for (const auto& one : servers_) least = std::min(least, one->server.info().max_model_len);
  return least;
}

void HttpRollout::check_room(int64_t prompt_tokens, int64_t max_new_tokens) const {
  if (prompt_tokens < 1 || prompt_tokens + max_new_tokens > max_model_len())
    fail<ConfigError>("prompt-too-long", "sampler",
                      "expected prompt + completion of at most {} tokens, got {} + {}",
                      max_model_len(), prompt_tokens, max_new_tokens);
}

void HttpRollout::check_left(const std::string& why) const {
  const auto alive = std::count_if(servers_.begin(), servers_.end(),
                                   [](const auto& one) { return one->is_alive.load(); });
  if (!alive)
    fail<PeerError>("no-server", why.substr(0, why.find(": ")),
                    "expected a server that samples, got none left; the last one was lost: {}",
                    why);
  if (options_.on_loss == OnServerLoss::kStop)
    fail<PeerError>("server-lost", "--on_server_loss stop", "expected all servers, lost one: {}",
                    why);
}

/// Asks lost servers whether they are back.
void HttpRollout::take_back() {
  for (const auto& one : servers_) {
    if (one->is_alive) continue;
    try {
      one->server.connect(expected_, kReturnTimeout, is_interrupted);
      one->is_alive = true;
      log_info("server {}: it is back", one->server.url());
    } catch (const PeerError&) {
      // It is asked again before the next generation.
    } catch (const ConfigError& error) {
      log_warning("{}", error.what());
    } catch (const FormatError& error) {
      log_warning("{}", error.what());
    }
  }
}

void HttpRollout::publish(int64_t weight_version) {
  take_back();
  if (weight_version != version_) {
    version_ = -1;
    weights_ = write_weights_(weight_version, std::exchange(may_be_read_, false));
    version_ = weight_version;
  }
  send_weights();
}

/// Makes a server load the weights. One that was started anew since it took the last ones needs the
/// handshake again.
void HttpRollout::give_weights(RolloutServer& server) const {
  try {
    return server.take_weights(weights_, options_.sync_timeout, is_interrupted);
  } catch (const PeerError& error) {
    if (error.code() == "deadline") throw;
    log_info("{}; asking the server again", error.what());
  }
  server.connect(expected_, kReturnTimeout, is_interrupted);
  server.take_weights(weights_, options_.sync_timeout, is_interrupted);
}

/// Sends the weights to each server that has others, to all at once.
void HttpRollout::send_weights() {
  std::vector<std::exception_ptr> errors(servers_.size());
  std::vector<std::jthread> threads;
  for (size_t i = 0; i < servers_.size(); ++i) {
    SamplingServer& one = *servers_[i];
    if (!one.is_alive || one.server.label() == weights_.label) continue;
    threads.emplace_back([this, &one, &error = errors[i]] {
      try {
        give_weights(one.server);
      } catch (...) {
        error = std::current_exception();
      }
    });
  }
  threads.clear();
  for (size_t i = 0; i < errors.size(); ++i) {
    if (!errors[i]) continue;
    may_be_read_ = true;
    try {
      std::rethrow_exception(errors[i]);
    } catch (const PeerError& error) {
      servers_[i]->is_alive = false;
      log_warning("server {} is lost, since it did not take the weights: {}",
                  servers_[i]->server.url(), error.what());
      check_left(error.what());
    }
  }
}

RolloutClient::Completions HttpRollout::generate(std::span<const rollout::Request> requests,
                                                 int64_t weight_version,
                                                 const Progress& progress) {
  if (weight_version != version_)
    fail<PeerError>("version-mismatch", "sampler", "expected weights of version {}, got {}",
                    weight_version, version_);
  RequestRound round({requests.begin(), requests.end()}, servers_,
                     options_.base ? options_.base->label : weights_.label,
                     {options_.request_timeout, options_.health_interval, options_.health_timeout});
  return round.run(progress, [this](const std::string& why) { check_left(why); });
}

RolloutClient::Completions HttpRollout::generate_and_keep(std::span<const rollout::Request>,
                                                          int64_t,
                                                          const Progress&,
                                                          model::LayerInputs&) {
  fail<InternalError>(
      "internal", "sampler",
      "expected a sampler in this process to keep what its layers read, got servers");
}

}  // namespace lockstep::grpo
