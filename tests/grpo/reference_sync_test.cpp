// SPDX-License-Identifier: Apache-2.0
#include "grpo/reference_sync.h"

#include <gtest/gtest.h>

#include "tests/model/tiny_model.h"
#include "tests/support/expect_close.h"
#include "tests/support/expect_error.h"

namespace lockstep::grpo {
namespace {

using model::WeightDtype;
using model::WeightUse;
using testing::same_bits;
using testing::tiny_weights;

class MixWeights : public ::testing::TestWithParam<std::tuple<model::Family, WeightDtype>> {};
INSTANTIATE_TEST_SUITE_P(,
                         MixWeights,
                         ::testing::Combine(::testing::ValuesIn(testing::kFamilies),
                                            ::testing::Values(WeightDtype::kFloat32,
                                                              WeightDtype::kBFloat16)));

/// Within a rounding of the formula in float64, for weights that are kept in panels alone, too.
TEST_P(MixWeights, IsTheFormulaOfTrDpo) {
  const auto [family, dtype] = GetParam();
  const auto policy = tiny_weights(family, dtype, 2), before = tiny_weights(family, dtype, 1);
  for (const double alpha : {0.6, 1.0, 0.125}) {
    const auto reference = tiny_weights(family, dtype, 1, WeightUse::kFrozen);
    mix_weights(*reference, *policy, alpha);
    for (size_t i = 0; i < policy->parameters().size(); ++i) {
      const at::Tensor mixed = reference->values(i),
                       theirs = policy->values(i).detach().to(at::kDouble),
                       ours = before->values(i).detach().to(at::kDouble);
      const at::Tensor expected = theirs * alpha + ours * (1 - alpha);
      const double epsilon = mixed.scalar_type() == at::kFloat ? 0x1p-23 : 0x1p-8;
      const at::Tensor bound = (theirs.abs() + ours.abs()) * (2 * epsilon);
      EXPECT_TRUE(((mixed.to(at::kDouble) - expected).abs() <= bound).all().item<bool>())
          << policy->parameters()[i].id;
      if (alpha == 1) {
        EXPECT_TRUE(same_bits(mixed, policy->values(i).detach()));
      }
    }
  }
}

TEST(ReferenceSyncOptions, NeedAReferenceModelOfTheirOwn) {
  LossOptions loss;
  ReferenceSyncOptions options;
  options.validate(LossOptions{.beta = 0}, true, true);
  options.sync_ref_model = true;
  options.validate(loss, false, false);
  EXPECT_ERROR(options.validate(loss, true, false), ConfigError, "bad-flag", "no adapter of that");
  EXPECT_ERROR(options.validate(loss, false, true), ConfigError, "bad-flag", "--ref_adapters");
  loss.beta = 0;
  EXPECT_ERROR(options.validate(loss, false, false), ConfigError, "bad-flag", "--beta 0");
}

}  // namespace
}  // namespace lockstep::grpo
