// SPDX-License-Identifier: Apache-2.0
#include "ops/cpu/low_rank.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/cpu/low_rank.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "base/kernel_dispatch.h"
#include "ops/cpu/bfloat16-inl.h"
#include "ops/cpu/vectors-inl.h"

HWY_BEFORE_NAMESPACE();
namespace lockstep::ops::cpu {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;
namespace {

/// dropout_bits of adjacent elements.
template <class D>
HWY_INLINE hn::Vec<D> bits_of(D d, uint64_t key, int64_t first) {
  auto x = hn::Iota(d, static_cast<uint32_t>(first) + static_cast<uint32_t>(key));
  x = hn::Xor(x, hn::ShiftRight<16>(x));
  x = hn::Mul(x, hn::Set(d, 0x21f0aaadU));
  x = hn::Xor(x, hn::ShiftRight<15>(x));
  x = hn::Add(x, hn::Set(d, static_cast<uint32_t>(key >> 32)));
  x = hn::Mul(x, hn::Set(d, 0x735a2d97U));
  x = hn::Xor(x, hn::ShiftRight<15>(x));
  x = hn::Mul(x, hn::Set(d, 0x7feb352dU));
  return hn::Xor(x, hn::ShiftRight<16>(x));
}

template <class T>
void widen_row(const T* from, int64_t width, const DroppedRow& dropped, float* to) {
  if (dropped.threshold == 0) {
    for_each_vector(
        width, [=](auto d, int64_t i) HWY_ATTR { hn::StoreU(load_float(d, from + i), d, to + i); });
    return;
  }
  for_each_vector(width, [=](auto d, int64_t i) HWY_ATTR {
    const hn::RebindToUnsigned<decltype(d)> bits;
    // Targets compare signed numbers.
    const hn::RebindToSigned<decltype(d)> numbers;
    const auto drawn = hn::BitCast(numbers, hn::ShiftRight<1>(bits_of(bits, dropped.key, i)));
    const auto is_dropped =
        hn::RebindMask(d, hn::Lt(drawn, hn::Set(numbers, static_cast<int32_t>(dropped.threshold))));
    const auto scaled = hn::Mul(load_float(d, from + i), hn::Set(d, dropped.scale));
    hn::StoreU(hn::IfThenZeroElse(is_dropped, scaled), d, to + i);
  });
}

template <class T>
void add_row(const float* from, int64_t width, T* to) {
  for_each_vector(width, [=](auto d, int64_t i) HWY_ATTR {
    store_float(d, hn::Add(load_float(d, to + i), hn::LoadU(d, from + i)), to + i);
  });
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace lockstep::ops::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lockstep::ops::cpu {

template <class T>
void widen_row(const T* from, int64_t width, const DroppedRow& dropped, float* to) {
  LOCKSTEP_BEST_TARGET(widen_row<T>)(from, width, dropped, to);
}
LOCKSTEP_FOR_FLOAT_TYPES(widen_row);

template <class T>
void add_row(const float* from, int64_t width, T* to) {
  LOCKSTEP_BEST_TARGET(add_row<T>)(from, width, to);
}
LOCKSTEP_FOR_FLOAT_TYPES(add_row);

}  // namespace lockstep::ops::cpu
#endif  // HWY_ONCE
