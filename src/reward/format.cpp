// The reward "format": 1 for <think>…</think><answer>…</answer> and nothing around it.
// SPDX-License-Identifier: Apache-2.0
#include "reward/builtin_rewards.h"
#include "text/jinja/string.h"

namespace lockstep::reward {
namespace {

/// Python's re.match(r"^<think>.*?</think>\s*<answer>.*?</answer>(?![\s\S])", text, DOTALL).
/// The lazy dots may run over inner tags, so that any </think> before an <answer> will do.
bool has_format(std::string_view text) {
  constexpr std::string_view kThink = "<think>", kThinkEnd = "</think>", kAnswer = "<answer>",
                             kAnswerEnd = "</answer>";
  if (!text.starts_with(kThink) || !text.ends_with(kAnswerEnd)) return false;
  const size_t last = text.size() - kAnswerEnd.size();
  for (size_t end = text.find(kThinkEnd, kThink.size()); end != text.npos;
       end = text.find(kThinkEnd, end + 1)) {
    const std::string_view rest =
        text::jinja::strip(text.substr(end + kThinkEnd.size()), text::jinja::Side::kLeft);
    const size_t answer = text.size() - rest.size();
    if (rest.starts_with(kAnswer) && answer + kAnswer.size() <= last) return true;
  }
  return false;
}

class Format final : public RewardFunction {
 public:
  std::string_view name() const override { return "format"; }
  std::string_view class_name() const override { return "Format"; }

  std::vector<std::optional<double>> score(std::span<const RewardInput> inputs) const override {
    std::vector<std::optional<double>> scores;
    for (const RewardInput& input : inputs)
      scores.emplace_back(has_format(input.completion) ? 1.0 : 0.0);
    return scores;
  }
};

}  // namespace

std::unique_ptr<RewardFunction> make_format() { return std::make_unique<Format>(); }

}  // namespace lockstep::reward
