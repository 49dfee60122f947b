// SPDX-License-Identifier: Apache-2.0
#include "grpo/prompts.h"

#include <algorithm>
#include <map>

#include "base/check.h"
#include "base/log.h"
#include "grpo/row_tally.h"

namespace lockstep::grpo {

PromptEncoder::PromptEncoder(const GrpoRunOptions& options,
                             text::RowEncoder& encoder,
                             int64_t context,
                             std::optional<int64_t> completion)
    : options_(&options),
      encoder_(&encoder),
      context_(context),
      completion_(completion.value_or(options.grpo.max_completion_length)) {}

Prompt PromptEncoder::encode_one(const text::Row& row) const {
  Prompt prompt{&row, row.messages, tools_of_ ? tools_of_(row) : row.tools, {}};
  // An assistant turn at the end is the answer and not part of the question.
  while (!prompt.messages.empty() && prompt.messages.back().value("role", "") == "assistant")
    prompt.messages.erase(prompt.messages.size() - 1);
  if (prompt.messages.empty())
    fail<FormatError>("bad-row", row.where, "expected a message before the assistant's, got none");
  text::Row question = row;
  question.messages = prompt.messages;
  question.tools = prompt.tools;
  prompt.encoded = encoder_->prompt(question);
  return prompt;
}

std::vector<Prompt> PromptEncoder::encode(const char* name,
                                          const text::Dataset& dataset,
                                          const RowCheck& check) const {
  const int64_t longest =
      std::min(context_ - completion_, options_->grpo.max_length.value_or(context_));
  if (longest < 1)
    fail<ConfigError>("bad-flag",
                      completion_ == options_->grpo.max_completion_length
                          ? "--max_completion_length"
                          : "--eval_max_completion_length",
                      "expected less than the context of {} tokens, got {}", context_, completion_);
  const bool is_deleting = options_->grpo.truncation_strategy == TruncationStrategy::kDelete;
  std::vector<Prompt> prompts;
  int64_t cut = 0, most = 0;
  RowTally tally(name, options_->training.data.strict, dataset.dropped);
  for (const text::Row& row : dataset.rows) {
    tally.guard([&] {
      check(row);
      Prompt prompt = encode_one(row);
      auto& ids = prompt.encoded.ids;
      most = std::max(most, std::ssize(ids));
      if (std::ssize(ids) > longest) {
        if (is_deleting) return tally.drop(fmt::format("longer than {} tokens", longest));
        ++cut;
        ids.erase(ids.begin(), ids.end() - longest);
      }
      prompts.push_back(std::move(prompt));
    });
  }
  if (most > 0)
    log_info("lengths of {}: prompts up to {} tokens, completions up to {}, context {}", name, most,
             completion_, context_);
  if (cut)
    log_info("lengths of {}: {} prompts are longer than {} tokens and lose their beginning", name,
             cut, longest);
  if (!dataset.rows.empty()) tally.report(std::ssize(prompts));
  return prompts;
}

std::vector<uint64_t> occurrences_of(const std::vector<const Prompt*>& round) {
  std::map<std::vector<int64_t>, uint64_t> seen;
  std::vector<uint64_t> occurrences;
  for (const Prompt* prompt : round) occurrences.push_back(seen[prompt->encoded.ids]++);
  return occurrences;
}

int64_t longest_prompt(const std::vector<Prompt>& prompts) {
  int64_t longest = 0;
  for (const Prompt& prompt : prompts) longest = std::max(longest, std::ssize(prompt.encoded.ids));
  return longest;
}

}  // namespace lockstep::grpo
