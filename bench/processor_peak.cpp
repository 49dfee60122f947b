// SPDX-License-Identifier: Apache-2.0
#include "bench/processor_peak.h"

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <fstream>
#include <stdexcept>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "bench/processor_peak.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#ifndef LOCKSTEP_BENCH_PROCESSOR_PEAK_ONCE
#define LOCKSTEP_BENCH_PROCESSOR_PEAK_ONCE
namespace lockstep::bench {
/// Enough to hide the latency of two units, few enough for 16 registers.
inline constexpr int64_t kChains = 12;
}  // namespace lockstep::bench
#endif

HWY_BEFORE_NAMESPACE();
namespace lockstep::bench {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

/// Multiplies and adds `rounds` times in chains that begin with values of `from` [kChains][16];
/// returns the operations. The chains differ, or the compiler would make one of them.
double multiply_add(int64_t rounds, const float* from, float* result) {
  const hn::CappedTag<float, 16> d;
  const auto x = hn::Load(d, from), y = hn::Load(d, from + 16);
  hn::Vec<decltype(d)> chains[kChains];
#pragma GCC unroll 16
  for (int64_t c = 0; c < kChains; ++c) chains[c] = hn::Load(d, from + c * 16);
  for (int64_t i = 0; i < rounds; ++i) {
#pragma GCC unroll 16
    for (int64_t c = 0; c < kChains; ++c) chains[c] = hn::MulAdd(chains[c], y, x);
  }
#pragma GCC unroll 16
  for (int64_t c = 0; c < kChains; ++c) hn::Store(chains[c], d, result + c * 16);
  return 2.0 * static_cast<double>(kChains * rounds) * static_cast<double>(hn::Lanes(d));
}

}  // namespace HWY_NAMESPACE
}  // namespace lockstep::bench
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
#if HWY_ARCH_X86
#include <cpuid.h>
#include <immintrin.h>
#endif

namespace lockstep::bench {

HWY_EXPORT(multiply_add);

namespace {

using Clock = std::chrono::steady_clock;

/// The best rate of calls of `work`, which returns how much it did, over about `seconds`.
template <class Work>
double best_rate(double seconds, const Work& work) {
  double best = 0;
  for (const auto start = Clock::now();
       std::chrono::duration<double>(Clock::now() - start).count() < seconds;) {
    const auto begin = Clock::now();
    const double done = work();
    best = std::max(best, done / std::chrono::duration<double>(Clock::now() - begin).count());
  }
  return best;
}

constexpr int64_t kRounds = 200'000;

/// Small numbers, all different, and room for results.
struct ChainValues {
  alignas(64) float from[kChains * 16];
  alignas(64) float result[kChains * 16];
  ChainValues() {
    for (int64_t i = 0; i < kChains * 16; ++i) from[i] = 1e-3F / static_cast<float>(i + 1);
  }
};

#if HWY_ARCH_X86
/// The same by pairs of bfloat16: two products and two additions a lane.
__attribute__((target("avx512bf16,avx512f"))) double multiply_pairs(int64_t rounds,
                                                                    const float* from,
                                                                    float* result) {
  const __m512bh x = _mm512_cvtne2ps_pbh(_mm512_load_ps(from), _mm512_load_ps(from + 16));
  __m512 chains[kChains];
#pragma GCC unroll 16
  for (int64_t c = 0; c < kChains; ++c) chains[c] = _mm512_load_ps(from + c * 16);
  for (int64_t i = 0; i < rounds; ++i) {
#pragma GCC unroll 16
    for (int64_t c = 0; c < kChains; ++c) chains[c] = _mm512_dpbf16_ps(chains[c], x, x);
  }
#pragma GCC unroll 16
  for (int64_t c = 0; c < kChains; ++c) _mm512_store_ps(result + c * 16, chains[c]);
  return 4.0 * 16 * static_cast<double>(kChains * rounds);
}

/// True for processors that compute a vector of AVX-512 in two halves.
bool has_half_units() {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  __get_cpuid(0, &eax, &ebx, &ecx, &edx);
  const bool is_amd = ebx == signature_AMD_ebx;
  __get_cpuid(1, &eax, &ebx, &ecx, &edx);
  const unsigned family = ((eax >> 8) & 0xF) + ((eax >> 20) & 0xFF);
  return is_amd && family == 0x19;
}
#endif

}  // namespace

double float_peak(double seconds) {
  ChainValues values;
  return best_rate(seconds, [&] {
    return HWY_DYNAMIC_DISPATCH(multiply_add)(kRounds, values.from, values.result);
  });
}

double bfloat16_peak([[maybe_unused]] double seconds) {
#if HWY_ARCH_X86
  ChainValues values;
  if (__builtin_cpu_supports("avx512bf16"))
    return best_rate(seconds, [&] { return multiply_pairs(kRounds, values.from, values.result); });
#endif
  return 0;
}

double clock_rate(double seconds) {
#if HWY_ARCH_X86
  return best_rate(seconds, [] {
    uint64_t value = 1, count = 100'000;
    // 16 dependent additions a round; the counter runs beside them.
    asm volatile(
        "1:\n\t"
        ".rept 16\n\t"
        "add %1, %0\n\t"
        ".endr\n\t"
        "dec %2\n\t"
        "jnz 1b"
        : "+r"(value)
        : "r"(uint64_t{3}), "r"(count)
        : "cc");
    return 16.0 * 100'000;
  });
#else
  return 0 * seconds;
#endif
}

double operations_per_cycle() {
  double lanes = 4;
#if HWY_ARCH_X86
  const std::string target = vector_target();
  lanes = target.starts_with("AVX3") ? (has_half_units() ? 8 : 16) : 8;
#endif
  return 2 * 2 * lanes;
}

std::string vector_target() {
  const auto targets = static_cast<uint64_t>(hwy::SupportedTargets() & HWY_TARGETS);
  return hwy::TargetName(static_cast<int64_t>(targets & (~targets + 1)));
}

void choose_vector_target() {
  const char* wanted = std::getenv("LOCKSTEP_BENCH_TARGET");
  if (!wanted) return;
  const auto targets = static_cast<uint64_t>(hwy::SupportedTargets() & HWY_TARGETS);
  for (uint64_t rest = targets; rest != 0; rest &= rest - 1) {
    const auto target = static_cast<int64_t>(rest & (~rest + 1));
    if (std::string(hwy::TargetName(target)) == wanted) {
      hwy::SetSupportedTargetsForTest(target);
      return;
    }
  }
  throw std::invalid_argument(
      "LOCKSTEP_BENCH_TARGET: expected a vector target of this processor, got " +
      std::string(wanted));
}

}  // namespace lockstep::bench
#endif  // HWY_ONCE
