// SPDX-License-Identifier: Apache-2.0
#include "ops/activation.h"

#include <algorithm>

#include "base/check.h"
#include "base/op_timer.h"
#include "ops/cpu/activation.h"
#include "ops/kernel_data.h"
#include "tensor/aten.h"
#include "tensor/autograd.h"
#include "tensor/parallel.h"

namespace lockstep::ops {
namespace {

/// x itself where a row is contiguous, whatever lies between rows; else a copy.
at::Tensor with_dense_rows(const at::Tensor& x) {
  return x.stride(1) == 1 || x.size(1) == 1 ? x : x.contiguous();
}

/// Calls kernel(T{}, t) for each row t, in parallel.
template <class Kernel>
void for_rows(const at::Tensor& x, const char* op, const Kernel& kernel) {
  if (x.numel() == 0) return;
  for_dtype(x.scalar_type(), op, [&](auto tag) {
    const int64_t grain = std::max<int64_t>(1, 16 * 1024 / x.size(1));
    parallel_for(0, x.size(0), grain, [&](int64_t begin, int64_t end) {
      for (int64_t t = begin; t < end; ++t) kernel(tag, t);
    });
  });
}

at::Tensor silu_mul_forward(const at::Tensor& input) {
  const auto gate_up = with_dense_rows(input);
  const int64_t width = input.size(1) / 2;
  auto out = at::empty({input.size(0), width}, input.options());
  for_rows(gate_up, "silu_mul", [&](auto tag, int64_t t) {
    using T = decltype(tag);
    cpu::silu_mul_row(const_elements<T>(gate_up) + t * gate_up.stride(0), width,
                      elements<T>(out) + t * width);
  });
  return out;
}

at::Tensor silu_mul_backward(const at::Tensor& input, const at::Tensor& grad) {
  const auto gate_up = with_dense_rows(input), dout = with_dense_rows(grad);
  const int64_t width = input.size(1) / 2;
  auto dgate_up = at::empty(input.sizes(), input.options());
  for_rows(gate_up, "silu_mul", [&](auto tag, int64_t t) {
    using T = decltype(tag);
    cpu::silu_mul_backward_row(const_elements<T>(gate_up) + t * gate_up.stride(0),
                               const_elements<T>(dout) + t * dout.stride(0), width,
                               elements<T>(dgate_up) + t * 2 * width);
  });
  return dgate_up;
}

at::Tensor sigmoid_mul_forward(const at::Tensor& x_input, const at::Tensor& gate_input) {
  const auto x = with_dense_rows(x_input), gate = with_dense_rows(gate_input);
  const int64_t width = x.size(1);
  const bool is_row_gate = gate.size(1) != width;
  auto out = at::empty(x.sizes(), x.options());
  for_rows(x, "sigmoid_mul", [&](auto tag, int64_t t) {
    using T = decltype(tag);
    const T* const row = const_elements<T>(x) + t * x.stride(0);
    const T* const gates = const_elements<T>(gate) + t * gate.stride(0);
    T* const to = elements<T>(out) + t * width;
    if (is_row_gate)
      cpu::scale_by_sigmoid_row(row, gates, width, to);
    else
      cpu::sigmoid_mul_row(row, gates, width, to);
  });
  return out;
}

/// Gradients of x and of one gate a row [T, 1]. In float32, as the kernel computes them.
std::vector<at::Tensor> row_gate_backward(const at::Tensor& x,
                                          const at::Tensor& gate,
                                          const at::Tensor& dout,
                                          const std::vector<bool>& needs) {
  const auto s = at::sigmoid(gate.to(at::kFloat)), dy = dout.to(at::kFloat);
  std::vector<at::Tensor> gradients(2);
  if (needs[0]) gradients[0] = (dy * s).to(x.scalar_type());
  if (needs[1])
    gradients[1] = ((dy * x).sum(1, /*keepdim=*/true) * s * (1 - s)).to(gate.scalar_type());
  return gradients;
}

std::vector<at::Tensor> sigmoid_mul_backward(const at::Tensor& x_input,
                                             const at::Tensor& gate_input,
                                             const at::Tensor& grad,
                                             const std::vector<bool>& needs) {
  if (gate_input.size(1) != x_input.size(1))
    return row_gate_backward(x_input, gate_input, grad, needs);
  const auto x = with_dense_rows(x_input), gate = with_dense_rows(gate_input);
  const auto dout = with_dense_rows(grad);
  const int64_t width = x.size(1);
  at::Tensor dx, dgate;
  if (needs[0]) dx = at::empty(x.sizes(), x.options());
  if (needs[1]) dgate = at::empty(x.sizes(), x.options());
  for_rows(x, "sigmoid_mul", [&](auto tag, int64_t t) {
    using T = decltype(tag);
    cpu::sigmoid_mul_backward_row(
        cpu::SigmoidMulBackwardRow<T>{const_elements<T>(x) + t * x.stride(0),
                                      const_elements<T>(gate) + t * gate.stride(0),
                                      const_elements<T>(dout) + t * dout.stride(0),
                                      needs[0] ? elements<T>(dx) + t * width : nullptr,
                                      needs[1] ? elements<T>(dgate) + t * width : nullptr},
        width);
  });
  return {dx, dgate};
}

}  // namespace

at::Tensor silu_mul(const at::Tensor& gate_up) {
  const OpTimer timer("silu_mul");
  if (gate_up.dim() != 2 || gate_up.size(1) % 2 != 0)
    fail<ShapeError>("bad-shape", "silu_mul", "expected [T, 2F], got {}", shape_text(gate_up));
  check_dtype(gate_up.scalar_type(), "silu_mul");
  if (!wants_gradient({gate_up})) return silu_mul_forward(gate_up);
  at::Tensor out;
  {
    at::NoGradGuard no_grad;
    out = silu_mul_forward(gate_up);
  }
  return attach_backward({gate_up}, {out}, [gate_up](const auto& dout, const auto&) {
    if (!dout[0].defined()) return std::vector<at::Tensor>(1);
    return std::vector<at::Tensor>{silu_mul_backward(gate_up, dout[0])};
  })[0];
}

at::Tensor sigmoid_mul(const at::Tensor& x, const at::Tensor& gate) {
  const OpTimer timer("sigmoid_mul");
  if (x.dim() != 2 || gate.dim() != 2 || gate.size(0) != x.size(0) ||
      (gate.size(1) != x.size(1) && gate.size(1) != 1))
    fail<ShapeError>("bad-shape", "sigmoid_mul",
                     "expected a gate [T, D] or [T, 1] for x {}, got {}", shape_text(x),
                     shape_text(gate));
  if (gate.scalar_type() != x.scalar_type())
    fail<ShapeError>("bad-dtype", "sigmoid_mul", "expected a gate in x's {}, got {}",
                     at::toString(x.scalar_type()), at::toString(gate.scalar_type()));
  check_dtype(x.scalar_type(), "sigmoid_mul");
  if (!wants_gradient({x, gate})) return sigmoid_mul_forward(x, gate);
  at::Tensor out;
  {
    at::NoGradGuard no_grad;
    out = sigmoid_mul_forward(x, gate);
  }
  return attach_backward({x, gate}, {out}, [x, gate](const auto& dout, const auto& needs) {
    if (!dout[0].defined()) return std::vector<at::Tensor>(2);
    return sigmoid_mul_backward(x, gate, dout[0], needs);
  })[0];
}

}  // namespace lockstep::ops
