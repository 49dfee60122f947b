// Writes a round of sampling for completions.jsonl and for the terminal.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/json.h"
#include "grpo/experience.h"
#include "grpo/rewarded_groups.h"
#include "reward/rewarder.h"

namespace lockstep::grpo {

/// The round as a line of completions.jsonl: a list for each column, one entry a completion. With
/// `token_ids` and `finish_reason` (named as infer names them) it can be scored and replayed.
Json completions_line(const RewardedGroups& round, const reward::Rewarder& rewarder, int64_t step);

/// Writes lines of completions.jsonl. With entropy, a round of training waits for the column
/// `entropy`, the mean over each completion's tokens, which the optimizer steps that learn from it
/// find out. Not thread-safe.
class CompletionsLog {
 public:
  using Write = std::function<void(const Json& line)>;
  CompletionsLog(bool has_entropy, Write write)
      : has_entropy_(has_entropy), write_(std::move(write)) {}

  /// Takes a round of training, whose completions are numbered from `first` on.
  void add(Json line, int64_t first);
  /// Takes the mean entropies of completions, when they are learned from. Later ones of the same
  /// completion are of other weights, and are left out.
  void learn(std::span<const Experience> completions,
             std::span<const std::optional<double>> mean_entropies);
  /// Writes the rounds that wait, with null for what is not known: before a checkpoint, which does
  /// not keep them, and when the run ends.
  void flush();

 private:
  struct Waiting {
    Json line;
    int64_t first = 0;
    std::vector<std::optional<double>> entropies;
    std::vector<bool> is_known;
  };
  void write(Waiting& round) const;

  bool has_entropy_;
  Write write_;
  std::vector<Waiting> waiting_;
};

/// A completion for a person at a terminal, in several lines: rewards, length, the end of the
/// question, and the answer.
std::string shown_completion(const RewardedGroups& round,
                             const reward::Rewarder& rewarder,
                             size_t completion);

}  // namespace lockstep::grpo
