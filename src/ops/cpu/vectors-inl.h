// The loop over a row: vectors, then single elements. For Highway kernels.
// SPDX-License-Identifier: Apache-2.0
#include <cstdint>

#include <hwy/highway.h>

#if defined(LOCKSTEP_OPS_CPU_VECTORS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef LOCKSTEP_OPS_CPU_VECTORS_INL_H_
#undef LOCKSTEP_OPS_CPU_VECTORS_INL_H_
#else
#define LOCKSTEP_OPS_CPU_VECTORS_INL_H_
#endif

HWY_BEFORE_NAMESPACE();
namespace lockstep::ops::cpu {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using Float = hn::ScalableTag<float>;
using One = hn::CappedTag<float, 1>;

/// Calls visit(tag, index) for whole vectors of `count` elements, then for each one that is left
/// with the tag One. The visitor is compiled for both tags: what it computes of an element must not
/// depend on which of them it gets. A lambda needs HWY_ATTR.
template <class Visit>
HWY_INLINE void for_each_vector(int64_t count, const Visit& visit) {
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(Float()));
  int64_t i = 0;
  for (; i + lanes <= count; i += lanes) visit(Float(), i);
  for (; i < count; ++i) visit(One(), i);
}

}  // namespace HWY_NAMESPACE
}  // namespace lockstep::ops::cpu
HWY_AFTER_NAMESPACE();

#endif
