// What the processor itself can do: the rate of a loop of multiply-adds that touches no memory, and
// its clock.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>

namespace lockstep::bench {

/// Operations (two a multiply-add) per second of one thread, in float32 by the vectors that the
/// kernels use. Takes about `seconds`.
double float_peak(double seconds);
/// The same by AVX512-BF16's products of pairs; 0 where the processor has none.
double bfloat16_peak(double seconds);
/// Cycles per second of one thread: a chain of additions takes a cycle each. Takes about `seconds`.
double clock_rate(double seconds);
/// Operations in a cycle that the width of the processor's units allows in float32: two units, of a
/// full vector each, but of half a vector of AVX-512 on AMD's Zen 4. Twice as many in bfloat16.
double operations_per_cycle();
/// "AVX3": the vectors that the kernels use.
std::string vector_target();

/// Takes the target that the environment variable LOCKSTEP_BENCH_TARGET names (AVX2, AVX3) in place
/// of the best one, for this process. Throws std::invalid_argument where the processor or the
/// program has none of that name.
void choose_vector_target();

}  // namespace lockstep::bench
