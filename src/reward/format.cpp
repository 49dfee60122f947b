// The rewards "format" and "react_format": 1 for a text of the wanted blocks, else 0.
// SPDX-License-Identifier: Apache-2.0
#include "reward/builtin_rewards.h"
#include "text/jinja/string.h"

namespace lockstep::reward {
namespace {

constexpr std::string_view kThink = "<think>", kThinkEnd = "</think>";

/// Whether `follows` is true of what stands behind some </think> and white space, in a text that
/// begins with <think>: in Python's r"^<think>.*?</think>\s*…" with DOTALL the lazy dots may run
/// over inner tags.
template <class Follows>
bool thinks_and(std::string_view text, const Follows& follows) {
  if (!text.starts_with(kThink)) return false;
  for (size_t end = text.find(kThinkEnd, kThink.size()); end != text.npos;
       end = text.find(kThinkEnd, end + 1)) {
    if (follows(text::jinja::strip(text.substr(end + kThinkEnd.size()), text::jinja::Side::kLeft)))
      return true;
  }
  return false;
}

/// Python's re.match(r"^<think>.*?</think>\s*<answer>.*?</answer>(?![\s\S])", text, DOTALL).
bool has_format(std::string_view text) {
  constexpr std::string_view kAnswer = "<answer>", kAnswerEnd = "</answer>";
  return text.ends_with(kAnswerEnd) && thinks_and(text, [&](std::string_view rest) {
           return rest.starts_with(kAnswer) && rest.size() >= kAnswer.size() + kAnswerEnd.size();
         });
}

/// Python's re.match(r"^<think>.*?</think>\s*Action:.*?Action Input:.*?$", text, DOTALL): what
/// follows does not matter.
bool has_react_format(std::string_view text) {
  constexpr std::string_view kAction = "Action:", kInput = "Action Input:";
  return thinks_and(text, [&](std::string_view rest) {
    return rest.starts_with(kAction) && rest.find(kInput, kAction.size()) != rest.npos;
  });
}

class Pattern final : public CompletionReward {
 public:
  using Matches = bool (*)(std::string_view text);
  Pattern(const RewardName& name, Matches matches) : CompletionReward(name), matches_(matches) {}
  std::optional<double> score_one(const RewardInput& input) const override {
    return matches_(input.completion) ? 1.0 : 0.0;
  }

 private:
  Matches matches_;
};

}  // namespace

std::unique_ptr<RewardFunction> Format::make(const RewardContext&) const {
  return std::make_unique<Pattern>(kName, has_format);
}

std::unique_ptr<RewardFunction> ReactFormat::make(const RewardContext&) const {
  return std::make_unique<Pattern>(kName, has_react_format);
}

}  // namespace lockstep::reward
