// Looking for a marker in a text that comes piece by piece.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <string_view>

namespace lockstep::text {

/// How many bytes at the end of `text` are the beginning of `marker`, the whole of it left out.
inline size_t marker_begun(std::string_view text, std::string_view marker) {
  for (size_t size = std::min(text.size(), marker.size() - 1); size > 0; --size)
    if (text.ends_with(marker.substr(0, size))) return size;
  return 0;
}

/// Where the run of `characters` begins that `text` ends with.
inline size_t trailing_run(std::string_view text, std::string_view characters) {
  return text.find_last_not_of(characters) + 1;
}

}  // namespace lockstep::text
