// SPDX-License-Identifier: Apache-2.0
#include "ops/rope.h"

#include <algorithm>
#include <cmath>

#include "base/check.h"
#include "base/op_timer.h"
#include "ops/cpu/rope.h"
#include "ops/kernel_data.h"
#include "tensor/aten.h"
#include "tensor/autograd.h"
#include "tensor/parallel.h"

namespace lockstep::ops {
namespace {

at::Tensor rotate(const at::Tensor& x, const at::Tensor& table, bool inverse) {
  const auto source = x.stride(2) == 1 || x.size(2) == 1 ? x : x.contiguous();
  auto y = at::empty(x.sizes(), x.options());
  if (y.numel() == 0) return y;
  const int64_t heads = x.size(1), head_dim = x.size(2), rotary_dim = table.size(1);
  for_dtype(x.scalar_type(), "apply_rope", [&](auto tag) {
    using T = decltype(tag);
    const T* from = const_elements<T>(source);
    T* to = elements<T>(y);
    const float* angles = const_elements<float>(table);
    const int64_t grain = thread_grain(heads * head_dim);
    parallel_for(0, x.size(0), grain, [&](int64_t begin, int64_t end) {
      for (int64_t t = begin; t < end; ++t)
        cpu::rotate_heads<T>({from + t * source.stride(0), heads, source.stride(1), head_dim,
                              to + t * heads * head_dim},
                             angles + t * rotary_dim, rotary_dim, inverse);
    });
  });
  return y;
}

}  // namespace

at::Tensor rope_table(const at::Tensor& positions, int64_t rotary_dim, double theta) {
  const OpTimer timer("rope_table");
  at::NoGradGuard no_grad;
  const auto exponents = at::arange(0, rotary_dim, 2, at::kFloat) / rotary_dim;
  const auto inverse_frequencies = at::pow(theta, exponents).reciprocal();
  const auto angles = (positions.to(at::kFloat).unsqueeze(1) * inverse_frequencies).contiguous();
  // Not libtorch's cos and sin: their vector and scalar parts may differ, and which one an element
  // gets depends on its place.
  const int64_t tokens = angles.size(0), half = rotary_dim / 2;
  at::Tensor table = at::empty({tokens, rotary_dim}, angles.options());
  const float* const from = angles.const_data_ptr<float>();
  float* const to = table.mutable_data_ptr<float>();
  parallel_for(0, tokens, std::max<int64_t>(1, 1024 / std::max<int64_t>(1, half)),
               [&](int64_t begin, int64_t end) {
                 for (int64_t t = begin; t < end; ++t)
                   for (int64_t i = 0; i < half; ++i) {
                     const double angle = from[t * half + i];
                     to[t * rotary_dim + i] = static_cast<float>(std::cos(angle));
                     to[t * rotary_dim + half + i] = static_cast<float>(std::sin(angle));
                   }
               });
  return table;
}

at::Tensor apply_rope(const at::Tensor& x, const at::Tensor& table) {
  const OpTimer timer("apply_rope");
  if (x.dim() != 3 || table.dim() != 2 || table.size(0) != x.size(0) || table.size(1) % 2 != 0 ||
      table.size(1) > x.size(2))
    fail<ShapeError>(
        "bad-shape", "apply_rope",
        "expected a table [T, R], R even and at most Dh, for x [T, H, Dh] of {}, got {}",
        shape_text(x), shape_text(table));
  check_dtype(x.scalar_type(), "apply_rope");
  const auto angles = table.detach().to(at::kFloat).contiguous();
  if (!wants_gradient({x})) return rotate(x, angles, /*inverse=*/false);
  at::Tensor y;
  {
    at::NoGradGuard no_grad;
    y = rotate(x, angles, /*inverse=*/false);
  }
  return attach_backward({x}, {y}, [angles](const auto& dy, const auto&) {
    if (!dy[0].defined()) return std::vector<at::Tensor>(1);
    return std::vector<at::Tensor>{rotate(dy[0], angles, /*inverse=*/true)};
  })[0];
}

}  // namespace lockstep::ops
