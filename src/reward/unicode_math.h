// Unicode's mathematical characters in LaTeX's words.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <string_view>

namespace lockstep::reward {

/// Writes mathematical characters as LaTeX does: ≤ as \le, π as \pi, ² as ^{2}. White space
/// becomes spaces, signs of currency go.
std::string unicode_to_latex(std::string_view text);

}  // namespace lockstep::reward
