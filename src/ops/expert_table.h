// What experts make of the rows of a table, and its backward. Internal to ops/.
// SPDX-License-Identifier: Apache-2.0
//
// Shapes: R rows of the table, D model dim, E experts, F expert width.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include <ATen/core/Tensor.h>

#include "ops/expert_dispatch.h"
#include "ops/low_rank_rows.h"
#include "ops/moe.h"

namespace lockstep::ops {

/// Experts [first, first + count) of a layer.
struct ExpertRange {
  int64_t first = 0, count = 0;
};

/// The banks of a layer.
struct ExpertBanks {
  const ExpertBank &gate_up, &down;
};

/// Which rows of a table have an adapter.
struct AdaptedExpertRows {
  const ExpertTerm* term = nullptr;
  /// Ascending; all rows if `has_all`.
  std::vector<int64_t> rows;
  bool has_all = false;
  /// By row of the table, with a dropout: the keys of the rows' tokens.
  std::vector<int64_t> keys;
};

/// The rows of a table, sorted by expert: each is down_e(silu(gate_e x) * up_e x) of its expert.
class ExpertTable {
 public:
  /// Gradients are those of the experts in `range`, which has all of `segments`.
  ExpertTable(std::vector<ExpertSegment> segments,
              const ExpertRange& range,
              std::span<const AdaptedExpertRows> adapted);

  /// [R, D] -> [R, D]. Keeps what the backward needs besides the banks: a copy of these, with each
  /// expert's handle, is for whoever goes backward.
  at::Tensor forward(const at::Tensor& table, const ExpertBanks& banks);

  struct Needs {
    bool input = false, gate_up = false, down = false, gate_up_pairs = false, down_pairs = false;
  };
  struct Gradients {
    /// [R, D], and [R] float32.
    at::Tensor table, weights;
    /// [N, 2F, D] and [N, D, F], of the N experts of the range.
    at::Tensor gate_up, down;
    /// By part.
    std::vector<PairGradients> gate_up_pairs, down_pairs;
  };
  /// `dy` [R, D] is the gradient of what the rows' tokens are given, in which a row counts as often
  /// as its weight [R] float32 says. `table()` is what forward() read.
  ///
  /// Since a token's output is sum_k w_k down(a_k), the gradient of w_k is <down^T dy, a_k>: down's
  /// output is not kept.
  Gradients backward(const ExpertBanks& banks,
                     const at::Tensor& dy,
                     const at::Tensor& weights,
                     const std::function<at::Tensor()>& table,
                     const Needs& needs) const;

  /// The adapters' parts in both products, in the order of `adapted`.
  const std::vector<LowRankRows>& gate_up_parts() const { return gate_up_parts_; }
  const std::vector<LowRankRows>& down_parts() const { return down_parts_; }

 private:
  LowRankRows rows_of(const AdaptedExpertRows& own) const;
  LowRankRows with_pair(LowRankRows part, const ExpertLowRank& pair) const;

  std::vector<ExpertSegment> segments_;
  ExpertRange range_;
  std::vector<LowRankRows> gate_up_parts_, down_parts_;
  /// [R, 2F], the table after the first product.
  at::Tensor hidden_;
  /// What add_low_rank() gave for the parts in the first product.
  std::vector<at::Tensor> gate_up_low_;
};

}  // namespace lockstep::ops
