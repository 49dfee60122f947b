// Reward models: a generative judge behind an OpenAI URL, and which others there are.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/json_fwd.h"
#include "base/on_resume.h"
#include "base/options.h"
#include "reward/external_options.h"
#include "reward/reward.h"

namespace lockstep::reward {

/// Which models judge, and how they are asked.
struct JudgeOptions {
  std::vector<std::string> reward_model, reward_model_plugin;
  std::string judge_model, judge_system;
  std::optional<double> judge_temperature;
  std::optional<int64_t> judge_max_tokens;
  int64_t judge_choices = 1, judge_workers = 32;

  template <class Visitor>
  void for_each_field(Visitor&& visit) {
    using enum OnResume;
    visit("reward_model", reward_model,
          "Judges: [NAME=]http://HOST:PORT/v1 of OpenAI's form (swift deploy, vllm serve, lockstep "
          "rollout), or a sequence classifier's folder. Their weights stand behind those of "
          "reward_funcs.");
    visit("reward_model_plugin", reward_model_plugin,
          "How each reward model is read: genrm, the number behind the first \"Reward:\" of a "
          "judge's answer; default, the first logit of a classifier.");
    visit("judge_model", judge_model, "The judge's name at its server; unset: the first there is.");
    visit("judge_system", judge_system,
          "What a judge is told to do: text, or a file that holds it; unset: ms-swift's words.");
    visit("judge_temperature", judge_temperature, "The judge's temperature; unset: its server's.",
          Range::at_least(0));
    visit("judge_max_tokens", judge_max_tokens,
          "How many tokens a judge's answer has at most; unset: its server's.", Range::at_least(1));
    visit("judge_choices", judge_choices,
          "Answers of a judge for each completion, whose numbers are averaged.",
          Range::between(1, 1024));
    visit("judge_workers", judge_workers, "Completions that a judge is asked about at once.",
          Range::between(1, 1024), kSaid);
  }
  /// Throws ConfigError naming the flag.
  void validate() const;
};

/// The number behind the first "Reward:" of a text, with sign, decimals and exponent, not cut out
/// of a longer word; unset where there is none that is finite. Source: ms-swift 4.6, GenRMPlugin.
std::optional<double> reward_in(std::string_view text);

/// A conversation as one text: "User: …\nAssistant: …". Source: ms-swift 4.6, GenRMPlugin.
std::string query_of(const Json& messages);

/// One of `options.reward_model`. Asks the server for its model's name, unless it is given. An
/// answer without a number is worth 0, as for ms-swift; one that does not come is a failure. Throws
/// ConfigError "bad-url", PeerError.
std::unique_ptr<RewardFunction> make_judge(std::string_view text,
                                           const JudgeOptions& options,
                                           const ExternalOptions& external);

}  // namespace lockstep::reward
