// Central differences of a float64 function along a direction: an independent check of gradients.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <functional>
#include <vector>

#include <gtest/gtest.h>

#include "tensor/aten.h"
#include "tensor/autograd.h"

namespace lockstep::testing {

/// Uniform in [0, 1), float64.
inline at::Tensor random64(at::IntArrayRef shape) {
  return at::empty(shape, at::kDouble).uniform_(0, 1);
}

using TensorFunction = std::function<at::Tensor(const std::vector<at::Tensor>&)>;

/// Expects <gradient, direction> of sum(weight * f(inputs)) to equal its central difference.
/// Everything is float64.
///
/// With a step h the difference is off by about h^2 (third derivatives) and 2^-53 / h (rounding):
/// with h = 1e-5 both are near 1e-10 of the values, and 1e-6 leaves room for their size.
inline void expect_directional_derivative(const TensorFunction& f,
                                          const std::vector<at::Tensor>& inputs,
                                          const at::Tensor& weight) {
  constexpr double kStep = 1e-5;
  std::vector<at::Tensor> leaves, plus, minus, directions;
  for (const auto& input : inputs) {
    const auto direction = at::empty_like(input).uniform_(-1, 1);
    directions.push_back(direction);
    plus.push_back(input + direction * kStep);
    minus.push_back(input - direction * kStep);
    leaves.push_back(input.detach().clone().set_requires_grad(true));
  }
  const auto gradient = gradients({f(leaves)}, leaves, {weight});
  double analytic = 0;
  for (size_t i = 0; i < inputs.size(); ++i)
    analytic += (gradient[i] * directions[i]).sum().item<double>();
  const double numeric = ((f(plus) - f(minus)) * weight).sum().item<double>() / (2 * kStep);
  EXPECT_NEAR(analytic, numeric, 1e-6 * (1 + std::abs(analytic)));
}

}  // namespace lockstep::testing
