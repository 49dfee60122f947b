// SPDX-License-Identifier: Apache-2.0
#include "reward/plugin_reward.h"

#include "base/check.h"
#include "base/json.h"
#include "reward/external_reward.h"
#include "reward/reward_json.h"

namespace lockstep::reward {
namespace {

/// Completions [begin, end) of one group.
struct GroupRange {
  size_t begin = 0, end = 0;
};

std::vector<GroupRange> groups_of(std::span<const RewardInput> inputs) {
  std::vector<GroupRange> groups;
  for (size_t i = 0; i < inputs.size(); ++i) {
    if (i == 0 || inputs[i].group != inputs[i - 1].group) groups.push_back({i, i});
    groups.back().end = i + 1;
  }
  return groups;
}

Json group_json(std::span<const RewardInput> inputs, const RunState& run) {
  Json group = Json::array();
  for (size_t i = 0; i < inputs.size(); ++i) {
    const RewardInput& input = inputs[i];
    Json& completion = group.emplace_back(completion_json(input, run));
    completion["text_prompt"] = input.text_prompt ? Json(*input.text_prompt) : Json();
    completion["prompt_id"] = fmt::format("prompt-{}-{}", run.global_step, input.group);
    completion["request_id"] = fmt::format("request-{}-{}-{}", run.global_step, input.group, i);
  }
  return group;
}

class PythonReward final : public ExternalReward {
 public:
  PythonReward(std::shared_ptr<PluginHost> host,
               const PluginReward& reward,
               const ExternalOptions& options)
      : ExternalReward({reward.name, reward.class_name}, options),
        host_(std::move(host)),
        reward_(reward),
        timeout_(options.timeout()) {}

  std::vector<std::optional<double>> judge(std::span<const RewardInput> inputs,
                                           const RunState& run,
                                           PlacedNotes& notes) const override {
    std::vector<std::optional<double>> values(inputs.size());
    const std::vector<GroupRange> ranges = groups_of(inputs);
    std::vector<Json> groups;
    for (const GroupRange& range : ranges)
      groups.push_back(group_json(inputs.subspan(range.begin, range.end - range.begin), run));
    const Json state{{"global_step", run.global_step},
                     {"max_steps", run.max_steps},
                     {"epoch", run.epoch},
                     {"num_train_epochs", run.num_train_epochs}};
    const std::vector<Json> answers = host_->score(reward_, std::move(groups), state, timeout_);
    for (size_t g = 0; g < ranges.size(); ++g) {
      try {
        take(answers[g], ranges[g], values, notes);
      } catch (const PeerError& error) {
        failures_.add(static_cast<int64_t>(ranges[g].end - ranges[g].begin),
                      inputs[ranges[g].begin].where, error.what());
      }
    }
    failures_.report();
    return values;
  }

 private:
  void take(const Json& answer,
            const GroupRange& range,
            std::vector<std::optional<double>>& values,
            PlacedNotes& notes) const {
    const std::string from = "reward " + name();
    const size_t count = range.end - range.begin;
    if (!answer.is_object() || answer.contains("error"))
      fail<PeerError>("program-failed", from, "expected {} values, got {}", count,
                      answer.is_object() && answer["error"].is_string()
                          ? answer["error"].get<std::string>()
                          : shown_answer(dump_json(answer)));
    const Json list = answer.value("values", Json());
    if (!list.is_array() || list.size() != count)
      fail<PeerError>("program-failed", from, "expected {} values, got {}", count,
                      shown_answer(dump_json(answer)));
    for (size_t i = 0; i < count; ++i) values[range.begin + i] = value_in(list[i], from);
    const Json none = Json::object(), extra = answer.value("extra", none),
               metrics = answer.value("metrics", none);
    for (const auto& [column, column_values] : extra.items())
      notes.add_extra(column, range.begin, values.size(), column_values);
    for (const auto& [metric, numbers] : metrics.items())
      for (const Json& number : numbers)
        if (number.is_number()) notes.metrics[metric].emplace(range.begin, number.get<double>());
  }

  std::shared_ptr<PluginHost> host_;
  PluginReward reward_;
  std::chrono::milliseconds timeout_;
};

}  // namespace

std::unique_ptr<RewardFunction> make_plugin_reward(std::shared_ptr<PluginHost> host,
                                                   const PluginReward& reward,
                                                   const ExternalOptions& options) {
  return std::make_unique<PythonReward>(std::move(host), reward, options);
}

}  // namespace lockstep::reward
