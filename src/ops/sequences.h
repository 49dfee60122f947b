// How packed tokens fall into sequences.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

namespace lockstep::ops {

/// B sequences packed one behind another into T tokens, without padding (cu_seqlens of the field).
/// Sequence b is tokens offsets[b] .. offsets[b + 1]. offsets[0] == 0, strictly increasing: no
/// empty sequence. Example: lengths 3, 1, 4 are offsets {0, 3, 4, 8}.
///
/// A sequence may continue an earlier one, its parent: its tokens see the parent's as if those
/// stood right before them, so that completions share one computation of their prompt. A parent has
/// no parent itself. Ops with a cache take none.
struct PackedSequences {
  static constexpr int64_t kNoParent = -1;

  std::vector<int64_t> offsets{0};
  /// [B], or empty where no sequence has one.
  std::vector<int64_t> parents;

  int64_t count() const { return static_cast<int64_t>(offsets.size()) - 1; }
  int64_t tokens() const { return offsets.back(); }
  int64_t length(int64_t b) const { return offsets[b + 1] - offsets[b]; }
  /// The sequence that b continues, or kNoParent.
  int64_t parent(int64_t b) const { return parents.empty() ? kNoParent : parents[b]; }
  /// Tokens of the parent: the position of b's first token.
  int64_t history(int64_t b) const { return parent(b) == kNoParent ? 0 : length(parent(b)); }
  void append(int64_t length) { append(length, kNoParent); }
  void append(int64_t length, int64_t parent) {
    if (parent != kNoParent) parents.resize(count(), kNoParent);
    offsets.push_back(offsets.back() + length);
    if (!parents.empty() || parent != kNoParent) parents.push_back(parent);
  }
  /// The sequences that continue each sequence, in order: [B] lists.
  std::vector<std::vector<int64_t>> children() const {
    std::vector<std::vector<int64_t>> lists(count());
    for (int64_t b = 0; b < count(); ++b)
      if (parent(b) != kNoParent) lists[parent(b)].push_back(b);
    return lists;
  }
};

}  // namespace lockstep::ops
