// Collecting: prompts to completions, rewards and advantages: one generation batch.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/json.h"
#include "grpo/advantages.h"
#include "grpo/experience.h"
#include "grpo/grpo.h"
#include "grpo/metrics.h"
#include "grpo/rollout_client.h"
#include "reward/reward.h"
#include "text/chat_encoder.h"
#include "text/dataset.h"
#include "train/trainer.h"

namespace lockstep::grpo {

/// A row as a prompt.
struct Prompt {
  const text::Row* row = nullptr;
  /// Without a trailing assistant turn.
  Json messages;
  text::EncodedPrompt encoded;
};

/// What a round of sampling brought.
struct Collected {
  std::vector<Experience> experiences;
  /// Texts.
  std::vector<std::string> prompts, completions;
  /// [completion][reward function]
  std::vector<std::vector<std::optional<double>>> rewards;
  Advantages advantages;
};

/// Turns prompts into experiences. Not thread-safe.
class Collector {
 public:
  /// `options`, `encoder` and `rollout` must outlive it.
  Collector(const GrpoRunOptions& options,
            const text::ChatEncoder& encoder,
            RolloutClient& rollout,
            std::vector<int64_t> stop_ids,
            uint64_t seed,
            bool exact);

  /// Prompts of rows; too long ones are cut from the left and counted. Throws FormatError
  /// "bad-row", also for a row that lacks what a reward needs. With --strict false such rows are
  /// dropped and counted. `name` is what the log calls the rows.
  std::vector<Prompt> encode(const char* name,
                             const std::vector<text::Row>& rows,
                             const model::ModelConfig& config) const;

  /// Samples `group_size` completions of each prompt under `weight_version`, and rewards them.
  /// `draw` tells apart draws of one prompt. What the layers read goes to `kept`, unless that is
  /// null.
  Collected collect(std::span<const Prompt* const> prompts,
                    int64_t group_size,
                    int64_t weight_version,
                    uint64_t draw,
                    const std::shared_ptr<model::LayerInputs>& kept = nullptr) const;

  /// Adds a round's reward and length metrics, under `prefix` ("" or "eval_").
  void add_metrics(const Collected& collected, const std::string& prefix, Metrics& metrics) const;
  /// The round as a line of completions.jsonl.
  Json completions_line(const Collected& collected,
                        std::span<const Prompt* const> prompts,
                        int64_t step) const;

 private:
  Prompt encode_row(const text::Row& row, int64_t vocab_size) const;
  std::vector<std::vector<std::optional<double>>> score(std::span<const Prompt* const> prompts,
                                                        int64_t group_size,
                                                        const Collected& collected) const;

  const GrpoRunOptions* options_;
  const text::ChatEncoder* encoder_;
  RolloutClient* rollout_;
  std::vector<std::unique_ptr<reward::RewardFunction>> rewards_;
  std::vector<double> weights_;
  rollout::GenerationSettings settings_;
};

/// The ids that end a completion: the config's, generation_config.json's and the tokenizer's eos,
/// <|im_end|> and <|endoftext|>.
std::vector<int64_t> stop_ids_of(const std::filesystem::path& model,
                                 const model::ModelConfig& config,
                                 const text::Tokenizer& tokenizer);

}  // namespace lockstep::grpo
