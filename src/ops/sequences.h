// How packed tokens fall into sequences.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

namespace lockstep::ops {

/// B sequences packed one behind another into T tokens, without padding (cu_seqlens of the field).
/// Sequence b is tokens offsets[b] .. offsets[b + 1]. offsets[0] == 0, strictly increasing: no empty sequence.
/// Example: lengths 3, 1, 4 are offsets {0, 3, 4, 8}.
struct PackedSequences {
  std::vector<int64_t> offsets{0};

  int64_t count() const { return static_cast<int64_t>(offsets.size()) - 1; }
  int64_t tokens() const { return offsets.back(); }
  int64_t length(int64_t b) const { return offsets[b + 1] - offsets[b]; }
  void append(int64_t length) { offsets.push_back(offsets.back() + length); }
};

}  // namespace lockstep::ops
