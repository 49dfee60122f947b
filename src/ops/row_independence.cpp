// SPDX-License-Identifier: Apache-2.0
#include "ops/row_independence.h"

#include <algorithm>
#include <atomic>
#include <cstring>

#include "tensor/aten.h"

namespace lockstep::ops {
namespace {

/// Small numbers are those of a decode; the larger ones lie between the sizes of a library's
/// blocks.
constexpr int64_t kRowCounts[] = {1, 2, 3, 5, 15, 16, 17, 33, 64, 100, 300, 1000, 2500};

bool same_bytes(const at::Tensor& a, const at::Tensor& b) {
  const at::Tensor x = a.contiguous(), y = b.contiguous();
  return x.nbytes() == y.nbytes() &&
         std::memcmp(x.const_data_ptr(), y.const_data_ptr(), x.nbytes()) == 0;
}

}  // namespace

std::vector<RowCase> dependent_rows(
    int64_t all_rows, const std::function<at::Tensor(int64_t first, int64_t rows)>& product) {
  const at::NoGradGuard no_grad;
  const at::Tensor all = product(0, all_rows);
  const auto is_dependent = [&](int64_t rows) {
    for (const int64_t first : {int64_t{0}, all_rows - rows}) {
      if (!same_bytes(product(first, rows), all.narrow(0, first, rows))) return true;
      if (first == all_rows - rows) break;
    }
    return false;
  };
  std::vector<int64_t> counts;
  for (const int64_t rows : kRowCounts)
    if (rows < all_rows) counts.push_back(rows);

  std::vector<RowCase> found;
  for (const int64_t rows : counts)
    if (is_dependent(rows)) found.push_back({rows, false});

  // The largest first, so that no thread is left with it at the end.
  counts.push_back(all_rows);
  std::vector<uint8_t> differs(counts.size(), 0);
  std::reverse(counts.begin(), counts.end());
  std::atomic<size_t> next = 0;
  at::parallel_for(0, at::get_num_threads(), 1, [&](int64_t, int64_t) {
    const at::NoGradGuard no_grad_here;
    for (size_t i = next++; i < counts.size(); i = next++) differs[i] = is_dependent(counts[i]);
  });
  for (size_t i = 0; i < counts.size(); ++i)
    if (differs[i]) found.push_back({counts[i], true});
  return found;
}

}  // namespace lockstep::ops
