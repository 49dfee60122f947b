// SPDX-License-Identifier: Apache-2.0
#include "ops/expert_dispatch.h"

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <span>

#include "base/check.h"
#include "ops/cpu/moe.h"
#include "ops/kernel_data.h"
#include "tensor/aten.h"
#include "tensor/parallel.h"

namespace lockstep::ops {

int64_t expert_row_grain(int64_t width) {
  return std::max<int64_t>(1, 16 * 1024 / std::max<int64_t>(1, width));
}

ExpertDispatch::ExpertDispatch(const at::Tensor& experts, int64_t num_experts)
    : num_chosen(experts.size(1)) {
  const std::span<const int64_t> ids(experts.const_data_ptr<int64_t>(),
                                     static_cast<size_t>(experts.numel()));
  std::vector<int64_t> counts(static_cast<size_t>(num_experts));
  for (const int64_t id : ids) {
    if (id < 0 || id >= num_experts)
      fail<ShapeError>("bad-expert", "experts", "expected ids in [0, {}), got {}", num_experts, id);
    ++counts[static_cast<size_t>(id)];
  }
  std::vector<int64_t> next(counts.size());
  int64_t rows = 0;
  for (int64_t expert = 0; expert < num_experts; ++expert) {
    const int64_t count = counts[static_cast<size_t>(expert)];
    next[static_cast<size_t>(expert)] = rows;
    if (count == 0) continue;
    segments.push_back({expert, rows, count});
    rows += count;
  }
  row_of_pair.resize(ids.size());
  token_of_row.resize(static_cast<size_t>(rows));
  for (size_t pair = 0; pair < ids.size(); ++pair) {
    const int64_t row = next[static_cast<size_t>(ids[pair])]++;
    row_of_pair[pair] = row;
    token_of_row[static_cast<size_t>(row)] = static_cast<int64_t>(pair) / num_chosen;
  }
}

at::Tensor ExpertDispatch::gather(const at::Tensor& x) const {
  const at::Tensor table = at::empty({num_rows(), x.size(1)}, x.options());
  const auto bytes = static_cast<size_t>(x.size(1)) * x.element_size();
  const auto* const from = static_cast<const std::byte*>(x.const_data_ptr());
  auto* const to = static_cast<std::byte*>(table.mutable_data_ptr());
  parallel_for(0, num_rows(), expert_row_grain(x.size(1)), [&](int64_t begin, int64_t end) {
    for (auto row = static_cast<size_t>(begin); row < static_cast<size_t>(end); ++row) {
      const auto token = static_cast<size_t>(token_of_row[row]);
      std::memcpy(to + row * bytes, from + token * bytes, bytes);
    }
  });
  return table;
}

at::Tensor ExpertDispatch::combine(const at::Tensor& table, const at::Tensor& weights) const {
  const int64_t chosen = num_chosen, width = table.size(1);
  const int64_t tokens = static_cast<int64_t>(row_of_pair.size()) / chosen;
  const at::Tensor out = at::empty({tokens, width}, table.options());
  for_dtype(table.scalar_type(), "experts", [&](auto tag) {
    using T = decltype(tag);
    const T* const w = const_elements<T>(weights);
    parallel_for(0, tokens, expert_row_grain(width * chosen), [&](int64_t begin, int64_t end) {
      for (int64_t t = begin; t < end; ++t)
        cpu::combine_rows({.table = const_elements<T>(table),
                           .rows = row_of_pair.data() + t * chosen,
                           .weights = w ? w + t * chosen : nullptr,
                           .num_chosen = chosen,
                           .width = width},
                          elements<T>(out) + t * width);
    });
  });
  return out;
}

at::Tensor ExpertDispatch::weights_of_rows(const at::Tensor& weights) const {
  const at::Tensor of_pairs = weights.to(at::kFloat).contiguous();
  const at::Tensor of_rows = at::empty({num_rows()}, of_pairs.options());
  for (size_t pair = 0; pair < row_of_pair.size(); ++pair)
    of_rows.mutable_data_ptr<float>()[row_of_pair[pair]] = of_pairs.const_data_ptr<float>()[pair];
  return of_rows;
}

at::Tensor ExpertDispatch::by_pair(const at::Tensor& of_rows) const {
  const at::Tensor of_pairs = at::empty({num_rows() / num_chosen, num_chosen}, of_rows.options());
  for (size_t pair = 0; pair < row_of_pair.size(); ++pair)
    of_pairs.mutable_data_ptr<float>()[pair] = of_rows.const_data_ptr<float>()[row_of_pair[pair]];
  return of_pairs;
}

}  // namespace lockstep::ops
