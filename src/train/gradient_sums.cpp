// SPDX-License-Identifier: Apache-2.0
#include "train/gradient_sums.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "tensor/aten.h"

namespace lockstep::train {
namespace {

/// Adds `width` floats of `from` to `to`.
void add_row(const float* from, int64_t width, float* to) {
  for (int64_t i = 0; i < width; ++i) to[i] += from[i];
}

RowSums empty_rows(std::vector<int64_t> ids, int64_t width) {
  const auto count = static_cast<int64_t>(ids.size());
  return {std::move(ids), at::zeros({count, width}, at::TensorOptions().dtype(at::kFloat))};
}

/// Adds each row of `from` to the row of the same id, which exists.
void scatter(const RowSums& from, const RowSums& to) {
  const int64_t width = from.rows.size(1);
  const float* row = from.rows.const_data_ptr<float>();
  float* out = to.rows.mutable_data_ptr<float>();
  size_t at = 0;
  for (const int64_t id : from.ids) {
    while (to.ids[at] != id) ++at;
    add_row(row, width, out + static_cast<int64_t>(at) * width);
    row += width;
  }
}

}  // namespace

void add_to(TensorSum& left, TensorSum right) {
  if (!right.value.defined()) return;
  at::NoGradGuard no_grad;
  if (left.value.defined()) {
    // This widens a bfloat16 gradient.
    left.value.add_(right.value);
    return;
  }
  // A float32 gradient becomes the sum itself, unless something else still holds it or its memory.
  const at::Tensor& x = right.value;
  const bool is_ours = x.scalar_type() == at::kFloat && x.is_contiguous() && x.use_count() == 1 &&
                       x.storage().use_count() == 1;
  left.value = is_ours ? std::move(right.value)
                       : x.to(at::kFloat, /*non_blocking=*/false, /*copy=*/true,
                              at::MemoryFormat::Contiguous);
}

RowSums sum_rows(const at::Tensor& ids, const at::Tensor& gradient) {
  const at::Tensor rows = gradient.to(at::kFloat).contiguous();
  const int64_t* id = ids.const_data_ptr<int64_t>();
  std::vector<int64_t> order(static_cast<size_t>(ids.numel()));
  std::iota(order.begin(), order.end(), int64_t{0});
  std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return id[a] < id[b]; });
  std::vector<int64_t> distinct;
  for (const int64_t token : order)
    if (distinct.empty() || distinct.back() != id[token]) distinct.push_back(id[token]);
  RowSums sums = empty_rows(std::move(distinct), rows.size(1));
  const int64_t width = rows.size(1);
  const float* from = rows.const_data_ptr<float>();
  float* to = sums.rows.mutable_data_ptr<float>();
  size_t at = 0;
  for (const int64_t token : order) {
    if (sums.ids[at] != id[token]) ++at;
    add_row(from + token * width, width, to + static_cast<int64_t>(at) * width);
  }
  return sums;
}

void add_to(RowSums& left, RowSums right) {
  if (right.ids.empty()) return;
  if (left.ids.empty()) {
    left = std::move(right);
    return;
  }
  std::vector<int64_t> both;
  std::set_union(left.ids.begin(), left.ids.end(), right.ids.begin(), right.ids.end(),
                 std::back_inserter(both));
  RowSums sum = empty_rows(std::move(both), left.rows.size(1));
  scatter(left, sum);
  scatter(right, sum);
  left = std::move(sum);
}

void add_rows(const RowSums& sums, const at::Tensor& dense, int64_t first) {
  const int64_t width = sums.rows.size(1), last = first + dense.numel();
  const float* from = sums.rows.const_data_ptr<float>();
  float* const to = dense.mutable_data_ptr<float>();
  for (const int64_t id : sums.ids) {
    const int64_t begin = std::max(first, id * width), end = std::min(last, (id + 1) * width);
    if (begin < end) add_row(from + (begin - id * width), end - begin, to + (begin - first));
    from += width;
  }
}

}  // namespace lockstep::train
