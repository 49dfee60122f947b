// SPDX-License-Identifier: Apache-2.0
#include "ops/cpu/targets.h"

#include <hwy/targets.h>

namespace lockstep::ops::cpu {

std::vector<VectorTarget> usable_targets() {
  // A lower bit is a better target.
  std::vector<VectorTarget> targets;
  for (const int64_t bit : hwy::SupportedAndGeneratedTargets())
    targets.push_back({bit, hwy::TargetName(bit)});
  return targets;
}

bool uses_avx512() { return (hwy::SupportedTargets() & (HWY_AVX3 | HWY_AVX3_DL)) != 0; }

void use_target(int64_t bit) { hwy::SetSupportedTargetsForTest(bit); }

}  // namespace lockstep::ops::cpu
