// Turns a logged object into a line that a person reads. It needs no libtorch.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/json_fwd.h"

namespace lockstep::grpo {

/// "0.412", "1234", "1.2e-05", "nan"; what is nothing but rounding (below 1e-12) is "0".
std::string number_text(double value);

/// The parts of a line of logging.jsonl that a person wants to see, in order: "step 20/400",
/// "reward 0.412 ± 0.231", "length 12.4" and so on. What the object does not have is left out.
std::vector<std::string> readable_fields(const Json& line);

/// Text of a model for a terminal: control characters besides tabs are written as escapes, lines
/// after the first begin with `indent`, and the middle of what is longer than `most` bytes is left
/// out.
std::string shown_text(std::string_view text, std::string_view indent, size_t most);

}  // namespace lockstep::grpo
