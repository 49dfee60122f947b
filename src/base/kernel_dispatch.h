// A kernel's call goes to its version for the best vector target of the processor. For the part of
// a Highway kernel's file that is compiled once (HWY_ONCE).
// SPDX-License-Identifier: Apache-2.0
//
// Highway's own HWY_EXPORT needs a plain function of a name of its own for each element type, so
// that each signature would be written four times a type. These two take a function template.
#pragma once

#include <cstddef>
#include <cstdint>

#include <hwy/highway.h>

namespace lockstep {

/// The version for the target in use, of a kernel's versions in the order of Highway's indices.
/// Index 0 means that no target is chosen yet.
template <class Function, size_t kCount>
HWY_INLINE Function* version_in_use(Function* const (&versions)[kCount]) {
  hwy::ChosenTarget& target = hwy::GetChosenTarget();
  if (HWY_UNLIKELY(!target.IsInitialized())) target.Update(hwy::SupportedTargets());
  return versions[target.GetIndex()];
}

}  // namespace lockstep

/// The version, for the target in use, of the function `kernel` that HWY_NAMESPACE has for each
/// target; `kernel` may have one template argument: LOCKSTEP_BEST_TARGET(silu_mul_row<T>)(x, y).
#define LOCKSTEP_BEST_TARGET(kernel)                                           \
  [] {                                                                         \
    static constexpr decltype(&HWY_STATIC_DISPATCH(kernel)) kVersions[] = {    \
        nullptr, HWY_CHOOSE_TARGET_LIST(kernel), HWY_CHOOSE_FALLBACK(kernel)}; \
    return ::lockstep::version_in_use(kVersions);                              \
  }()

/// Instantiates the function template `kernel<T>` for float32 and for bfloat16 (as uint16_t).
#define LOCKSTEP_FOR_FLOAT_TYPES(kernel)          \
  template decltype(kernel<float>) kernel<float>; \
  template decltype(kernel<uint16_t>) kernel<uint16_t>
