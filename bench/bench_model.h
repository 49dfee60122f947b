// Models of random weights, as new-model writes them, for benchmarks.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <optional>
#include <random>
#include <vector>

#include "base/json.h"
#include "model/new_model.h"
#include "model/weights.h"
#include "rollout/engine.h"
#include "tests/model/tiny_model.h"

namespace lockstep::bench {

inline std::unique_ptr<model::ModelWeights> random_weights(
    model::Family family,
    model::ModelSize size,
    model::WeightDtype dtype = model::WeightDtype::kFloat32) {
  const Json config = model::new_model_config({.family = family, .size = size, .dtype = dtype});
  return std::make_unique<model::ModelWeights>(
      model::parse_model_config(config, "bench"),
      testing::MemorySource(model::new_model_tensors(config, dtype, 1)), std::nullopt);
}

inline std::vector<int64_t> random_prompt(size_t tokens,
                                          uint64_t seed,
                                          const model::ModelWeights& weights) {
  std::mt19937_64 random(seed);
  return testing::random_ids(tokens, random, weights.config().vocab_size);
}

/// `batch` prompts, one completion each.
inline std::vector<rollout::GenerationRequest> random_requests(int64_t batch,
                                                               size_t prompt_tokens,
                                                               const model::ModelWeights& weights) {
  std::vector<rollout::GenerationRequest> requests;
  for (int64_t i = 0; i < batch; ++i)
    requests.push_back({.prompt = random_prompt(prompt_tokens, static_cast<uint64_t>(i), weights)});
  return requests;
}

}  // namespace lockstep::bench
