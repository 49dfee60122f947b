// SPDX-License-Identifier: Apache-2.0
#include "grpo/reward_watch.h"

#include <algorithm>

#include <fmt/format.h>

#include "base/json.h"

namespace lockstep::grpo {
namespace {

/// The last characters of a text, in quotes.
std::string end_of(const std::string& text) {
  constexpr size_t kShown = 160;
  size_t begin = text.size() > kShown ? text.size() - kShown : 0;
  // Begins with a whole character.
  while (begin && (static_cast<unsigned char>(text[begin]) & 0xC0) == 0x80) ++begin;
  return (begin ? "…" : "") + dump_json(Json(text.substr(begin)));
}

}  // namespace

RewardWatch::RewardWatch(const reward::Rewarder& rewarder)
    : rewarder_(&rewarder), functions_(rewarder.functions().size()) {}

std::optional<std::string> RewardWatch::add(const RewardedGroups& round) {
  if (is_over_) return std::nullopt;
  if (round.groups.texts.empty() || round.advantages.frac_reward_zero_std < 1) {
    is_over_ = true;
    return std::nullopt;
  }
  for (const reward::Values& values : round.values)
    for (size_t f = 0; f < functions_.size(); ++f) {
      Function& own = functions_[f];
      if (!values[f]) {
        ++own.missing;
        continue;
      }
      own.least = own.values ? std::min(own.least, *values[f]) : *values[f];
      own.most = own.values ? std::max(own.most, *values[f]) : *values[f];
      ++own.values;
    }
  for (const Prompt* prompt : round.groups.prompts)
    for (size_t f = 0; f < functions_.size(); ++f)
      functions_[f].unread += !rewarder_->functions()[f]->can_read(prompt->row->columns);
  prompts_ += std::ssize(round.groups.prompts);
  for (const Experience& experience : round.groups.experiences)
    truncated_ += experience.is_truncated;
  completions_ += std::ssize(round.groups.texts);
  if (!batches_) {
    completion_ = end_of(round.groups.texts.front());
    const Json& columns = round.groups.prompt_of(0).row->columns;
    if (columns.is_object() && columns.contains("solution"))
      solution_ = dump_json(columns["solution"]);
  }
  if (++batches_ < kBatches) return std::nullopt;
  is_over_ = true;
  std::string text = fmt::format(
      "nothing is learned: in the first {} generation batches ({} completions) the rewards of each "
      "group are equal. Likely reasons:",
      batches_, completions_);
  for (const std::string& reason : reasons()) text += "\n  - " + reason;
  return text;
}

std::vector<std::string> RewardWatch::reasons() const {
  std::vector<std::string> list;
  if (truncated_ == completions_)
    list.push_back(fmt::format(
        "no completion ended by itself: all were cut off at --max_completion_length (hint: a "
        "larger one, or an end token that the model writes). One ends {}",
        completion_));
  for (size_t f = 0; f < functions_.size(); ++f)
    if (std::string reason = reason_of(f); !reason.empty()) list.push_back(std::move(reason));
  if (list.empty())
    list.push_back(
        "the rewards differ between prompts but not between completions of one (hint: a higher "
        "--temperature, or more --num_generations)");
  return list;
}

std::string RewardWatch::reason_of(size_t function) const {
  const Function& own = functions_[function];
  const std::string& name = rewarder_->functions()[function]->name();
  const std::string solution =
      solution_.empty() ? "" : fmt::format(", the solution of its row is {}", solution_);
  if (own.unread == prompts_)
    return fmt::format("{} can read the solution of no row. The first is {}", name,
                       solution_.empty() ? "missing" : solution_);
  if (!own.values)
    return fmt::format("{} has no value for any completion: {}. One ends {}{}", name,
                       rewarder_->functions()[function]->why_missing(), completion_, solution);
  if (own.least != own.most) return "";
  const bool is_format = name == "format" || name == "react_format";
  if (is_format && own.most == 0)
    return fmt::format(
        "{} is never met (hint: the prompt or --system has to ask for it). A completion ends {}",
        name, completion_);
  return fmt::format("{} is {:.6g} for every completion. One ends {}{}", name, own.most,
                     completion_, solution);
}

}  // namespace lockstep::grpo
