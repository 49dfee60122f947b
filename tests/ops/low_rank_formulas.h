// What adapters add to a product, as its formulas in plain ATen.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

#include <ATen/core/IListRef.h>  // the list of at::cat

#include "ops/cpu/low_rank.h"
#include "ops/low_rank.h"
#include "tensor/aten.h"

namespace lockstep::testing {

/// A row's key as the op mixes it with the pair's name 0.
inline uint64_t mixed_key(uint64_t z) {
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ULL;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBULL;
  return z ^ (z >> 31);
}

/// 1 / (1 - rate) where an element of x stays and 0 where it is dropped, [T, I] float64; ones
/// without a dropout. `keys` are the rows' mixed keys.
inline at::Tensor factors(const at::Tensor& x, double rate, const std::vector<uint64_t>& keys) {
  at::Tensor all = at::ones({x.size(0), x.size(1)}, at::kDouble);
  if (rate == 0) return all;
  const auto threshold = static_cast<uint32_t>(std::lround(rate * 0x1p31));
  auto* const to = all.mutable_data_ptr<double>();
  for (int64_t row = 0; row < x.size(0); ++row)
    for (int64_t i = 0; i < x.size(1); ++i)
      to[row * x.size(1) + i] = ops::cpu::dropout_bits(keys[static_cast<size_t>(row)],
                                                       static_cast<uint32_t>(i)) < threshold
                                    ? 0
                                    : 1 / (1 - rate);
  return all;
}

/// y with scale B A x added in columns from `first_column` on, in the rows given; in y's dtype.
inline at::Tensor with_low_rank(const at::Tensor& y,
                                const at::Tensor& x,
                                const at::Tensor& a,
                                const at::Tensor& b,
                                double scale,
                                int64_t first_column,
                                const at::Tensor& rows) {
  at::Tensor added = at::mm(at::mm(x, a.t()), b.t()).mul(scale);
  if (rows.defined())
    added = at::zeros_like(added).index_copy(0, rows, added.index_select(0, rows));
  const auto options = y.options().requires_grad(false);
  const at::Tensor left = at::zeros({y.size(0), first_column}, options),
                   right = at::zeros({y.size(0), y.size(1) - first_column - b.size(0)}, options);
  return y.add(at::cat({left, added, right}, 1));
}

}  // namespace lockstep::testing
