// A reward behind a URL.
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "base/check.h"
#include "base/json.h"
#include "reward/external_reward.h"
#include "reward/retrying_client.h"
#include "reward/reward_json.h"
#include "reward/share_out.h"

namespace lockstep::reward {
namespace {

class UrlReward final : public ExternalReward {
 public:
  UrlReward(const ExternalSpec& spec, const ExternalOptions& options)
      : ExternalReward({spec.name, spec.name}, options),
        options_(options),
        client_(spec.target, options) {}

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
      return values_in(client_.post("", dump_json(body)), inputs.size());
    } catch (const PeerError& error) {
      failures_.add(std::ssize(inputs), inputs.front().where, error.what());
      return std::vector<std::optional<double>>(inputs.size());
    }
  }

  std::vector<std::optional<double>> values_in(const Json& body, size_t count) const {
    const std::string from = client_.url();
    const auto rewards = body.is_object() ? body.find("rewards") : body.end();
    if (!body.is_object() || rewards == body.end() || !rewards->is_array() ||
        rewards->size() != count)
      fail<PeerError>("peer-refused", from,
                      "expected {{\"rewards\": [...]}} with {} values, got {}", count,
                      shown_answer(dump_json(body)));
    std::vector<std::optional<double>> values;
    for (const Json& value : *rewards) values.push_back(value_in(value, from));
    return values;
  }

  ExternalOptions options_;
  RetryingClient client_;
};

}  // namespace

std::unique_ptr<RewardFunction> make_url_reward(const ExternalSpec& spec,
                                                const ExternalOptions& options) {
  return std::make_unique<UrlReward>(spec, options);
}

}  // namespace lockstep::reward
