// Which weights a run trains.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>
#include <string>
#include <vector>

#include "base/on_resume.h"
#include "base/options.h"
#include "model/weights.h"

namespace lockstep::grpo {

/// Whether the model's own weights are trained, or adapters beside them.
enum class TunerType : int { kFull, kLora };
std::span<const EnumName<TunerType>> enum_names(TunerType);

/// Flags and their meaning are ms-swift's; names are those of the checkpoint's tensors. Source:
/// ms-swift 4.6, swift/utils/transformers_utils.py, freeze_parameters and activate_parameters.
struct TunerOptions {
  TunerType tuner_type = TunerType::kLora;
  double freeze_parameters_ratio = 0;
  std::vector<std::string> freeze_parameters, trainable_parameters;
  std::string freeze_parameters_regex, trainable_parameters_regex;

  template <class Visitor>
  void for_each_field(Visitor&& visit) {
    visit("tuner_type", tuner_type, "full trains the model's weights; lora is not built yet.");
    visit("freeze_parameters_ratio", freeze_parameters_ratio,
          "Share of the weights that is not trained, counted in whole tensors from the embedding up.",
          Range::between(0, 1));
    visit("freeze_parameters", freeze_parameters,
          "Beginnings of names of tensors that are not trained.");
    visit("freeze_parameters_regex", freeze_parameters_regex,
          "Pattern that occurs in the names of tensors that are not trained.");
    visit("trainable_parameters", trainable_parameters,
          "Beginnings of names of tensors that are trained although they are frozen by others of "
          "these flags.");
    visit("trainable_parameters_regex", trainable_parameters_regex,
          "Pattern that occurs in the names of tensors that are trained all the same.");
  }
  /// Throws ConfigError naming the flag.
  void validate() const;
};

/// Settles which pieces of the parameters are trained, and says so if some are not. Throws
/// ConfigError "no-match" for a name or pattern that no tensor has, "bad-flag" for a pattern that
/// is none, and "nothing-trained".
void choose_trained(model::ModelWeights& weights, const TunerOptions& options);

}  // namespace lockstep::grpo
