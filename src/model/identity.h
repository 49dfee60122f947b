// Digests of what a model is, apart from the values of its weights, and of an adapter: two programs
// compare them before one of them samples for the other.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "base/digest.h"
#include "model/adapter.h"
#include "model/weights.h"

namespace lockstep::model {

/// The digest of all that decides how the layers compute. What changes no token is left out: the
/// context length, end tokens, the spread of new weights, the form of the file.
Digest configuration_digest(const ModelConfig& config);

/// The digest of names, shapes and types of all checkpoint tensors of the text model.
Digest tensors_digest(const ModelWeights& weights);

/// The digest of what an adapter adds to a model: which layers and experts its pairs stand beside,
/// their scales and values.
Digest adapter_digest(const Adapter& adapter);

}  // namespace lockstep::model
