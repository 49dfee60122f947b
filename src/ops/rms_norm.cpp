// SPDX-License-Identifier: Apache-2.0
#include "ops/cpu/rms_norm.h"

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "base/op_timer.h"
#include "ops/kernel_data.h"
#include "ops/rms_norm.h"
#include "tensor/aten.h"
#include "tensor/autograd.h"
#include "tensor/parallel.h"

namespace lockstep::ops {
namespace {

/// Rows whose gradients of the gain are summed one after another; the sums of the blocks are added
/// in their order.
constexpr int64_t kBlockRows = 64;

/// x, its gain in float32 (w or 1 + w) and the rest of the arguments, ready for the kernels.
struct Norm {
  /// [outer, inner, D], last stride 1.
  at::Tensor x;
  /// [D] float32.
  at::Tensor gain;
  double eps;
  NormKind kind;

  int64_t rows() const { return x.size(0) * x.size(1); }
  int64_t columns() const { return x.size(2); }

  template <class T>
  cpu::RmsNormInputs<T> inputs() const {
    return {const_elements<T>(x),
            x.size(1),
            x.stride(0),
            x.stride(1),
            columns(),
            const_elements<float>(gain),
            static_cast<float>(eps),
            kind == NormKind::kPlain};
  }
};

/// A view of x [..., D] as [outer, inner, D], without a copy for slices of [T, D'] and [T, H, D'].
at::Tensor as_rows(const at::Tensor& x) {
  const auto dense = x.stride(-1) == 1 || x.size(-1) == 1 ? x : x.contiguous();
  if (x.dim() == 3) return dense;
  if (x.dim() == 2) return dense.unsqueeze(1);
  return dense.reshape({-1, 1, x.size(-1)});
}

Norm prepare(const at::Tensor& x, const at::Tensor& weight, double eps, NormKind kind) {
  auto gain = weight.detach().to(at::kFloat);
  gain = kind == NormKind::kOnePlus ? gain + 1 : gain.contiguous();
  return {as_rows(x), std::move(gain), eps, kind};
}

/// Calls run(T{}, rows) for the rows in parallel.
template <class Run>
void for_rows(const Norm& norm, Run&& run) {
  for_dtype(norm.x.scalar_type(), "rms_norm", [&](auto tag) {
    const int64_t grain = thread_grain(norm.columns());
    parallel_for(0, norm.rows(), grain, [&](int64_t begin, int64_t end) {
      run(tag, cpu::RowRange{begin, end});
    });
  });
}

at::Tensor forward(const at::Tensor& x, const Norm& norm) {
  auto y = at::empty(x.sizes(), x.options());
  if (x.numel() == 0) return y;
  for_rows(norm, [&](auto tag, cpu::RowRange rows) {
    using T = decltype(tag);
    cpu::rms_norm_rows(norm.inputs<T>(), rows, elements<T>(y));
  });
  return y;
}

NormedSum add_forward(const at::Tensor& x, const at::Tensor& residual, const Norm& norm) {
  const NormedSum out{at::empty(x.sizes(), x.options()), at::empty(x.sizes(), x.options())};
  if (x.numel() == 0) return out;
  const at::Tensor dense = residual.contiguous();
  for_rows(norm, [&](auto tag, cpu::RowRange rows) {
    using T = decltype(tag);
    cpu::add_rms_norm_rows(norm.inputs<T>(), rows, const_elements<T>(dense), elements<T>(out.sum),
                           elements<T>(out.normed));
  });
  return out;
}

/// dx in x's dtype and dgain in float32; each undefined unless it is wanted. `dsum`, what else
/// reached x, may be undefined.
std::pair<at::Tensor, at::Tensor> backward(const at::Tensor& x,
                                           const Norm& norm,
                                           const at::Tensor& dy,
                                           const at::Tensor& dsum,
                                           bool wants_dx,
                                           bool wants_dgain) {
  const int64_t rows = norm.rows(), columns = norm.columns();
  const int64_t blocks = (rows + kBlockRows - 1) / kBlockRows;
  at::Tensor dx, partials, dgain;
  if (wants_dx) dx = at::empty(x.sizes(), x.options());
  if (wants_dgain) {
    partials = at::zeros({blocks, columns}, norm.gain.options());
    dgain = at::zeros({columns}, norm.gain.options());
  }
  if (x.numel() == 0) return {dx, dgain};
  for_dtype(x.scalar_type(), "rms_norm", [&](auto tag) {
    using T = decltype(tag);
    const int64_t grain = thread_grain(columns * kBlockRows);
    parallel_for(0, blocks, grain, [&](int64_t begin, int64_t end) {
      for (int64_t block = begin; block < end; ++block) {
        const cpu::RowRange range{block * kBlockRows, std::min(rows, (block + 1) * kBlockRows)};
        cpu::rms_norm_backward_rows(
            norm.inputs<T>(), range,
            {const_elements<T>(dy), const_elements<T>(dsum), elements<T>(dx),
             wants_dgain ? elements<float>(partials) + block * columns : nullptr});
      }
    });
  });
  if (wants_dgain)
    cpu::add_partial_rows(const_elements<float>(partials), blocks, columns, elements<float>(dgain));
  return {dx, dgain};
}

void check_weight(const at::Tensor& x, const at::Tensor& weight) {
  if (x.dim() < 1 || weight.dim() != 1 || weight.size(0) != x.size(-1))
    fail<ShapeError>("bad-shape", "rms_norm", "expected a weight [D] for x [..., D] of {}, got {}",
                     shape_text(x), shape_text(weight));
  check_dtype(x.scalar_type(), "rms_norm");
  check_dtype(weight.scalar_type(), "rms_norm");
}

/// A gradient as the kernel reads it; undefined stays undefined.
at::Tensor dense_gradient(const at::Tensor& gradient, const at::Tensor& x) {
  return gradient.defined() ? gradient.to(x.scalar_type()).contiguous() : gradient;
}

}  // namespace

at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight, double eps, NormKind kind) {
  const OpTimer timer("rms_norm");
  check_weight(x, weight);
  if (!wants_gradient({x, weight})) return forward(x, prepare(x, weight, eps, kind));
  at::Tensor y;
  {
    at::NoGradGuard no_grad;
    y = forward(x, prepare(x, weight, eps, kind));
  }
  return attach_backward({x, weight}, {y}, [=](const auto& dy, const auto& needs) {
    if (!dy[0].defined()) return std::vector<at::Tensor>(2);
    auto [dx, dgain] = backward(x, prepare(x, weight, eps, kind), dense_gradient(dy[0], x), {},
                                needs[0], needs[1]);
    if (needs[1]) dgain = dgain.to(weight.scalar_type());
    return std::vector<at::Tensor>{dx, dgain};
  })[0];
}

