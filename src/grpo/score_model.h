// A reward model: a checkpoint whose head scores a conversation (Qwen3ForSequenceClassification and
// its relatives), as transformers writes it.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>

#include <ATen/core/Tensor.h>

#include "model/weights.h"
#include "reward/reward.h"
#include "text/chat_encoder.h"

namespace lockstep::grpo {

/// What the checkpoint says of a conversation with its reply, rendered by its own chat template:
/// the first of its labels, at the last token that is no padding. Metrics have the folder's name.
///
/// Source: transformers 5.23, GenericForSequenceClassification; ms-swift 4.6, DefaultRMPlugin. Not
/// thread-safe.
class ScoreModel final : public reward::RewardFunction {
 public:
  /// Loads it. `dtype`: of its weights; unset: the checkpoint's. Throws FormatError
  /// "missing-tensor" for a checkpoint without `score.weight`, and what loading a model throws.
  ScoreModel(const std::filesystem::path& directory, std::optional<model::WeightDtype> dtype);
  ~ScoreModel() override;

  std::vector<std::optional<double>> judge(std::span<const reward::RewardInput> inputs,
                                           const reward::RunState& run,
                                           reward::PlacedNotes& notes) const override;

 private:
  std::vector<int64_t> ids_of(const reward::RewardInput& input) const;
  int64_t scored_token(const std::vector<int64_t>& ids) const;

  text::ChatEncoder encoder_;
  std::unique_ptr<model::ModelWeights> weights_;
  /// [D] float32: the row of the first label.
  at::Tensor head_;
  std::optional<int64_t> pad_id_;
};

}  // namespace lockstep::grpo
