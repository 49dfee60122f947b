// What an adapter_config.json says.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "base/json_fwd.h"

namespace lockstep::model {

/// Ranks and scales, as in an adapter_config.json. Source: PEFT 0.21, LoraConfig.
struct AdapterConfig {
  int64_t rank = 8;
  double alpha = 8;
  /// The share of its inputs that an adapter does not see in a training step.
  double dropout = 0;
  /// The scale is alpha / sqrt(rank) instead of alpha / rank.
  bool use_rslora = false;
  /// By pattern, which fits a module whose path ends with it behind a dot, or is it; the first one
  /// that fits counts.
  std::vector<std::pair<std::string, int64_t>> rank_pattern;
  std::vector<std::pair<std::string, double>> alpha_pattern;
  /// As in the file: which of a layer's two expert parameters a single pair belongs to, and whose
  /// form it has. Empty and unused in one that is made here.
  std::vector<std::string> target_parameters;
  std::string peft_version;
  /// Ends of the paths of modules that are trained whole (saved_modules.h).
  std::vector<std::string> modules_to_save;
  /// Whether embedding and head stay one where the model ties them and an adapter has one of them.
  bool ensure_weight_tying = false;

  /// By the target's path.
  int64_t rank_of(const std::string& path) const;
  double scale_of(const std::string& path) const;

  /// Rank and scale that a target shall have.
  struct Wanted {
    std::string path;
    /// Patterns for what every layer calls it, and for it alone.
    std::string name_pattern, path_pattern;
    int64_t rank = 0;
    double scale = 1;
  };
  /// The alpha that gives that scale.
  double alpha_of(const Wanted& wanted) const;
  /// Adds patterns in front of the others for those that have another rank or scale: one for a name
  /// all of whose targets want the same, and one for each path where that does not do.
  void set(const std::vector<Wanted>& wanted);
};

/// A pattern for a path that fits no other.
std::string literal_pattern(const std::string& path);

/// Reads adapter_config.json. Throws FormatError "bad-adapter", naming the setting, for one that is
/// wrong or that would make another adapter of it than is built: DoRA and other variants, biases.
AdapterConfig parse_adapter_config(const Json& config, const std::string& where);

}  // namespace lockstep::model
