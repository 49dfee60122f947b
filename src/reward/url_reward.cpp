// A reward behind a URL.
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <chrono>
#include <thread>

#include "base/check.h"
#include "base/json.h"
#include "net/http_client.h"
#include "reward/external_reward.h"
#include "reward/reward_json.h"
#include "reward/share_out.h"

namespace lockstep::reward {
namespace {

using std::chrono::milliseconds;

/// The first wait before a reward is asked again; each one is twice as long as the last.
constexpr milliseconds kFirstPause{250}, kLongestPause{10'000};

/// "http://HOST:PORT" of a URL, and the path behind it.
std::pair<std::string, std::string> split_url(const std::string& url) {
  const size_t slash = url.find('/', url.find("://") + 3);
  if (slash == url.npos) return {url, "/"};
  return {url.substr(0, slash), url.substr(slash)};
}

/// Whether a server may say something else a little later.
bool may_pass(int status) { return status == 429 || status >= 500; }

class UrlReward final : public ExternalReward {
 public:
  UrlReward(const ExternalSpec& spec, const ExternalOptions& options)
      : ExternalReward({spec.name, spec.name}, options),
        options_(options),
        path_(split_url(spec.target).second),
        client_(split_url(spec.target).first, options.reward_api_key) {}

  std::vector<std::optional<double>> judge(std::span<const RewardInput> inputs,
                                           const RunState& run,
                                           PlacedNotes&) const override {
    std::vector<std::optional<double>> values(inputs.size());
    const auto size = static_cast<size_t>(options_.reward_batch_size);
    share_out((inputs.size() + size - 1) / size, static_cast<size_t>(options_.reward_workers),
              [&](size_t, size_t batch) {
                if (failures_.is_over()) return;
                const auto part =
                    inputs.subspan(batch * size, std::min(size, inputs.size() - batch * size));
                const auto scores = ask(part, run);
                std::copy(scores.begin(), scores.end(),
                          values.begin() + static_cast<std::ptrdiff_t>(batch * size));
              });
    failures_.report();
    return values;
  }

 private:
  std::vector<std::optional<double>> ask(std::span<const RewardInput> inputs,
                                         const RunState& run) const {
    Json body{{"reward", name()}, {"step", run.global_step}, {"max_steps", run.max_steps}};
    Json& completions = body["completions"] = Json::array();
    for (const RewardInput& input : inputs) completions.push_back(completion_json(input, run));
    try {
      return values_in(post(dump_json(body)), inputs.size());
    } catch (const PeerError& error) {
      failures_.add(std::ssize(inputs), inputs.front().where, error.what());
      return std::vector<std::optional<double>>(inputs.size());
    }
  }

  /// The answer of the server, which is asked again while it is too busy or cannot be reached.
  net::HttpAnswer post(const std::string& body) const {
    milliseconds pause = kFirstPause;
    for (int64_t left = options_.reward_retries;; --left) {
      try {
        net::HttpAnswer answer = client_.post(path_, body, options_.timeout(), is_interrupted);
        if (left == 0 || !may_pass(answer.status)) return answer;
      } catch (const PeerError&) {
        if (left == 0) throw;
      }
      wait(pause);
      pause = std::min(2 * pause, kLongestPause);
    }
  }
  static void wait(milliseconds time) {
    const auto end = std::chrono::steady_clock::now() + time;
    while (std::chrono::steady_clock::now() < end) {
      if (is_interrupted())
        fail<InterruptedError>("interrupted", "reward", "expected an answer, got a cancellation");
      std::this_thread::sleep_for(milliseconds(50));
    }
  }

  std::vector<std::optional<double>> values_in(const net::HttpAnswer& answer, size_t count) const {
    const std::string from = client_.url() + path_;
    if (answer.status != 200)
      fail<PeerError>("peer-refused", from, "expected 200, got {}: {}", answer.status,
                      net::error_message(answer));
    Json body;
    try {
      body = parse_json(answer.body, from);
    } catch (const FormatError&) {
      fail<PeerError>("peer-refused", from, "expected JSON, got {}", shown_answer(answer.body));
    }
    const auto rewards = body.is_object() ? body.find("rewards") : body.end();
    if (!body.is_object() || rewards == body.end() || !rewards->is_array() ||
        rewards->size() != count)
      fail<PeerError>("peer-refused", from,
                      "expected {{\"rewards\": [...]}} with {} values, got {}", count,
                      shown_answer(answer.body));
    std::vector<std::optional<double>> values;
    for (const Json& value : *rewards) values.push_back(value_in(value, from));
    return values;
  }

  ExternalOptions options_;
  std::string path_;
  net::HttpClient client_;
};

}  // namespace

std::unique_ptr<RewardFunction> make_url_reward(const ExternalSpec& spec,
                                                const ExternalOptions& options) {
  return std::make_unique<UrlReward>(spec, options);
}

}  // namespace lockstep::reward
