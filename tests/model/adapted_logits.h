// What a model says with an adapter, for tests.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "model/adapter.h"
#include "model/decoder.h"
#include "ops/token_logprob.h"
#include "tensor/aten.h"

namespace lockstep::testing {

/// The logits [12, V] of a few ids, with the adapter or, for null, without.
inline at::Tensor logits_of(const model::ModelWeights& weights, const model::Adapter* adapter) {
  const at::NoGradGuard no_grad;
  model::ForwardBatch batch{.ids = at::arange(5, 17)};
  batch.sequences.append(12);
  batch.positions = model::positions_of(batch.sequences);
  if (adapter) batch.adapters.push_back({adapter, {}});
  return ops::vocabulary_logits(model::Decoder(weights).forward(batch),
                                model::adapted_head(weights.head(), batch.adapters));
}

}  // namespace lockstep::testing
