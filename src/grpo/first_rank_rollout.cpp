// SPDX-License-Identifier: Apache-2.0
#include "grpo/first_rank_rollout.h"

#include <cstring>
#include <string>
#include <type_traits>

#include "base/check.h"
#include "base/json.h"
#include "parallel/agreement.h"

namespace lockstep::grpo {
namespace {

template <class T>
std::string bytes_of(const T& value) {
  static_assert(std::is_trivially_copyable_v<T>);
  return {reinterpret_cast<const char*>(&value), sizeof(T)};
}

template <class T>
T value_of(const std::string& bytes) {
  T value;
  LOCKSTEP_CHECK(bytes.size() == sizeof(T), "{} bytes for {}", bytes.size(), sizeof(T));
  std::memcpy(&value, bytes.data(), sizeof(T));
  return value;
}

}  // namespace

FirstRankRollout::FirstRankRollout(parallel::Group& ranks,
                                   const std::function<std::unique_ptr<RolloutClient>()>& make)
    : ranks_(ranks) {
  facts_ = value_of<Facts>(parallel::do_on_first(ranks, {"meeting the servers"}, [&] {
    client_ = make();
    return bytes_of(Facts{client_->max_model_len(), client_->planned_memory({}, false),
                          client_->has_trained_weights()});
  }));
}

void FirstRankRollout::check_room(int64_t prompt_tokens, int64_t max_new_tokens) const {
  if (prompt_tokens < 1 || prompt_tokens + max_new_tokens > max_model_len())
    fail<ConfigError>("prompt-too-long", "sampler",
                      "expected prompt + completion of at most {} tokens, got {} + {}",
                      max_model_len(), prompt_tokens, max_new_tokens);
}

void FirstRankRollout::begin_turns(std::span<const rollout::GroupSpec> groups) {
  if (client_) client_->begin_turns(groups);
}

void FirstRankRollout::end_turns() noexcept {
  if (client_) client_->end_turns();
}

void FirstRankRollout::keep_caches(bool keep) {
  if (client_) client_->keep_caches(keep);
}

RolloutClient::Published FirstRankRollout::publish(int64_t weight_version) {
  return value_of<Published>(parallel::do_on_first(ranks_, {"weights for the servers"}, [&] {
    return bytes_of(client_->publish(weight_version));
  }));
}

std::vector<RolloutClient::ServerScores> FirstRankRollout::score(const std::vector<int64_t>& ids) {
  const std::string told = parallel::do_on_first(ranks_, {"scores of the servers"}, [&] {
    Json list = Json::array();
    for (const ServerScores& one : client_->score(ids))
      list.push_back({one.url, one.is_exact, one.logprobs});
    const std::vector<uint8_t> packed = Json::to_msgpack(list);
    return std::string(packed.begin(), packed.end());
  });
  std::vector<ServerScores> all;
  for (const Json list = Json::from_msgpack(told); const Json& one : list)
    all.push_back({.url = one[0].get<std::string>(),
                   .is_exact = one[1].get<bool>(),
                   .logprobs = one[2].get<std::vector<float>>()});
  return all;
}

RolloutClient::Completions FirstRankRollout::generate(std::span<const rollout::Request> requests,
                                                      int64_t weight_version,
                                                      const Watch& watch) {
  if (client_) return client_->generate(requests, weight_version, watch);
  LOCKSTEP_CHECK(requests.empty(), "rank {} asks servers for {} completions", ranks_.rank(),
                 requests.size());
  return {};
}

}  // namespace lockstep::grpo
