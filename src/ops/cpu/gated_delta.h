// The gated delta rule on raw float32 memory: preparation of queries and keys, recurrence,
// backward.
// SPDX-License-Identifier: Apache-2.0
//
// Torch-free. States, normalised keys and queries and their gradients are float32; the rest is read
// and written in the caller's dtype. Rows of normalised keys are padded with zeros to a multiple of
// 16 (Dkp). A tile is 32 value columns of one head's state, [Dk, 32]: columns do not meet in the
// forward, so a tile runs over all tokens by itself and its bits depend on its own columns only.
#pragma once

#include <cstdint>

namespace lockstep::ops::cpu {

inline constexpr int64_t kDeltaTileColumns = 32;
inline constexpr int64_t kDeltaKeyPadding = 16;
/// Training keeps the state before every 64th token of a sequence but the first, and recomputes the
/// others.
inline constexpr int64_t kGatedDeltaCheckpoint = 64;

/// Rows of a tensor [T, heads, dim] of float32 or bfloat16: head h of token t begins at element t
/// token_stride + h dim.
struct DeltaSource {
  /// Null: all zeros.
  const void* data = nullptr;
  int64_t token_stride = 0;
  bool is_bfloat16 = false;
};
struct DeltaTarget {
  void* data = nullptr;
  int64_t token_stride = 0;
  bool is_bfloat16 = false;
};

/// What the recurrence reads: T packed tokens of all heads.
struct DeltaTokens {
  /// [T, Hk, Dkp] normalised and scaled.
  const float* q = nullptr;
  /// [T, Hk, Dkp] normalised.
  const float* k = nullptr;
  /// [T, Hk] <q, k>.
  const float* qk = nullptr;
  /// [T, Hv, Dv]
  DeltaSource v;
  /// [T, Hv] exp(log_decay).
  const float* decay = nullptr;
  /// [T, Hv]
  const float* beta = nullptr;
  int64_t key_heads = 0, value_heads = 0;
  /// Dk, Dv.
  int64_t key_dim = 0, value_dim = 0;

  int64_t padded_key_dim() const {
    return (key_dim + kDeltaKeyPadding - 1) / kDeltaKeyPadding * kDeltaKeyPadding;
  }
  int64_t num_tiles() const { return (value_dim + kDeltaTileColumns - 1) / kDeltaTileColumns; }
};

/// One unit of work: some tiles of one value head over all tokens of one sequence.
struct DeltaSpan {
  int64_t first_token = 0, length = 0;
  /// Value head.
  int64_t head = 0;
  int64_t first_tile = 0, end_tile = 0;
};

/// One head's states of one sequence, each [Dk, Dv].
struct DeltaStates {
  /// Null: zeros.
  const float* initial = nullptr;
  /// May be the memory of `initial`. In the backward: of the gradient.
  float* final = nullptr;
  /// States before tokens 64, 128, …; null: not kept.
  float* checkpoints = nullptr;
  /// Floats from one to the next.
  int64_t checkpoint_stride = 0;
};

/// The gradients of one backward pass, of all heads. q and k are kept for each value head apart and
/// summed into: zeroed by the caller, as log_decay and beta.
struct DeltaGradients {
  /// [T, Hv, Dv], given.
  DeltaSource output;
  /// [T, Hv, Dkp] of the normalised and scaled queries.
  float* q = nullptr;
  /// [T, Hv, Dkp]
  float* k = nullptr;
  /// [T, Hv, Dv]
  DeltaTarget v;
  /// [T, Hv]
  float* log_decay = nullptr;
  /// [T, Hv]
  float* beta = nullptr;
};

/// Runs `span` forward and writes its columns of `output` [T, Hv, Dv] and of the states.
/// `scratch` has delta_forward_scratch(Dk) floats, aligned to 64 bytes.
void delta_forward(const DeltaTokens& tokens,
                   const DeltaSpan& span,
                   const DeltaStates& states,
                   const DeltaTarget& output,
                   float* scratch);
int64_t delta_forward_scratch(int64_t key_dim);

/// Runs `span` backward. The gradient of the final state is read from, and that of the initial
/// state written to, `states.final` [Dk, Dv]. A head's tiles must be one span: they add to the same
/// q and k, in order. `scratch` has delta_backward_scratch(Dk) floats, aligned to 64 bytes.
void delta_backward(const DeltaTokens& tokens,
                    const DeltaSpan& span,
                    const DeltaStates& states,
                    const DeltaGradients& gradients,
                    float* scratch);
int64_t delta_backward_scratch(int64_t key_dim);

/// Raw queries and keys [T, Hk, Dk], and the tokens of them that a call is about.
struct DeltaKeys {
  DeltaSource q, k;
  int64_t heads = 0, dim = 0, padded_dim = 0;
  int64_t first_token = 0, end_token = 0;
};
inline constexpr float kDeltaNormEps = 1e-6F;

/// q^ = q / sqrt(sum q^2 + eps) Dk^-1/2, k^ = k / sqrt(sum k^2 + eps), and <q^, k^>, into [T, Hk,
/// Dkp] and [T, Hk].
void delta_normalize(const DeltaKeys& keys, float* q_normal, float* k_normal, float* qk);

/// The gradients of q and k from those of q^ and k^, [T, Hv, Dkp]: the rows of a key head's value
/// heads are added in order, then dx = r (dy - y <dy, y>) with y = x r. `scratch` has 2 Dkp floats.
struct DeltaKeyGradients {
  const float* q_normal = nullptr;
  const float* k_normal = nullptr;
  int64_t value_heads = 0;
  /// [T, Hk, Dk]
  DeltaTarget q, k;
};
void delta_normalize_backward(const DeltaKeys& keys,
                              const DeltaKeyGradients& gradients,
                              float* scratch);

}  // namespace lockstep::ops::cpu
