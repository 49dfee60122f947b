// Rewards: what a completion is worth.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/json_fwd.h"
#include "reward/notes.h"
#include "reward/run_state.h"

namespace lockstep::reward {

/// One completion, as rewards see it.
struct RewardInput {
  /// Response prefix + decoded completion without its stop token.
  std::string_view completion;
  /// All sampled tokens, the stop token included; unset: only the text is known.
  std::optional<std::span<const int64_t>> token_ids;
  /// "stop" or "length".
  std::string_view finish_reason;
  /// The row's other columns (solution, …).
  const Json* columns = nullptr;
  /// The prompt's messages, and the tools that it names.
  const Json* messages = nullptr;
  const Json* tools = nullptr;
  /// The prompt as the model reads it; unset where it was not rendered.
  std::optional<std::string_view> prompt;
  /// The row's prompt, where it is text and no list of messages.
  std::optional<std::string_view> text_prompt;
  /// Where it has several turns of the assistant, of which `completion` is the last: all of them
  /// with what came between, as messages; the sampled ids of each; what is said of it besides
  /// (ms-swift's rollout_infos). Else null.
  const Json* turns = nullptr;
  const std::vector<std::vector<int64_t>>* turn_ids = nullptr;
  const Json* infos = nullptr;
  /// The sum of what an environment gave it.
  std::optional<double> environment_reward;
  /// The number of its prompt: completions of one prompt lie behind one another.
  int64_t group = 0;
  /// "file:line" of the row, for errors.
  std::string_view where;

  /// How many tokens were sampled, those of all turns; unset: only the text is known.
  std::optional<int64_t> num_sampled() const;
};

/// How a reward is called: by its registered name ("accuracy") in flags, and by ms-swift's class
/// name
/// ("MathAccuracy") in dashboards and in completions.jsonl. Metrics are logged under both.
struct RewardName {
  std::string_view name, class_name;
};

/// A reward function. Threads: judge() is safe from several threads.
class RewardFunction {
 public:
  explicit RewardFunction(const RewardName& name)
      : name_(name.name), class_name_(name.class_name) {}
  virtual ~RewardFunction() = default;
  const std::string& name() const { return name_; }
  const std::string& class_name() const { return class_name_; }
  /// The column without which it has nothing to compare with; "": none.
  virtual std::string_view needed_column() const { return ""; }
  /// Throws FormatError "bad-row" at `where` for a row whose columns judge() could not use: rows
  /// are checked before any is sampled.
  virtual void check(const Json& columns, std::string_view where) const;
  /// Whether it makes anything of what a row gives it to compare with. Otherwise the row is no
  /// error, but hardly any completion can satisfy it.
  virtual bool can_read(const Json& columns) const;
  /// One value for each input; nullopt leaves the function out of that completion's sum.
  /// Throws FormatError "bad-row" where a column that it needs is missing or of another type, and
  /// PeerError "reward-failed" when a reward in another process has failed too often.
  /// What it logs besides goes to `notes`.
  virtual std::vector<std::optional<double>> judge(std::span<const RewardInput> inputs,
                                                   const RunState& run,
                                                   PlacedNotes& notes) const = 0;
  /// judge() for callers that log nothing.
  std::vector<std::optional<double>> score(std::span<const RewardInput> inputs,
                                           const RunState& run) const;
  /// For a reward in another process, how many completions it has failed at.
  virtual std::optional<int64_t> num_failures() const { return std::nullopt; }
  /// Why a completion may have no value, for a person.
  virtual std::string_view why_missing() const {
    return "their rows have no token_ids, as infer writes them";
  }

 private:
  std::string name_, class_name_;
};

/// A reward that looks at one completion at a time.
class CompletionReward : public RewardFunction {
 public:
  using RewardFunction::RewardFunction;
  /// The value of one completion, as of judge().
  virtual std::optional<double> score_one(const RewardInput& input) const = 0;
  std::vector<std::optional<double>> judge(std::span<const RewardInput> inputs,
                                           const RunState& run,
                                           PlacedNotes& notes) const final;
};

}  // namespace lockstep::reward
