// Tiny random models in memory, for tests that need a whole model but no files.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <map>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "base/json.h"
#include "model/new_model.h"
#include "model/weights.h"
#include "tensor/aten.h"
#include "tests/support/test_seed.h"

namespace lockstep::testing {

inline constexpr model::Family kFamilies[] = {model::Family::kQwen3, model::Family::kQwen3Moe,
                                              model::Family::kQwen3_5, model::Family::kQwen3_5Moe};

/// A checkpoint that lies in memory. Tests may change `tensors` at will.
class MemorySource : public model::TensorSource {
 public:
  MemorySource() = default;
  explicit MemorySource(const std::vector<model::NewTensor>& list) {
    for (const auto& [name, value] : list) tensors[name] = value;
  }
  std::vector<std::string> names() const override {
    std::vector<std::string> all;
    for (const auto& [name, value] : tensors) all.push_back(name);
    return all;
  }
  bool contains(const std::string& name) const override { return tensors.count(name) != 0; }
  at::Tensor tensor(const std::string& name) const override { return tensors.at(name); }
  std::vector<int64_t> shape(const std::string& name) const override {
    return tensors.at(name).sizes().vec();
  }
  at::ScalarType dtype(const std::string& name) const override {
    return tensors.at(name).scalar_type();
  }
  std::string where() const override { return "memory"; }

  std::map<std::string, at::Tensor> tensors;
};

/// Initial values are so small that every token is equally likely: larger matrices and norms off
/// their identity make a model in which each part matters.
inline std::vector<model::NewTensor> lively_tensors(const Json& config,
                                                    model::WeightDtype dtype,
                                                    uint64_t seed = 1) {
  auto tensors = model::new_model_tensors(config, dtype, test_seed(seed));
  std::mt19937_64 random(test_seed(seed));
  std::normal_distribution<double> normal;
  for (auto& [name, value] : tensors) {
    if (name.find("visual.") != std::string::npos || name.ends_with("conv1d.weight")) continue;
    if (value.dim() >= 2) value.mul_(5);
    if (!name.ends_with("norm.weight")) continue;
    at::Tensor noise = at::empty(value.sizes(), at::TensorOptions().dtype(at::kFloat));
    for (int64_t i = 0; i < noise.numel(); ++i)
      noise.mutable_data_ptr<float>()[i] = static_cast<float>(0.2 * normal(random));
    value.add_(noise);
  }
  return tensors;
}

inline constexpr int64_t kTinyVocabulary = 199;

/// config.json of a tiny model of a family.
inline Json tiny_config(model::Family family,
                        model::WeightDtype dtype = model::WeightDtype::kFloat32,
                        bool is_nested = false) {
  return model::new_model_config(
      {.family = family, .vocab_size = kTinyVocabulary, .dtype = dtype, .is_nested = is_nested});
}

/// Its weights, with lively_tensors.
inline std::unique_ptr<model::ModelWeights> tiny_weights(
    model::Family family,
    model::WeightDtype dtype = model::WeightDtype::kFloat32,
    uint64_t seed = 1,
    model::WeightUse use = model::WeightUse::kAny) {
  const Json config = tiny_config(family, dtype);
  return std::make_unique<model::ModelWeights>(model::parse_model_config(config, "tiny"),
                                               MemorySource(lively_tensors(config, dtype, seed)),
                                               std::nullopt, use);
}

inline std::vector<int64_t> random_ids(size_t count,
                                       std::mt19937_64& random,
                                       int64_t vocabulary = kTinyVocabulary) {
  std::vector<int64_t> ids(count);
  for (auto& id : ids) id = static_cast<int64_t>(random() % static_cast<uint64_t>(vocabulary));
  return ids;
}

inline at::Tensor id_tensor(const std::vector<int64_t>& ids) {
  at::Tensor made =
      at::empty({static_cast<int64_t>(ids.size())}, at::TensorOptions().dtype(at::kLong));
  std::copy(ids.begin(), ids.end(), made.mutable_data_ptr<int64_t>());
  return made;
}

}  // namespace lockstep::testing
