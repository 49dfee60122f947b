// Which experts the sampler's routers chose, as it tells them. It needs no libtorch.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

namespace lockstep::rollout {

/// What a request is told of its tokens' experts.
enum class RecordExperts : uint8_t { kNothing, kIds, kIdsAndWeights };

/// The experts of tokens, of prompt or completion, in each layer that has some.
struct RoutedExperts {
  /// How many layers have experts, and how many of them a token gets there.
  int64_t layers = 0, chosen = 0;
  /// [tokens, layers, chosen], the likeliest first.
  std::vector<int32_t> ids;
  /// The same shape; empty unless they were asked for.
  std::vector<float> weights;

  bool is_empty() const { return ids.empty(); }
  int64_t tokens() const {
    return ids.empty() ? 0 : static_cast<int64_t>(ids.size()) / (layers * chosen);
  }
};

}  // namespace lockstep::rollout
