// EXPECT_CLOSE for tensors, and equality of their bits.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstring>
#include <random>

#include <gtest/gtest.h>

#include "tensor/aten.h"
#include "tests/support/test_seed.h"

namespace lockstep::testing {

/// Passes when |actual - expected| <= atol + rtol * max|expected|, compared in float64; says where
/// and by how much not.
inline ::testing::AssertionResult close(const at::Tensor& actual,
                                        const at::Tensor& expected,
                                        double rtol,
                                        double atol) {
  if (actual.sizes() != expected.sizes())
    return ::testing::AssertionFailure()
           << "shapes differ: " << actual.sizes() << " and " << expected.sizes();
  if (actual.numel() == 0) return ::testing::AssertionSuccess();
  const auto a = actual.detach().to(at::kDouble).reshape({-1});
  const auto b = expected.detach().to(at::kDouble).reshape({-1});
  const double bound = atol + rtol * b.abs().max().item<double>();
  const auto difference = (a - b).abs();
  const int64_t index = difference.argmax().item<int64_t>();
  const double worst = difference[index].item<double>();
  if (worst <= bound) return ::testing::AssertionSuccess();  // false for NaN
  return ::testing::AssertionFailure()
         << "element " << index << ": " << a[index].item<double>() << " and "
         << b[index].item<double>() << ", difference " << worst << " is " << worst / bound
         << " of the bound " << bound;
}
#define EXPECT_CLOSE(actual, expected, rtol, atol) \
  EXPECT_TRUE(::lockstep::testing::close(actual, expected, rtol, atol)) << #actual " ~ " #expected

/// Passes when each |actual - expected| <= its own bound, compared in float64; says where the worst
/// one is. `close` measures by the largest value: beside that, a small one may be anything.
inline ::testing::AssertionResult within(const at::Tensor& actual,
                                         const at::Tensor& expected,
                                         const at::Tensor& bounds) {
  if (actual.sizes() != expected.sizes())
    return ::testing::AssertionFailure()
           << "shapes differ: " << actual.sizes() << " and " << expected.sizes();
  if (actual.numel() == 0) return ::testing::AssertionSuccess();
  const auto flat = [&](const at::Tensor& t) {
    return t.detach().to(at::kDouble).expand(actual.sizes()).reshape({-1});
  };
  const auto a = flat(actual), b = flat(expected), most = flat(bounds);
  const auto excess = (a - b).abs() - most;
  if ((excess <= 0).all().item<bool>()) return ::testing::AssertionSuccess();  // false for NaN
  const int64_t index = excess.argmax().item<int64_t>();
  return ::testing::AssertionFailure()
         << "element " << index << ": " << a[index].item<double>() << " and "
         << b[index].item<double>() << ", more apart than " << most[index].item<double>();
}
#define EXPECT_WITHIN(actual, expected, bounds) \
  EXPECT_TRUE(::lockstep::testing::within(actual, expected, bounds)) << #actual " ~ " #expected

/// True when both have the same dtype, shape and bytes.
inline bool same_bits(const at::Tensor& a, const at::Tensor& b) {
  if (a.scalar_type() != b.scalar_type() || a.sizes() != b.sizes()) return false;
  const auto x = a.detach().contiguous(), y = b.detach().contiguous();
  if (x.nbytes() == 0) return true;  // memcmp must not see the null pointers of empty tensors
  return std::memcmp(x.const_data_ptr(), y.const_data_ptr(), x.nbytes()) == 0;
}

}  // namespace lockstep::testing
