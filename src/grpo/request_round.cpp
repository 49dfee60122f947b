// SPDX-License-Identifier: Apache-2.0
#include "grpo/request_round.h"

#include <algorithm>
#include <tuple>

#include "base/check.h"
#include "base/log.h"

namespace lockstep::grpo {
namespace {

using std::chrono::milliseconds;
using Kind = RequestOutcome::Kind;

/// How often servers that go on may fail at a request.
constexpr int kMostAttempts = 3;
/// How many requests a server has in work at most: each has a thread here.
constexpr int64_t kMostInWork = 64;
/// How long a request waits for a server that is too busy.
constexpr milliseconds kBusyPause{500};
/// How often run() looks for an interrupt.
constexpr milliseconds kPoll{100};

}  // namespace

RequestRound::RequestRound(std::vector<rollout::Request> requests,
                           const std::vector<std::unique_ptr<SamplingServer>>& servers,
                           const std::string& version,
                           const RoundTimeouts& timeouts)
    : requests_(std::move(requests)), timeouts_(timeouts), results_(requests_.size()) {
  int64_t most_samples = 1;
  for (size_t i = 0; i < requests_.size(); ++i) {
    requests_[i].id = fmt::format("request {}", i);
    requests_[i].weight_version = version;
    pending_.push_back({.request = i});
    most_samples = std::max(most_samples, requests_[i].num_samples);
  }
  for (const auto& server : servers) {
    if (!server->is_alive) continue;
    // One request more than the server samples at once, so that the next one is there when it has
    // room.
    const int64_t full = server->server->info().max_num_seqs / most_samples + 2;
    loads_.push_back({.server = server.get(), .most_requests = std::min(full, kMostInWork)});
  }
}

RequestRound::~RequestRound() {
  {
    // Under the lock, so that no thread begins to wait when this has been said.
    const std::lock_guard lock(mutex_);
    is_stopped_ = true;
  }
  changed_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

int64_t RequestRound::cost_of(const Item& item) const {
  const rollout::Request& request = requests_[item.request];
  return std::ssize(request.prompt) + request.num_samples * request.settings.max_new_tokens;
}

void RequestRound::start_threads() {
  int64_t most = 0;
  for (const Load& load : loads_) most += load.most_requests;
  for (int64_t i = 0; i < std::min(most, std::ssize(requests_)); ++i)
    threads_.emplace_back([this] { work(); });
  for (const Load& load : loads_)
    threads_.emplace_back([this, server = load.server] { watch_health(*server); });
}

RolloutClient::Completions RequestRound::run(
    const RolloutClient::Watch& watch,
    const std::function<void(const std::string& why)>& check_left) {
  start_threads();
  std::unique_lock lock(mutex_);
  for (;;) {
    changed_.wait_for(lock, kPoll, [&] {
      return num_done_ == std::ssize(requests_) || !losses_.empty() || !done_.empty();
    });
    const std::vector<std::string> losses = std::exchange(losses_, {});
    const std::vector<size_t> done = std::exchange(done_, {});
    const int64_t tokens = num_tokens_, completions = num_completions_;
    const bool is_done = num_done_ == std::ssize(requests_);
    const bool has_failed = !failures_.empty() && !in_work_;
    lock.unlock();
    for (const std::string& why : losses) check_left(why);
    // Nobody touches what is done.
    for (const size_t request : watch.done ? done : std::vector<size_t>())
      for (size_t i = 0; i < results_[request].size(); ++i)
        watch.done(request, i, results_[request][i]);
    if (watch.progress) watch.progress(tokens, completions);
    if (is_done) return std::move(results_);
    if (has_failed) report_failures();
    lock.lock();
  }
}

/// Takes the next request for the server with the fewest tokens in work that has room, of equal
/// ones that which has had the fewest; false when there is nothing to do now.
bool RequestRound::take(Item& item, Load*& load) {
  // A request that no server can do ends the round: nothing new is begun.
  if (!failures_.empty()) return false;
  const auto now = Clock::now();
  const auto ready = std::find_if(pending_.begin(), pending_.end(),
                                  [&](const Item& one) { return one.not_before <= now; });
  if (ready == pending_.end()) return false;
  load = nullptr;
  int64_t alive = 0;
  for (const Load& one : loads_) alive += one.server->is_alive;
  for (Load& one : loads_) {
    const bool has_failed = one.server == ready->failed_at && alive > 1;
    if (one.server->is_alive && !has_failed && one.requests < one.most_requests &&
        (!load || std::tie(one.tokens, one.taken) < std::tie(load->tokens, load->taken)))
      load = &one;
  }
  if (!load) return false;
  item = std::move(*ready);
  pending_.erase(ready);
  if (!load->requests++) load->oldest = now;
  load->tokens += cost_of(item);
  ++load->taken;
  ++in_work_;
  return true;
}

void RequestRound::work() {
  std::unique_lock lock(mutex_);
  while (!is_over()) {
    Item item;
    Load* load = nullptr;
    if (!take(item, load)) {
      changed_.wait_for(lock, kPoll);
      continue;
    }
    lock.unlock();
    SamplingServer& server = *load->server;
    RequestOutcome outcome = server.server->sample(requests_[item.request], timeouts_.request,
                                                   [&] { return is_stopped_ || !server.is_alive; });
    lock.lock();
    settle(item, *load, std::move(outcome));
    changed_.notify_all();
  }
}

/// What becomes of a request whose server has answered, or not.
void RequestRound::settle(Item& item, Load& load, RequestOutcome outcome) {
  --load.requests;
  load.tokens -= cost_of(item);
  --in_work_;
  item.error = std::move(outcome.error);
  item.not_before = {};
  switch (outcome.kind) {
    case Kind::kDone:
      ++num_done_;
      num_completions_ += std::ssize(outcome.completions);
      for (const auto& completion : outcome.completions)
        num_tokens_ += std::ssize(completion.token_ids);
      results_[item.request] = std::move(outcome.completions);
      done_.push_back(item.request);
      return;
    case Kind::kRefused:
      return fail_request(item);
    case Kind::kFailed:
      if (++item.failures >= kMostAttempts) return fail_request(item);
      item.failed_at = load.server;
      log_warning("prompt {} of this generation is sampled again: {}", item.request, item.error);
      break;
    case Kind::kBusy:
      if (item.busy_since == Clock::time_point{}) item.busy_since = Clock::now();
      if (Clock::now() - item.busy_since > timeouts_.request) return fail_request(item);
      item.not_before = Clock::now() + kBusyPause;
      break;
    case Kind::kServerLost:
      ++load.requests;
      lose(load, item.error);
      --load.requests;
      break;
    case Kind::kCancelled:
      break;
  }
  pending_.push_front(std::move(item));
}

/// Takes a server out of the round and says what that costs.
void RequestRound::lose(Load& load, const std::string& why) {
  if (!load.server->is_alive.exchange(false)) return;
  const double age = std::chrono::duration<double>(Clock::now() - load.oldest).count();
  log_warning(
      "server {} is lost: {}; its {} prompts in work, the oldest for {:.3g} s, are sampled again "
      "elsewhere",
      load.server->server->url(), why, load.requests, age);
  losses_.push_back(why);
  changed_.notify_all();
}

void RequestRound::fail_request(const Item& item) {
  log_warning("prompt {} of this generation cannot be sampled: {}", item.request, item.error);
  failures_.emplace_back(item.request, item.error);
  std::sort(failures_.begin(), failures_.end());
}

void RequestRound::report_failures() const {
  const auto& [request, error] = failures_.front();
  fail<PeerError>("request-failed", fmt::format("prompt {} of this generation", request),
                  "expected its {} completions, got {}{}", requests_[request].num_samples, error,
                  failures_.size() > 1
                      ? fmt::format(" ({} more prompts failed, see above)", failures_.size() - 1)
                      : "");
}

/// A server that says nothing for long may sample, or hang: one that does not even say that it is
/// well hangs.
void RequestRound::watch_health(SamplingServer& server) {
  const auto stop = [&] { return is_over() || !server.is_alive; };
  int failures = 0;
  std::unique_lock lock(mutex_);
  for (;;) {
    const auto next = Clock::now() + timeouts_.health_interval;
    while (!stop() && Clock::now() < next) changed_.wait_until(lock, next);
    if (stop()) return;
    lock.unlock();
    std::string why;
    try {
      server.server->check_health(timeouts_.health,
                                  [&] { return is_stopped_.load() || !server.is_alive; });
    } catch (const PeerError& error) {
      why = error.what();
    } catch (const InterruptedError&) {
      return;
    }
    lock.lock();
    failures = why.empty() ? 0 : failures + 1;
    if (failures < 2) continue;
    for (Load& load : loads_)
      if (load.server == &server) lose(load, why);
    return;
  }
}

}  // namespace lockstep::grpo
