// The gated delta rule on raw float32 memory: preparation of queries and keys, recurrence, backward.
// SPDX-License-Identifier: Apache-2.0
//
// Torch-free. Rows of keys are padded with zeros to a multiple of 16 (Dkp), rows of values to a multiple of 32 (Dvp);
// states are not padded. A tile is 32 value columns of one head's state, [Dk, 32]: columns do not meet in the forward,
// so a tile runs over all tokens by itself and its bits depend on its own columns only.
#pragma once

#include <cstdint>

namespace lockstep::ops::cpu {

inline constexpr int64_t kDeltaTileColumns = 32;
inline constexpr int64_t kDeltaKeyPadding = 16;
/// Training keeps the state before every 64th token of a sequence but the first, and recomputes the others.
inline constexpr int64_t kGatedDeltaCheckpoint = 64;

/// What the recurrence reads: T packed tokens of all heads.
struct DeltaTokens {
  const float* q = nullptr;      ///< [T, Hk, Dkp] normalised and scaled.
  const float* k = nullptr;      ///< [T, Hk, Dkp] normalised.
  const float* qk = nullptr;     ///< [T, Hk] <q, k>.
  const float* v = nullptr;      ///< [T, Hv, Dvp]
  const float* decay = nullptr;  ///< [T, Hv] exp(log_decay).
  const float* beta = nullptr;   ///< [T, Hv]
  int64_t key_heads = 0, value_heads = 0;
  int64_t key_dim = 0, value_dim = 0;  ///< Dk, Dv without padding.

  int64_t padded_key_dim() const {
    return (key_dim + kDeltaKeyPadding - 1) / kDeltaKeyPadding * kDeltaKeyPadding;
  }
  int64_t padded_value_dim() const {
    return (value_dim + kDeltaTileColumns - 1) / kDeltaTileColumns * kDeltaTileColumns;
  }
};

/// One unit of work: some tiles of one value head over all tokens of one sequence.
struct DeltaSpan {
  int64_t first_token = 0, length = 0;
  int64_t head = 0;  ///< Value head.
  int64_t first_tile = 0, end_tile = 0;
};

/// One head's states of one sequence, each [Dk, Dv].
struct DeltaStates {
  const float* initial = nullptr;  ///< Null: zeros.
  float* final = nullptr;          ///< May be the memory of `initial`.
  float* checkpoints = nullptr;    ///< States before tokens 64, 128, …; null: not kept.
  int64_t checkpoint_stride = 0;   ///< Floats from one to the next.
};

/// The gradients of one backward pass, of all heads, summed into by spans. q and k are kept for each value head apart.
struct DeltaGradients {
  const float* output = nullptr;  ///< [T, Hv, Dvp], given.
  float* q =
      nullptr;  ///< [T, Hv, Dkp] of the normalised and scaled queries, zeroed by the caller, as all below.
  float* k = nullptr;          ///< [T, Hv, Dkp]
  float* v = nullptr;          ///< [T, Hv, Dvp]
  float* log_decay = nullptr;  ///< [T, Hv]
  float* beta = nullptr;       ///< [T, Hv]
};

/// Runs `span` forward and writes its columns of `output` [T, Hv, Dvp] and of the states.
/// `scratch` has delta_forward_scratch(Dk) floats, aligned to 64 bytes.
void delta_forward(const DeltaTokens& tokens,
                   const DeltaSpan& span,
                   const DeltaStates& states,
                   float* output,
                   float* scratch);
int64_t delta_forward_scratch(int64_t key_dim);

/// Runs `span` backward. The gradient of the final state is read from, and that of the initial state written to,
/// `state_gradient` [Dk, Dv]. A head's tiles must be one span: they add to the same q and k, in order.
/// `scratch` has delta_backward_scratch(Dk) floats, aligned to 64 bytes.
void delta_backward(const DeltaTokens& tokens,
                    const DeltaSpan& span,
                    const DeltaStates& states,
                    const DeltaGradients& gradients,
                    float* state_gradient,
                    float* scratch);
int64_t delta_backward_scratch(int64_t key_dim);

/// q^ = q / sqrt(sum q^2 + eps) Dk^-1/2, k^ = k / sqrt(sum k^2 + eps), and <q^, k^>, for `rows` rows of Dkp elements.
struct DeltaKeys {
  const float* q = nullptr;
  const float* k = nullptr;
  int64_t rows = 0, key_dim = 0, padded_key_dim = 0;
};
inline constexpr float kDeltaNormEps = 1e-6F;
void delta_normalize(const DeltaKeys& keys, float* q_normal, float* k_normal, float* qk);

/// The gradients of q and k from those of q^ and k^: for each row, `group` rows of `dq` and `dk` are added in order (the
/// value heads of a key head), then dx = r (dy - y <dy, y>) with y = x r. Writes `rows` rows to q_gradient, k_gradient.
struct DeltaKeyGradients {
  const float* dq = nullptr;
  const float* dk = nullptr;
  int64_t group = 1;
};
void delta_normalize_backward(const DeltaKeys& keys,
                              const DeltaKeyGradients& gradients,
                              float* q_gradient,
                              float* k_gradient);

}  // namespace lockstep::ops::cpu
