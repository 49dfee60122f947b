// A low-rank adapter of a model: pairs A, B beside weights of its products.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <map>
#include <span>
#include <string>
#include <vector>

#include "base/json_fwd.h"
#include "model/weights.h"
#include "ops/low_rank.h"

namespace lockstep::model {

/// What an adapter_config.json says about ranks and scales. Source: PEFT 0.21, LoraConfig.
struct AdapterConfig {
  int64_t rank = 8;
  double alpha = 8;
  /// The scale is alpha / sqrt(rank) instead of alpha / rank.
  bool use_rslora = false;
  /// By pattern, which fits a module whose path ends with it behind a dot, or is it; the first one
  /// that fits counts.
  std::vector<std::pair<std::string, int64_t>> rank_pattern;
  std::vector<std::pair<std::string, double>> alpha_pattern;

  int64_t rank_of(const std::string& module) const;
  double scale_of(const std::string& module) const;
};

/// Reads adapter_config.json. Throws FormatError "bad-adapter", naming the setting, for one that is
/// wrong or that would make another adapter of it than is built: DoRA and other variants, biases,
/// modules_to_save, experts' parameters.
AdapterConfig parse_adapter_config(const Json& config, const std::string& where);

/// An adapter in memory, bound to the weights of one model. Its parameters are float32.
///
/// Not copyable; the model must outlive it. Threads: as ModelWeights.
class Adapter {
 public:
  /// Takes the tensors of PEFT's file. Throws FormatError "bad-adapter", naming the tensor: one
  /// that fits no weight of the model, has another shape, or lacks its other half.
  Adapter(const ModelWeights& base, const AdapterConfig& config, const TensorSource& source);
  Adapter(const Adapter&) = delete;
  Adapter& operator=(const Adapter&) = delete;

  /// A and B of each module, in the order of the model's weights.
  std::vector<Parameter>& parameters() { return parameters_; }
  const std::vector<Parameter>& parameters() const { return parameters_; }
  /// The pairs beside the weight of that number (ops::LinearWeight).
  std::span<const ops::LowRank> pairs_of(int64_t weight) const;
  /// Rebuilds the packed forms: after loading and after each optimizer step.
  void pack();

 private:
  std::vector<Parameter> parameters_;
  /// By number of the weight.
  std::map<int64_t, std::vector<ops::LowRank>> pairs_;
};

/// The parameters of a model, and behind them those of its adapter, if there is one.
std::vector<Parameter*> all_parameters(ModelWeights& weights, Adapter* adapter);

}  // namespace lockstep::model
