// SPDX-License-Identifier: Apache-2.0
#include "ops/cpu/gated_rms_norm.h"

#include <algorithm>

#include <fmt/ranges.h>

#include "base/check.h"
#include "base/op_timer.h"
#include "ops/kernel_data.h"
#include "ops/rms_norm.h"
#include "tensor/aten.h"
#include "tensor/autograd.h"
#include "tensor/parallel.h"

namespace lockstep::ops {
namespace {

// Rows of one unit of work. The backward's parts of the weight's gradient, one a unit, are added in
// order: they do not depend on the number of threads.
constexpr int64_t kUnitRows = 128;

/// Contiguous inputs and the float32 weight.
struct Inputs {
  at::Tensor x, z, weight;
  double eps;

  int64_t dim() const { return x.size(-1); }
  int64_t num_rows() const { return x.numel() / dim(); }
  int64_t grain() const { return thread_grain(kUnitRows * dim()); }
  int64_t num_units() const { return (num_rows() + kUnitRows - 1) / kUnitRows; }

  template <class T>
  cpu::GatedRmsNormRows<T> unit(int64_t index) const {
    const int64_t first = index * kUnitRows, at = first * dim();
    return {static_cast<const T*>(x.const_data_ptr()) + at,
            static_cast<const T*>(z.const_data_ptr()) + at,
            weight.const_data_ptr<float>(),
            std::min(kUnitRows, num_rows() - first),
            dim(),
            static_cast<float>(eps)};
  }
};

template <class T>
at::Tensor run_forward(const Inputs& in) {
  const at::Tensor out = at::empty_like(in.z);
  T* to = static_cast<T*>(out.mutable_data_ptr());
  parallel_for(0, in.num_units(), in.grain(), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      cpu::gated_rms_norm(in.unit<T>(i), to + i * kUnitRows * in.dim());
  });
  return out;
}

template <class T>
std::vector<at::Tensor> run_backward(const Inputs& in, const at::Tensor& out_gradient) {
  const at::Tensor dx = at::empty_like(in.x), dz = at::empty_like(in.z),
                   dy = out_gradient.contiguous();
  const at::Tensor parts = at::zeros({in.num_units(), in.dim()}, at::kFloat);
  const T* given = static_cast<const T*>(dy.const_data_ptr());
  T *to_x = static_cast<T*>(dx.mutable_data_ptr()), *to_z = static_cast<T*>(dz.mutable_data_ptr());
  float* part = parts.mutable_data_ptr<float>();
  parallel_for(0, in.num_units(), in.grain(), [&](int64_t begin, int64_t end) {
    std::vector<float> scratch(static_cast<size_t>(in.dim()));
    for (int64_t i = begin; i < end; ++i) {
      const int64_t at = i * kUnitRows * in.dim();
      cpu::gated_rms_norm_backward(
          in.unit<T>(i), {given + at, to_x + at, to_z + at, part + i * in.dim()}, scratch.data());
    }
  });
  const at::Tensor dw = at::zeros({in.dim()}, at::kDouble);
  double* sum = dw.mutable_data_ptr<double>();
  for (int64_t i = 0; i < parts.numel(); ++i) sum[i % in.dim()] += static_cast<double>(part[i]);
  return {dx, dz, dw};
}

}  // namespace

at::Tensor gated_rms_norm(const at::Tensor& x,
                          const at::Tensor& z,
                          const at::Tensor& weight,
                          double eps) {
  const OpTimer timer("gated_rms_norm");
  if (x.dim() == 0 || z.sizes() != x.sizes() || weight.sizes() != at::IntArrayRef({x.size(-1)}) ||
      z.scalar_type() != x.scalar_type())
    fail<ShapeError>("bad-shape", "gated_rms_norm",
                     "expected x, z [..., D] of one dtype and weight [D], got "
                     "{} [{}], {} [{}] and [{}]",
                     c10::toString(x.scalar_type()), fmt::join(x.sizes(), ", "),
                     c10::toString(z.scalar_type()), fmt::join(z.sizes(), ", "),
                     fmt::join(weight.sizes(), ", "));
  check_dtype(x.scalar_type(), "gated_rms_norm");
  check_dtype(weight.scalar_type(), "gated_rms_norm");
  const bool trains = wants_gradient({x, z, weight});
  const at::NoGradGuard no_grad;
  const Inputs in{x.contiguous(), z.contiguous(), weight.to(at::kFloat).contiguous(), eps};
  const bool float32 = x.scalar_type() == at::kFloat;
  const at::Tensor out = float32 ? run_forward<float>(in) : run_forward<uint16_t>(in);
  if (!trains) return out;
  const auto weight_dtype = weight.scalar_type();
  return attach_backward({x, z, weight}, {out},
                         [in, float32, weight_dtype](const auto& gradients, const auto&) {
                           if (!gradients[0].defined()) return std::vector<at::Tensor>(3);
                           auto results = float32 ? run_backward<float>(in, gradients[0])
                                                  : run_backward<uint16_t>(in, gradients[0]);
                           results[2] = results[2].to(weight_dtype);
                           return results;
                         })[0];
}

}  // namespace lockstep::ops
