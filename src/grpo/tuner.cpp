// SPDX-License-Identifier: Apache-2.0
#include "grpo/tuner.h"

#include <string_view>

#include "base/check.h"
#include "base/log.h"
#include "base/regex.h"

namespace lockstep::grpo {
namespace {

using model::CheckpointPiece;
using model::ModelWeights;

/// Calls action(piece) for every checkpoint tensor, from the embedding up.
template <class Action>
void for_each_piece(ModelWeights& weights, Action&& action) {
  for (model::Parameter& parameter : weights.parameters())
    for (CheckpointPiece& piece : parameter.pieces) action(piece);
}

/// Sets the tensors for whose names matches(name) holds; there must be one.
template <class Matches>
void set_matching(ModelWeights& weights,
                  bool is_trained,
                  std::string_view flag,
                  std::string_view wanted,
                  Matches&& matches) {
  bool has_match = false;
  std::string last;
  for_each_piece(weights, [&](CheckpointPiece& piece) {
    last = piece.name;
    if (!matches(piece.name)) return;
    piece.is_trained = is_trained;
    has_match = true;
  });
  if (!has_match)
    fail<ConfigError>("no-match", fmt::format("--{}", flag),
                      "expected a tensor of the checkpoint (such as {}), got \"{}\", which none {}",
                      last, wanted, flag.ends_with("regex") ? "matches" : "begins with");
}

void set_by_beginning(ModelWeights& weights,
                      bool is_trained,
                      std::string_view flag,
                      const std::vector<std::string>& beginnings) {
  for (const std::string& beginning : beginnings)
    set_matching(weights, is_trained, flag, beginning,
                 [&](const std::string& name) { return name.starts_with(beginning); });
}

void set_by_pattern(ModelWeights& weights,
                    bool is_trained,
                    std::string_view flag,
                    const std::string& pattern) {
  if (pattern.empty()) return;
  const Regex regex(pattern, fmt::format("--{}", flag), "bad-flag");
  RegexScratch scratch;
  set_matching(weights, is_trained, flag, pattern,
               [&](const std::string& name) { return regex.find(name, 0, scratch).found; });
}

int64_t count_elements(ModelWeights& weights, bool trained_only) {
  int64_t count = 0;
  for_each_piece(weights, [&](const CheckpointPiece& piece) {
    if (piece.is_trained || !trained_only) count += piece.numel();
  });
  return count;
}

/// Freezes tensors from the embedding up as long as they fit into the share.
void freeze_share(ModelWeights& weights, double share) {
  if (share == 0) return;
  const auto budget = static_cast<int64_t>(
      static_cast<double>(count_elements(weights, /*trained_only=*/false)) * share);
  int64_t frozen = 0;
  for_each_piece(weights, [&](CheckpointPiece& piece) {
    frozen += piece.numel();
    if (frozen <= budget) piece.is_trained = false;
  });
}

}  // namespace

std::span<const EnumName<TunerType>> enum_names(TunerType) {
  static constexpr EnumName<TunerType> kNames[] = {{TunerType::kFull, "full"},
                                                   {TunerType::kLora, "lora"}};
  return kNames;
}

void TunerOptions::validate() const {
  if (tuner_type != TunerType::kFull)
    fail<ConfigError>("unsupported-tuner", "--tuner_type",
                      "expected full, got lora (LoRA is not built yet: say --tuner_type full to "
                      "train all weights)");
}

void choose_trained(ModelWeights& weights, const TunerOptions& options) {
  freeze_share(weights, options.freeze_parameters_ratio);
  set_by_beginning(weights, false, "freeze_parameters", options.freeze_parameters);
  set_by_pattern(weights, false, "freeze_parameters_regex", options.freeze_parameters_regex);
  set_by_beginning(weights, true, "trainable_parameters", options.trainable_parameters);
  set_by_pattern(weights, true, "trainable_parameters_regex", options.trainable_parameters_regex);
  const int64_t trained = count_elements(weights, /*trained_only=*/true),
                all = count_elements(weights, /*trained_only=*/false);
  if (trained == 0)
    fail<ConfigError>("nothing-trained", "--freeze_parameters",
                      "expected some weights that are trained, got none: all {} are frozen", all);
  if (trained < all)
    log_info("training {} of {} weights ({:.3g} %); the others are frozen", trained, all,
             100.0 * static_cast<double>(trained) / static_cast<double>(all));
}

}  // namespace lockstep::grpo
