// SPDX-License-Identifier: Apache-2.0
#include "grpo/http_rollout.h"

#include <algorithm>
#include <exception>
#include <thread>

#include "base/check.h"
#include "base/interrupt.h"
#include "base/json.h"
#include "base/log.h"
#include "grpo/lockstep_server.h"
#include "grpo/request_round.h"
#include "grpo/vllm_server.h"

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
    auto server = std::make_unique<SamplingServer>();
    server->server = make_server(url, options_.engine);
    for (const auto& other : servers_)
      if (other->server->url() == server->server->url())
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
    if (one->is_alive) one->server->release(kReturnTimeout);
}

std::unique_ptr<RolloutServer> HttpRollout::make_server(const std::string& url,
                                                        RolloutEngine engine) const {
  if (engine == RolloutEngine::kVllm) return std::make_unique<VllmServer>(url, options_.api_key);
  return std::make_unique<LockstepServer>(url, options_.api_key,
                                          options_.base ? &*options_.base : nullptr);
}

/// Takes a server for what it says that it is.
void HttpRollout::find_engine(SamplingServer& one, milliseconds timeout) const {
  if (options_.engine != RolloutEngine::kAuto) return;
  const std::string url = one.server->url();
  const net::HttpAnswer answer =
      net::HttpClient(url, options_.api_key)
          .get("/server_info?config_format=json", timeout, is_interrupted);
  // The handshake says what is wrong with any other answer.
  if (answer.status != 200 || !Json::accept(answer.body)) return;
  if (VllmServer::is_vllm(parse_json(answer.body, url, "bad-answer")))
    one.server = make_server(url, RolloutEngine::kVllm);
}

/// Asks a server that may just be starting until it answers.
void HttpRollout::wait_for(SamplingServer& one) {
  const auto deadline = Clock::now() + options_.start_timeout;
  for (bool is_first = true;; is_first = false) {
    const auto left = std::chrono::duration_cast<milliseconds>(deadline - Clock::now());
    try {
      find_engine(one, std::max(left, milliseconds(1)));
      one.server->connect(expected_, std::max(left, milliseconds(1)), is_interrupted);
      one.is_alive = true;
      const bool is_own = one.server->is_own_engine();
      const net::SamplerInfo& info = one.server->info();
      log_info("server {}: {}{} sequences at once, {} tokens each, {}", one.server->url(),
               is_own ? "" : "vLLM, ", info.max_num_seqs, info.max_model_len, info.identity.dtype);
      if (info.has_turns && !options_.makes_turns)
        fail<ConfigError>("wrong-server", one.server->url(),
                          "expected a server that was started without flags of turns, since this "
                          "run knew of none when it began, got one with some (hint: start the run "
                          "when the first server is there, or give it the flags)");
      if (!is_own && options_.base)
        fail<ConfigError>("wrong-server", one.server->url(),
                          "expected lockstep rollout, which takes an adapter alone, got vLLM "
                          "(--sync_mode full sends it merged weights)");
      if (!is_own && options_.needs_experts)
        fail<ConfigError>("wrong-server", one.server->url(),
                          "expected lockstep rollout for --router_replay_mode R3, got vLLM, whose "
                          "/v1/completions tells no experts (R2 needs nothing of the server)");
      if (!is_own && !options_.shared_bytes)
        fail<ConfigError>("wrong-server", one.server->url(),
                          "expected lockstep rollout, which reads weights from a folder, got vLLM, "
                          "which takes them by shared memory or TCP (--sync_transport shm, tcp)");
      return;
    } catch (const PeerError& error) {
      // A server that nobody reaches may be starting, too; one that answers otherwise is another.
      const bool may_be_starting =
          error.code() == "connection-failed" || error.code() == "not-ready";
      if (!may_be_starting || left <= kStartInterval) throw;
      if (is_first)
        log_info("server {}: not there yet; waiting for at most {:.4g} s", one.server->url(),
                 seconds(options_.start_timeout));
    }
    std::this_thread::sleep_for(kStartInterval);
    throw_if_interrupted();
  }
}

int64_t HttpRollout::max_model_len() const {
  int64_t least = options_.max_model_len.value_or(servers_[0]->server->info().max_model_len);
  for (const auto& one : servers_) least = std::min(least, one->server->info().max_model_len);
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
      one->server->connect(expected_, kReturnTimeout, is_interrupted);
      one->is_alive = true;
      log_info("server {}: it is back", one->server->url());
    } catch (const PeerError&) {
      // It is asked again before the next generation.
    } catch (const ConfigError& error) {
      log_warning("{}", error.what());
    } catch (const FormatError& error) {
      log_warning("{}", error.what());
    }
  }
}

