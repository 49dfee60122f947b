// Models made from nothing: configurations of the usual sizes, and initial weights.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include <ATen/core/Tensor.h>

#include "base/json.h"
#include "base/options.h"
#include "model/config.h"

namespace lockstep::model {

enum class ModelSize : int { kTiny, k10m, k100m, k500m };
std::span<const EnumName<ModelSize>> enum_names(ModelSize);

/// What is asked of a new model.
struct NewModelSpec {
  Family family = Family::kQwen3_5;
  ModelSize size = ModelSize::kTiny;
  /// 0 takes that of the size (docs/sizes.md).
  int64_t vocab_size = 0;
  WeightDtype dtype = WeightDtype::kFloat32;
  /// Whether to make the vision-language form, with a small vision tower and an MTP head.
  bool is_nested = false;
};

/// A config.json of the family and size that transformers loads (docs/sizes.md has the table).
Json new_model_config(const NewModelSpec& spec);

/// A tensor of a new checkpoint.
struct NewTensor {
  std::string name;
  at::Tensor value;
};

/// Initial values of every tensor that a checkpoint of `config` has: matrices N(0,
/// initializer_range), norms at identity, A_log the logarithm of U(0.01, 16), dt_bias 1,
/// convolution U(-1/sqrt(W), 1/sqrt(W)).
///
/// A value is a function of seed, name of the tensor and index of the element, so that a shard
/// could fill itself. With a nested `config` the vision tower and the MTP head are there too.
/// Source: transformers 5.23, _init_weights of Qwen3_5PreTrainedModel.
std::vector<NewTensor> new_model_tensors(const Json& config, WeightDtype dtype, uint64_t seed);

}  // namespace lockstep::model
