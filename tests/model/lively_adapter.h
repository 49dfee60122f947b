// Adapters that do something, for tests.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <vector>

#include "base/random.h"
#include "model/adapter.h"
#include "tensor/aten.h"
#include "tests/support/test_seed.h"

namespace lockstep::testing {

/// A new adapter beside these modules whose B, or the embedding's A, is not zero.
inline std::unique_ptr<model::Adapter> lively_adapter(
    const std::vector<model::AdapterTarget>& modules,
    const model::AdapterConfig& config,
    uint64_t seed) {
  auto adapter = std::make_unique<model::Adapter>(modules, config, test_seed(seed));
  for (model::Parameter& parameter : adapter->parameters()) {
    if (parameter.id.find("lora_B") == std::string::npos &&
        parameter.id.find("lora_embedding_A") == std::string::npos)
      continue;
    const at::NoGradGuard no_grad;
    const RandomStream stream("lively " + parameter.id, test_seed(seed));
    float* const values = parameter.value.mutable_data_ptr<float>();
    for (int64_t i = 0; i < parameter.value.numel(); ++i)
      values[i] = static_cast<float>(stream.uniform(static_cast<uint64_t>(i)) - 0.5);
  }
  adapter->pack();
  return adapter;
}

/// Those modules whose path holds `part`.
inline std::vector<model::AdapterTarget> modules_with(const model::ModelWeights& weights,
                                                      std::string_view part) {
  std::vector<model::AdapterTarget> found = model::adapter_targets(weights);
  std::erase_if(found,
                [&](const auto& module) { return module.path.find(part) == std::string::npos; });
  return found;
}

}  // namespace lockstep::testing
