// SPDX-License-Identifier: Apache-2.0
#include "reward/retrying_client.h"

#include <algorithm>
#include <chrono>
#include <thread>
#include <utility>

#include "base/check.h"
#include "reward/external_reward.h"  // is_interrupted
#include "reward/reward_json.h"

namespace lockstep::reward {
namespace {

using std::chrono::milliseconds;

/// The first wait before a server is asked again; each one is twice as long as the last.
constexpr milliseconds kFirstPause{250}, kLongestPause{10'000};

/// "http://HOST:PORT" of a URL, and the path behind it.
std::pair<std::string, std::string> split_url(const std::string& url) {
  const size_t slash = url.find('/', url.find("://") + 3);
  if (slash == url.npos) return {url, ""};
  return {url.substr(0, slash), url.substr(slash)};
}

/// Whether a server may say something else a little later.
bool may_pass(int status) { return status == 429 || status >= 500; }

void wait(milliseconds time) {
  const auto end = std::chrono::steady_clock::now() + time;
  while (std::chrono::steady_clock::now() < end) {
    if (is_interrupted())
      fail<InterruptedError>("interrupted", "reward", "expected an answer, got a cancellation");
    std::this_thread::sleep_for(milliseconds(50));
  }
}

}  // namespace

RetryingClient::RetryingClient(const std::string& url, const ExternalOptions& options)
    : options_(options),
      path_(split_url(url).second),
      client_(std::make_unique<net::HttpClient>(split_url(url).first, options.reward_api_key)) {}

std::string RetryingClient::url(std::string_view path) const {
  return client_->url() + path_ + std::string(path);
}

template <class Call>
Json RetryingClient::ask(std::string_view path, const JsonLimits& limits, const Call& call) const {
  net::HttpAnswer answer;
  milliseconds pause = kFirstPause;
  for (int64_t left = options_.reward_retries;; --left) {
    try {
      answer = call(path_.empty() && path.empty() ? "/" : path_ + std::string(path));
      if (left == 0 || !may_pass(answer.status)) break;
    } catch (const PeerError&) {
      if (left == 0) throw;
    }
    wait(pause);
    pause = std::min(2 * pause, kLongestPause);
  }
  if (answer.status != 200)
    fail<PeerError>("peer-refused", url(path), "expected 200, got {}: {}", answer.status,
                    net::error_message(answer));
  try {
    return parse_json(answer.body, url(path), "bad-json", limits);
  } catch (const FormatError&) {
    fail<PeerError>("peer-refused", url(path), "expected JSON, got {}", shown_answer(answer.body));
  }
}

Json RetryingClient::post(std::string_view path,
                          const std::string& body,
                          const JsonLimits& limits) const {
  return ask(path, limits, [&](const std::string& whole) {
    return client_->post(whole, body, options_.timeout(), is_interrupted);
  });
}

Json RetryingClient::get(std::string_view path) const {
  return ask(path, {}, [&](const std::string& whole) {
    return client_->get(whole, options_.timeout(), is_interrupted);
  });
}

}  // namespace lockstep::reward
