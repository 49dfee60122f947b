// SPDX-License-Identifier: Apache-2.0
#include "grpo/completions_log.h"

#include <algorithm>

#include <fmt/format.h>

#include "grpo/log_line.h"

namespace lockstep::grpo {

namespace {

/// What completions in several turns have besides: which of their tokens were sampled, and what is
/// said of them.
void add_turns(const SampledGroups& groups, Json& line) {
  Json masks = Json::array(), turns = Json::array(), infos = Json::array();
  for (size_t i = 0; i < groups.records.size(); ++i) {
    const train::Sample& sample = groups.experiences[i].sample;
    masks.push_back(
        std::vector<int>(sample.mask.begin() + sample.prompt_tokens(), sample.mask.end()));
    turns.push_back(groups.records[i].num_turns);
    infos.push_back(groups.records[i].infos);
    line["prompt"][i] = groups.records[i].prompt;
  }
  line["num_turns"] = std::move(turns);
  line["rollout_infos"] = std::move(infos);
  line["completion_mask"] = std::move(masks);
}

}  // namespace

Json completions_line(const RewardedGroups& round, const reward::Rewarder& rewarder, int64_t step) {
  const SampledGroups& groups = round.groups;
  Json line{{"step", Json::array()}, {"prompt", Json::array()}, {"completion", groups.texts}};
  Json solutions = Json::array(), ids = Json::array(), reasons = Json::array();
  bool has_solution = false;
  for (size_t i = 0; i < groups.texts.size(); ++i) {
    const Prompt& prompt = groups.prompt_of(i);
    line["step"].push_back(std::to_string(step));
    line["prompt"].push_back(prompt.encoded.text);
    const Json& columns = prompt.row->columns;
    has_solution |= columns.contains("solution");
    solutions.push_back(columns.value("solution", Json()));
    const auto tokens = groups.token_ids(i);
    ids.push_back(std::vector<int64_t>(tokens.begin(), tokens.end()));
    reasons.push_back(finish_reason(groups.experiences[i]));
  }
  const auto& functions = rewarder.functions();
  for (size_t f = 0; f < functions.size(); ++f) {
    Json& column = line[std::string(functions[f]->class_name())];
    for (const auto& row : round.values) column.push_back(row[f] ? Json(*row[f]) : Json());
  }
  line["advantages"] = round.advantages.advantages;
  if (has_solution) line["solution"] = std::move(solutions);
  // What a reward logs does not hide what is there already.
  for (const auto& [column, values] : round.notes.extra)
    if (!line.contains(column)) line[column] = values;
  line["finish_reason"] = std::move(reasons);
  line["token_ids"] = std::move(ids);
  if (!groups.records.empty()) add_turns(groups, line);
  return line;
}

void CompletionsLog::add(Json line, int64_t first) {
  if (!has_entropy_) return write_(line);
  const size_t count = line.at("step").size();
  waiting_.push_back({.line = std::move(line),
                      .first = first,
                      .entropies = std::vector<std::optional<double>>(count),
                      .is_known = std::vector<bool>(count)});
}

void CompletionsLog::learn(std::span<const Experience> completions,
                           std::span<const std::optional<double>> mean_entropies) {
  if (mean_entropies.empty()) return;
  for (size_t i = 0; i < completions.size(); ++i)
    for (Waiting& round : waiting_) {
      const int64_t index = completions[i].number - round.first;
      if (completions[i].number < 0 || index < 0 || index >= std::ssize(round.is_known)) continue;
      const auto at = static_cast<size_t>(index);
      if (!round.is_known[at]) round.entropies[at] = mean_entropies[i];
      round.is_known[at] = true;
    }
  std::erase_if(waiting_, [this](Waiting& round) {
    const bool is_whole =
        std::find(round.is_known.begin(), round.is_known.end(), false) == round.is_known.end();
    if (is_whole) write(round);
    return is_whole;
  });
}

void CompletionsLog::flush() {
  for (Waiting& round : waiting_) write(round);
  waiting_.clear();
}

void CompletionsLog::write(Waiting& round) const {
  Json& column = round.line["entropy"] = Json::array();
  for (const auto& entropy : round.entropies) column.push_back(entropy ? Json(*entropy) : Json());
  write_(round.line);
}

namespace {

/// The text of the last message, which is a string or the text parts of a list.
std::string question_text(const Json& messages) {
  if (messages.empty()) return "";
  const Json& content = messages.back().value("content", Json());
  if (content.is_string()) return content.get<std::string>();
  std::string text;
  for (const Json& part : content)
    if (part.is_object()) text += part.value("text", "");
  return text;
}

}  // namespace

std::string shown_completion(const RewardedGroups& round,
                             const reward::Rewarder& rewarder,
                             size_t completion) {
  constexpr size_t kMostQuestion = 400, kMostAnswer = 1200;
  constexpr std::string_view kIndent = "            ";
  const SampledGroups& groups = round.groups;
  std::string rewards;
  for (size_t f = 0; f < rewarder.functions().size(); ++f) {
    const auto& value = round.values[completion][f];
    rewards += fmt::format("{}{} {}", f ? ", " : "", rewarder.functions()[f]->name(),
                           value ? number_text(*value) : "none");
  }
  return fmt::format(
      "  rewards:  {} ({}), advantage {}, {} tokens, {}\n  question: {}\n  answer:   {}",
      number_text(round.advantages.rewards[completion]), rewards,
      number_text(round.advantages.advantages[completion]), groups.token_ids(completion).size(),
      groups.experiences[completion].is_truncated ? "cut at the limit" : "ended by itself",
      shown_text(question_text(groups.prompt_of(completion).messages), kIndent, kMostQuestion),
      shown_text(groups.texts[completion], kIndent, kMostAnswer));
}

}  // namespace lockstep::grpo
