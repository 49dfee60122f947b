// Tokens that ranks share out: all heads of a rank's tokens are exchanged for its heads of all
// tokens, and back, around what looks at other tokens.
// SPDX-License-Identifier: Apache-2.0
//
// Shapes: N ranks, T tokens of all ranks, Tr those of this one, C columns.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include <ATen/core/Tensor.h>

namespace lockstep::ops {

/// Ranks that have neighbouring tokens of one packed batch each. All of them make the same calls,
/// and their backwards, at the same time; one may have no tokens.
class TokenRanks {
 public:
  virtual ~TokenRanks() = default;
  virtual int64_t rank() const = 0;
  virtual int64_t size() const = 0;
  /// Sends `send_counts[r]` bytes of `send` to each rank r and receives `receive_counts[r]` of
  /// each, one behind another. `what` is the same on all ranks.
  virtual void exchange(std::span<const std::byte> send,
                        std::span<const int64_t> send_counts,
                        std::span<std::byte> receive,
                        std::span<const int64_t> receive_counts,
                        const char* what) = 0;
};

/// How many tokens each rank has. The ranks outlive backwards.
struct TokenShare {
  TokenRanks* ranks = nullptr;
  /// [N]
  std::vector<int64_t> counts;

  int64_t own() const { return counts[static_cast<size_t>(ranks->rank())]; }
  int64_t all() const;
  /// The number of this rank's first token.
  int64_t first() const;
};

/// The columns of this rank, of all tokens. Columns are `pieces` one behind another, {query, key,
/// value} columns, each of which is cut evenly: rank r has the r-th N-th of every piece.
///
/// Shapes: x [Tr, C] -> [T, C / N]. Gradients: for x. No bit is changed in either direction.
/// Throws: ShapeError, also "bad-cut" where N does not divide a piece.
at::Tensor own_columns(const at::Tensor& x,
                       const std::vector<int64_t>& pieces,
                       const TokenShare& share);

/// The inverse of own_columns(): all columns of this rank's tokens.
///
/// Shapes: x [T, C / N] -> [Tr, C]; `pieces` are those of C.
at::Tensor own_tokens(const at::Tensor& x,
                      const std::vector<int64_t>& pieces,
                      const TokenShare& share);

}  // namespace lockstep::ops
