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

/// A linear layer of the model, beside which an adapter can stand.
struct LinearModule {
  /// Its path in the checkpoint: "model.layers.0.self_attn.q_proj".
  std::string path;
  /// The weight's number (ops::LinearWeight), and the first of its rows that is the module's.
  int64_t weight = 0, first_row = 0;
  /// [out, in]
  int64_t out = 0, in = 0;
  int64_t layer = 0;
  /// Whether it is the router of a layer's experts, which transformers does not call a linear
  /// layer.
  bool is_router = false;
};

/// All of them, in the order of the weights.
std::vector<LinearModule> linear_modules(const ModelWeights& weights);

/// Ranks and scales, as in an adapter_config.json. Source: PEFT 0.21, LoraConfig.
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
  Adapter(const ModelWeights& base, AdapterConfig config, const TensorSource& source);
  /// A new one beside these modules: A uniform in [-1, 1) / sqrt(I), by (seed, path, element), and
  /// B zero, so that it changes nothing yet. Source: PEFT 0.21, LoraLayer.reset_lora_parameters.
  Adapter(const std::vector<LinearModule>& modules, AdapterConfig config, uint64_t seed);
  Adapter(const Adapter&) = delete;
  Adapter& operator=(const Adapter&) = delete;

  const AdapterConfig& config() const { return config_; }
  const std::vector<LinearModule>& modules() const { return modules_; }
  /// A and B of each module, in their order.
  std::vector<Parameter>& parameters() { return parameters_; }
  const std::vector<Parameter>& parameters() const { return parameters_; }
  /// The pairs beside the weight of that number (ops::LinearWeight).
  std::span<const ops::LowRank> pairs_of(int64_t weight) const;
  /// Rebuilds the packed forms: after loading and after each optimizer step.
  void pack();

 private:
  void add(const LinearModule& module, const at::Tensor& a, const at::Tensor& b);

  AdapterConfig config_;
  std::vector<LinearModule> modules_;
  std::vector<Parameter> parameters_;
  /// By number of the weight.
  std::map<int64_t, std::vector<ops::LowRank>> pairs_;
};

/// The parameters of a model, and behind them those of its adapter, if there is one.
std::vector<Parameter*> all_parameters(ModelWeights& weights, Adapter* adapter);

}  // namespace lockstep::model
