// Reads rows that are tokens already.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string_view>

#include "base/json_fwd.h"
#include "train/trainer.h"

namespace lockstep::grpo {

/// The ids and the mask of a row {"input_ids", "completion_mask"?, "labels"?, "assistant_masks"?}.
/// A token is scored unless one of these excludes it; the first token never is. Throws FormatError
/// "bad-row" at `where`.
train::Sample token_row(const Json& row, int64_t vocab_size, std::string_view where);

/// The experts of a row's tokens: `routed_experts`, and `routed_weights` where it has them, lists
/// of tokens of layers of experts, of all of its ids or of all but the last. Undefined without.
/// Throws FormatError "bad-row" at `where` for others than `model` has.
model::ExpertChoices routed_row(const Json& row,
                                const model::ModelConfig& model,
                                std::string_view where);

}  // namespace lockstep::grpo
