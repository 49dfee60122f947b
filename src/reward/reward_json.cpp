// SPDX-License-Identifier: Apache-2.0
#include "reward/reward_json.h"

#include <cmath>

#include "base/check.h"
#include "base/json.h"
#include "text/unicode.h"

namespace lockstep::reward {

Json completion_messages(const RewardInput& input) {
  if (input.turns) return *input.turns;
  return Json::array({{{"role", "assistant"}, {"content", input.completion}}});
}

Json completion_json(const RewardInput& input, const RunState& run) {
  const auto or_null = [](const Json* value) { return value ? *value : Json(); };
  Json ids;
  if (input.token_ids) ids = std::vector<int64_t>(input.token_ids->begin(), input.token_ids->end());
  return {{"completion", input.completion},
          {"completion_messages", completion_messages(input)},
          {"prompt", input.prompt ? Json(*input.prompt) : Json()},
          {"prompt_messages", or_null(input.messages)},
          {"tools", or_null(input.tools)},
          {"token_ids", std::move(ids)},
          {"turn_token_ids", input.turn_ids ? Json(*input.turn_ids) : Json()},
          {"rollout_infos", input.infos ? *input.infos : Json::object()},
          {"finish_reason", input.finish_reason},
          {"columns", or_null(input.columns)},
          {"step", run.global_step},
          {"max_steps", run.max_steps},
          {"where", input.where}};
}

std::string shown_answer(std::string_view answer) {
  constexpr size_t kMost = 200;
  std::string shown;
  text::append_lossy(answer.substr(0, kMost), false, shown);
  return answer.size() > kMost ? shown + " …" : shown;
}

std::optional<double> value_in(const Json& answer, std::string_view from) {
  const auto refuse = [&](const std::string& got) {
    fail<PeerError>("program-failed", from,
                    "expected a number or null, alone or as \"reward\" of an object, got {}", got);
  };
  const Json* value = &answer;
  if (answer.is_object()) {
    if (const auto error = answer.find("error"); error != answer.end() && error->is_string())
      fail<PeerError>("program-failed", from, "expected a value, got the error: {}",
                      error->get<std::string>());
    const auto found = answer.find("reward");
    if (found == answer.end()) refuse(shown_answer(dump_json(answer)));
    value = &*found;
  }
  if (value->is_null()) return std::nullopt;
  if (!value->is_number() || !std::isfinite(value->get<double>()))
    refuse(shown_answer(dump_json(*value)));
  return value->get<double>();
}

}  // namespace lockstep::reward
