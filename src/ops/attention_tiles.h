// Runs the attention kernels over sequences, key heads and tiles of queries, on all threads.
// Internal to ops/.
// SPDX-License-Identifier: Apache-2.0
//
// Shapes: T packed query tokens, H query heads, Hkv key heads, Dh head dim.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include <ATen/core/Tensor.h>

#include "ops/cpu/attention.h"
#include "ops/sequences.h"

namespace lockstep::ops {

/// One sequence's part of an attention call.
template <class T>
struct AttentionSequence {
  /// At key head 0; each further head is Dh elements on.
  cpu::SequenceRows<T> keys, values;
  /// Row of its first query among the packed ones.
  int64_t first_token = 0;
  int64_t num_tokens = 0;
  /// The position of the first query in its sequence, which is the number of keys before it.
  int64_t first_position = 0;
};

/// The tensors of one attention call.
struct AttentionTensors {
  /// [T, H, Dh], contiguous.
  at::Tensor q;
  /// [T, H, Dh], contiguous, in q's dtype.
  at::Tensor output;
  /// [T, H] float32, or undefined.
  at::Tensor log_sum_exp;
  int64_t num_kv_heads = 0;
  double scale = 1;
};

/// Calls work(item, workspace) once for each item in [0, items), whichever thread is free taking
/// the next, with `workspace_size` floats of scratch memory aligned to 64 bytes.
void run_items(int64_t items,
               int64_t workspace_size,
               const std::function<void(int64_t item, float* workspace)>& work);

/// Fills `output` and, where defined, `log_sum_exp`.
template <class T>
void attend_sequences(const AttentionTensors& tensors,
                      const std::vector<AttentionSequence<T>>& sequences);

/// What the backward reads and fills besides the forward's tensors, all contiguous, in q's dtype.
struct AttentionGradients {
  /// [T, H, Dh]
  at::Tensor doutput, dq;
  /// [T, Hkv, Dh]
  at::Tensor dk, dv;
};

/// Fills dq, dk and dv. `sequences` are those of `packed`, whole. What a sequence and those that
/// continue it give to its keys is added in float32, in order of sequences.
template <class T>
void attend_sequences_backward(const AttentionTensors& tensors,
                               const std::vector<AttentionSequence<T>>& sequences,
                               const PackedSequences& packed,
                               const AttentionGradients& gradients);

}  // namespace lockstep::ops
