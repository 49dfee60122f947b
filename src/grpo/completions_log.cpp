// SPDX-License-Identifier: Apache-2.0
#include "grpo/completions_log.h"

namespace lockstep::grpo {

Json completions_line(const RewardedGroups& round, const Rewarder& rewarder, int64_t step) {
  const SampledGroups& groups = round.groups;
  Json line{{"step", Json::array()}, {"prompt", Json::array()}, {"completion", groups.texts}};
  Json solutions = Json::array();
  bool has_solution = false;
  for (size_t i = 0; i < groups.texts.size(); ++i) {
    const Prompt& prompt = groups.prompt_of(i);
    line["step"].push_back(std::to_string(step));
    line["prompt"].push_back(prompt.encoded.text);
    const Json& columns = prompt.row->columns;
    has_solution |= columns.contains("solution");
    solutions.push_back(columns.value("solution", Json()));
  }
  const auto& functions = rewarder.functions();
  for (size_t f = 0; f < functions.size(); ++f) {
    Json& column = line[std::string(functions[f]->class_name())];
    for (const auto& row : round.values) column.push_back(row[f] ? Json(*row[f]) : Json());
  }
  line["advantages"] = round.advantages.advantages;
  if (has_solution) line["solution"] = std::move(solutions);
  return line;
}

}  // namespace lockstep::grpo