NormedSum add_rms_norm(const at::Tensor& x,
                       const at::Tensor& residual,
                       const at::Tensor& weight,
                       double eps,
                       NormKind kind) {
  const OpTimer timer("add_rms_norm");
  check_weight(x, weight);
  if (residual.sizes() != x.sizes() || residual.scalar_type() != x.scalar_type())
    fail<ShapeError>("bad-shape", "add_rms_norm", "expected a residual {} {} like x, got {} {}",
                     shape_text(x), at::toString(x.scalar_type()), shape_text(residual),
                     at::toString(residual.scalar_type()));
  if (!wants_gradient({x, residual, weight}))
    return add_forward(x, residual, prepare(x, weight, eps, kind));
  NormedSum out;
  {
    at::NoGradGuard no_grad;
    out = add_forward(x, residual, prepare(x, weight, eps, kind));
  }
  const auto attached = attach_backward(
      {x, residual, weight}, {out.sum, out.normed},
      [sum = out.sum.detach(), weight, eps, kind](const auto& grads, const auto& needs) {
        const at::Tensor dsum = dense_gradient(grads[0], sum);
        if (!grads[1].defined()) return std::vector<at::Tensor>{dsum, dsum, {}};
        auto [dx, dgain] =
            backward(sum, prepare(sum, weight, eps, kind), dense_gradient(grads[1], sum), dsum,
                     needs[0] || needs[1], needs[2]);
        if (needs[2]) dgain = dgain.to(weight.scalar_type());
        return std::vector<at::Tensor>{dx, dx, dgain};
      });
  return {attached[0], attached[1]};
}

}  // namespace lockstep::ops