RolloutClient::Published HttpRollout::publish(int64_t weight_version) {
  const auto begin = Clock::now();
  take_back();
  if (weight_version != version_) {
    version_ = -1;
    weights_ = write_weights_(weight_version, std::exchange(may_be_read_, false));
    version_ = weight_version;
  }
  Published published = send_weights();
  published.seconds = std::chrono::duration<double>(Clock::now() - begin).count();
  published.sparsity = weights_.sparsity;
  return published;
}

/// Makes a server load the weights; returns how many bytes it took. One that was started anew since
/// it took the last ones needs the handshake again.
int64_t HttpRollout::give_weights(RolloutServer& server) const {
  try {
    return server.take_weights(weights_, options_.sync_timeout, is_interrupted);
  } catch (const PeerError& error) {
    if (error.code() == "deadline") throw;
    log_info("{}; asking the server again", error.what());
  }
  server.connect(expected_, kReturnTimeout, is_interrupted);
  return server.take_weights(weights_, options_.sync_timeout, is_interrupted);
}

void HttpRollout::lose(SamplingServer& one, const char* why, const PeerError& error) const {
  one.is_alive = false;
  log_warning("server {} is lost, since it did not {}: {}", one.server->url(), why, error.what());
  check_left(error.what());
}

/// Sends the weights to each server that has others, to all at once.
RolloutClient::Published HttpRollout::send_weights() {
  Published published;
  std::vector<int64_t> bytes(servers_.size());
  std::vector<std::exception_ptr> errors(servers_.size());
  std::vector<std::jthread> threads;
  for (size_t i = 0; i < servers_.size(); ++i) {
    SamplingServer& one = *servers_[i];
    if (!one.is_alive || one.server->label() == weights_.label) continue;
    threads.emplace_back([this, &one, &taken = bytes[i], &error = errors[i]] {
      try {
        taken = give_weights(*one.server);
      } catch (...) {
        error = std::current_exception();
      }
    });
  }
  const auto num_sent = threads.size();
  threads.clear();
  size_t num_lost = 0;
  for (size_t i = 0; i < errors.size(); ++i) {
    published.bytes += bytes[i];
    if (!errors[i]) continue;
    ++num_lost;
    may_be_read_ = true;
    try {
      std::rethrow_exception(errors[i]);
    } catch (const PeerError& error) {
      lose(*servers_[i], "take the weights", error);
    }
  }
  published.is_new = num_sent > num_lost;
  return published;
}

std::vector<RolloutClient::ServerScores> HttpRollout::score(const std::vector<int64_t>& ids) {
  std::vector<ServerScores> all;
  for (const auto& one : servers_) {
    if (!one->is_alive) continue;
    try {
      all.push_back({.url = one->server->url(),
                     .is_exact = one->server->is_own_engine() && !options_.has_merged_weights,
                     .logprobs = one->server->score(ids, options_.sync_timeout, is_interrupted)});
    } catch (const PeerError& error) {
      lose(*one, "score a text", error);
    }
  }
  return all;
}

RolloutClient::Completions HttpRollout::generate(std::span<const rollout::Request> requests,
                                                 int64_t weight_version,
                                                 const Watch& watch) {
  if (weight_version != version_)
    fail<PeerError>("version-mismatch", "sampler", "expected weights of version {}, got {}",
                    weight_version, version_);
  Completions completions;
  {
    RequestRound round(
        {requests.begin(), requests.end()}, servers_,
        options_.base ? options_.base->label : weights_.label,
        {options_.request_timeout, options_.health_interval, options_.health_timeout});
    completions = round.run(watch, [this](const std::string& why) { check_left(why); });
  }
  // An engine whose answers do not say where they come from must still have the weights.
  for (const auto& one : servers_)
    if (one->is_alive) one->server->check_weights(options_.sync_timeout, is_interrupted);
  return completions;
}

bool HttpRollout::has_trained_weights() const {
  return !options_.has_merged_weights &&
         std::all_of(servers_.begin(), servers_.end(),
                     [](const auto& one) { return one->server->is_own_engine(); });
}

}  // namespace lockstep::grpo
