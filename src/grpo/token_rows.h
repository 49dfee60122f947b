// Rows that are already tokens.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string_view>

#include "base/json_fwd.h"
#include "train/trainer.h"

namespace lockstep::grpo {

/// Ids and mask of a row {"input_ids", "completion_mask"?, "labels"?, "assistant_masks"?}: a token
/// is scored where none of these takes it away; the first one never is. Throws FormatError
/// "bad-row" at `where`.
train::Sample token_row(const Json& row, int64_t vocab_size, std::string_view where);

}  // namespace lockstep::grpo
