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

/// A part of a line that a person reads.
struct LogField {
  /// The ways to say it, the longest first: "gradient norm 1.23", "grad 1.2". The last may be "":
  /// rather than that others are left out, this one is.
  std::vector<std::string> forms;
  /// Of two fields the one with the lower number is shortened and left out first.
  int importance = 0;
};

/// The parts of a line of logging.jsonl that a person wants to see, in order: "step 20/400",
/// "reward 0.412 ± 0.231", "length 12.4" and so on. What the object does not have is left out.
std::vector<LogField> readable_fields(const Json& line);

/// The fields side by side, in at most `width` columns (0: no limit). If they do not fit, they take
/// their second forms, then one space between them in place of two, then their third forms; at last
/// the least important ones are left out. The most important one stays whatever the width.
std::string fitted_line(const std::vector<LogField>& fields, int width);

/// Text of a model for a terminal: control characters besides tabs are written as escapes, lines
/// after the first begin with `indent`, and the middle of what is longer than `most` bytes is left
/// out.
std::string shown_text(std::string_view text, std::string_view indent, size_t most);

}  // namespace lockstep::grpo
