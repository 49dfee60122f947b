// Clean-up of LaTeX answers before they are parsed.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <string_view>

namespace lockstep::reward {

/// What of a \boxed{…} is taken.
enum class BoxedMode : uint8_t {
  /// Nothing is taken out.
  kKeep,
  /// The last box, and others close to it.
  kLast,
  /// All boxes, joined by commas.
  kAll,
};

struct NormalizeOptions {
  BoxedMode boxed = BoxedMode::kAll;
  /// Only c of a = b = c is kept, unless there are several answers.
  bool last_equation = false;
  /// \frac12, \sqrt3 and a/b become well-formed; ".5" and "0.5" a fraction.
  bool fix_malformed = true;
};

/// A text that is longer than any formula keeps what its boxes hold, as it stands.
///
/// Source: latex2sympy2_extended 1.11, math_normalization.py (normalize_latex with basic_latex and
/// units on).
std::string normalize_latex(std::string_view latex, const NormalizeOptions& options);

/// What of the boxes of a text is taken; the text itself where it has none.
std::string boxed_content(std::string_view text, BoxedMode mode);

/// The last side of a chain of at least two equations; texts with several answers and others as
/// they are.
std::string last_of_chain(const std::string& text);

}  // namespace lockstep::reward
