// Loads and stores of float32 vectors from and to memory of float32 or bfloat16 (as uint16_t). For
// Highway kernels.
// SPDX-License-Identifier: Apache-2.0
//
// Highway 1.0.3's own bfloat16 stores cut off the low bits; these round to nearest even, as
// libtorch does.
#include <cstdint>

#include <hwy/highway.h>

#if defined(LOCKSTEP_OPS_CPU_BFLOAT16_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef LOCKSTEP_OPS_CPU_BFLOAT16_INL_H_
#undef LOCKSTEP_OPS_CPU_BFLOAT16_INL_H_
#else
#define LOCKSTEP_OPS_CPU_BFLOAT16_INL_H_
#endif

HWY_BEFORE_NAMESPACE();
namespace lockstep::ops::cpu {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

template <class D>
HWY_INLINE hn::Vec<D> load_float(D d, const float* from) {
  return hn::LoadU(d, from);
}

template <class D>
HWY_INLINE hn::Vec<D> load_float(D d, const uint16_t* from) {
  const hn::Rebind<uint16_t, D> d16;
  const hn::RebindToUnsigned<D> d32;
  return hn::BitCast(d, hn::ShiftLeft<16>(hn::PromoteTo(d32, hn::LoadU(d16, from))));
}

template <class D>
HWY_INLINE void store_float(D d, hn::Vec<D> value, float* to) {
  hn::StoreU(value, d, to);
}

template <class D>
HWY_INLINE void store_float([[maybe_unused]] D d, hn::Vec<D> value, uint16_t* to) {
  const hn::Rebind<uint16_t, D> d16;
  const hn::RebindToUnsigned<D> d32;
  const hn::RebindToSigned<D> s32;
  const auto bits = hn::BitCast(d32, value);
  const auto odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(d32, 1u));
  const auto rounded = hn::Add(bits, hn::Add(odd, hn::Set(d32, 0x7FFFu)));
  // Rounding could carry a NaN's bits into an infinity or a zero: a NaN keeps its high half and
  // gets a quiet bit.
  const auto nan = hn::Or(bits, hn::Set(d32, 0x00400000u));
  const auto is_nan = hn::RebindMask(d32, hn::IsNaN(value));
  const auto high = hn::ShiftRight<16>(hn::IfThenElse(is_nan, nan, rounded));
  hn::StoreU(hn::DemoteTo(d16, hn::BitCast(s32, high)), d16, to);
}

}  // namespace HWY_NAMESPACE
}  // namespace lockstep::ops::cpu
HWY_AFTER_NAMESPACE();

#endif
