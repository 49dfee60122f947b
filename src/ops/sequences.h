// How packed tokens fall into sequences.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <limits>
#include <vector>

namespace lockstep::ops {

/// B sequences packed one behind another into T tokens, without padding (cu_seqlens of the field).
/// Sequence b is tokens first_token(b) .. first_token(b) + length(b). Example: lengths 3, 1, 4 are
/// offsets {0, 3, 4, 8}.
///
/// A sequence may continue an earlier one, its parent: its tokens see the parent's as if those
/// stood right before them, so that completions share one computation of their prompt. Ops with a
/// cache take none that does.
///
/// Invariants, checked by append() and by nobody else: no sequence is empty, a parent stands before
/// its child and has no parent itself, and T is at most kMostTokens. Threads: reading from any.
class PackedSequences {
 public:
  static constexpr int64_t kNoParent = -1;
  /// Positions of tokens are 32-bit numbers in the kernels.
  static constexpr int64_t kMostTokens = std::numeric_limits<int32_t>::max();

  /// Adds a sequence of `length` tokens behind the others.
  /// Throws: ShapeError "bad-sequence" where an invariant would not hold.
  void append(int64_t length, int64_t parent = kNoParent);

  int64_t count() const { return static_cast<int64_t>(offsets_.size()) - 1; }
  int64_t tokens() const { return offsets_.back(); }
  int64_t first_token(int64_t b) const { return offsets_[static_cast<size_t>(b)]; }
  int64_t length(int64_t b) const { return first_token(b + 1) - first_token(b); }
  /// [B + 1]: the first token of each sequence, and T.
  const std::vector<int64_t>& offsets() const { return offsets_; }
  bool has_parents() const { return !parents_.empty(); }
  /// [B], or empty where no sequence has one.
  const std::vector<int64_t>& parents() const { return parents_; }
  /// The sequence that b continues, or kNoParent.
  int64_t parent(int64_t b) const {
    return parents_.empty() ? kNoParent : parents_[static_cast<size_t>(b)];
  }
  /// Tokens of the parent: the position of b's first token.
  int64_t history(int64_t b) const { return parent(b) == kNoParent ? 0 : length(parent(b)); }
  /// The sequences that continue each sequence, in order: [B] lists.
  std::vector<std::vector<int64_t>> children() const;

 private:
  std::vector<int64_t> offsets_{0};
  std::vector<int64_t> parents_;
};

}  // namespace lockstep::ops
