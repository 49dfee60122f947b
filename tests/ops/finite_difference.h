// Gradients of an op in its inputs' own dtype against slopes of its formula in float64: a check
// that knows nothing of autograd.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <functional>
#include <vector>

#include <gtest/gtest.h>

#include "tensor/aten.h"
#include "tensor/autograd.h"

namespace lockstep::testing {

using TensorFunction = std::function<at::Tensor(const std::vector<at::Tensor>&)>;

/// Expects the gradients of <op(inputs), by>, which the op computes in the dtypes of `inputs`, to
/// be the slopes of <formula(inputs), by>, taken in float64 along a random direction of each input.
/// `relative` bounds the error of a gradient's element as a share of that gradient's largest one.
///
/// With a step h a central difference is off by about h^2 (third derivatives) and 2^-53 / h
/// (rounding): with h = 1e-5 both are near 1e-10 of the values, and 1e-6 leaves room for their
/// size.
inline void expect_slopes(const TensorFunction& op,
                          const TensorFunction& formula,
                          const std::vector<at::Tensor>& inputs,
                          const at::Tensor& by,
                          double relative) {
  constexpr double kStep = 1e-5;
  std::vector<at::Tensor> leaves, wide;
  for (const at::Tensor& input : inputs) {
    leaves.push_back(input.detach().clone().set_requires_grad(true));
    wide.push_back(input.detach().to(at::kDouble));
  }
  const auto found = gradients({op(leaves)}, leaves, {by});
  const at::NoGradGuard no_grad;
  const at::Tensor weight = by.to(at::kDouble);
  for (size_t j = 0; j < inputs.size(); ++j) {
    ASSERT_EQ(found[j].scalar_type(), inputs[j].scalar_type()) << "input " << j;
    const at::Tensor direction = at::empty_like(wide[j]).uniform_(-1, 1);
    const auto value_at = [&](double step) {
      std::vector<at::Tensor> moved = wide;
      moved[j] = moved[j] + direction * step;
      return (formula(moved) * weight).sum().item<double>();
    };
    const double slope = (value_at(kStep) - value_at(-kStep)) / (2 * kStep);
    const at::Tensor gradient = found[j].to(at::kDouble);
    const double along = (gradient * direction).sum().item<double>();
    const double error =
        relative * gradient.abs().max().item<double>() * direction.abs().sum().item<double>();
    EXPECT_NEAR(along, slope, error + 1e-6 * (1 + std::abs(slope))) << "input " << j;
  }
}

}  // namespace lockstep::testing
