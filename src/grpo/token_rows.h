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

}  // namespace lockstep::grpo
