// Mixture of experts: routing, dispatch, grouped products, combine.
// SPDX-License-Identifier: Apache-2.0
//
// Shapes: T tokens, D model dim, E experts, K chosen experts, F expert width.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include <ATen/core/Tensor.h>

#include "ops/linear.h"
#include "ops/low_rank.h"

namespace lockstep::ops {

/// The experts of each token.
struct Routing {
  /// [T, K], descending by probability, in `logits`' dtype.
  at::Tensor weights;
  /// [T, K] int64 expert ids, in the same order; ties go to the lower id.
  at::Tensor experts;
  /// With given experts: [T] uint8, 1 where the router would have chosen other ones.
  at::Tensor changed;
};

/// Experts that were chosen elsewhere (router replay), of tokens or of some of them.
struct GivenExperts {
  /// [T, K] int32. A token whose first id is -1 has none, and its router chooses.
  at::Tensor experts;
  /// [T, K] float32; undefined: weights are those that the logits give these experts.
  at::Tensor weights;
};

/// A term of the loss that is linear in the probabilities p of a router: sum_t token_weights[t]
/// sum_e slopes[e] p[t, e].
struct RouterTerm {
  /// [T] and [E] float32.
  at::Tensor token_weights, slopes;
};

/// Softmax over all experts in float32, the K largest, renormalised to sum 1 if `renormalize`,
/// rounded to logits' dtype.
///
/// With `given` experts, those take the place of the K largest, in their own order, and have the
/// weights that the logits give them, or given ones, through which nothing goes backward.
///
/// Shapes: logits [T, E]. Gradients: for logits, through the chosen probabilities and the softmax,
/// and of `term`, if it is not null, whose value is nowhere in the output: it goes backward with
/// the weights. Throws: ShapeError "bad-expert" for ids that are none, or twice in a row.
/// Source: transformers 5.23, Qwen3_5MoeTopKRouter.
Routing route(const at::Tensor& logits,
              int64_t num_chosen,
              bool renormalize,
              const RouterTerm* term = nullptr,
              const GivenExperts* given = nullptr);

/// The probabilities of all experts, [T, E] float32, without gradients.
at::Tensor router_probabilities(const at::Tensor& logits);

/// One matrix of each expert of a layer: the canonical storage, and each expert's packed form.
///
/// pack() as LinearWeight::pack(): whoever changes the values calls it again.
struct ExpertBank {
  /// [E, O, I], canonical; a leaf when trained.
  at::Tensor weight;
  /// Expert e's [O, I] slice of `weight`.
  std::vector<LinearWeight> experts;
  /// LinearWeight::number
  int64_t number = -1;
  /// Those experts that pack() packs: all, or after keep() some.
  int64_t first_kept = 0, num_kept = 0;

  ExpertBank() = default;
  explicit ExpertBank(at::Tensor canonical);
  /// A bank with its packed forms.
  static ExpertBank packed(at::Tensor canonical);
  void pack();
  /// From now on it has the packed forms of experts [first, first + count) alone, once pack() has
  /// been called; those of others give their memory back.
  void keep(int64_t first, int64_t count);
  std::span<const LinearWeight> kept() const {
    return std::span(experts).subspan(static_cast<size_t>(first_kept),
                                      static_cast<size_t>(num_kept));
  }
  /// As LinearWeight's, of the experts that are kept; what is released is released of all.
  int64_t packed_bytes() const;
  void drop_packed();
  bool can_release() const;
  void release();
  void take(const at::Tensor& values);
  at::Tensor values() const;
};

/// scale B_e A_e beside each matrix of a bank [E, O, I].
struct ExpertLowRank {
  /// [E, R, I] and [E, O, R], float32; packed as ExpertBank::pack() says.
  ExpertBank a, b;
  double scale = 1;
  /// LowRank::name
  uint64_t name = 0;

  void pack() {
    a.pack();
    b.pack();
  }
};

/// An adapter's part in the products of a layer's experts.
struct ExpertTerm {
  /// Beside gate_up and down; null: nothing.
  const ExpertLowRank* gate_up = nullptr;
  const ExpertLowRank* down = nullptr;
  /// [N] int64, ascending: the tokens that have it; undefined: all.
  at::Tensor tokens;
  /// With a key for each token. Each of its experts drops other elements.
  Dropout dropout;
};

/// Ranks that have some of a layer's experts each, and compute with them for the tokens of all:
/// rank r of n has the r-th n-th of them.
///
/// All ranks call experts(), and its backward, at the same time, with as many experts and terms;
/// one that has no tokens calls it with none.
class ExpertRanks {
 public:
  virtual ~ExpertRanks() = default;
  virtual int64_t rank() const = 0;
  virtual int64_t size() const = 0;
  /// Sends `send_counts[r]` bytes of `send` to each rank r and receives `receive_counts[r]` of
  /// each, one behind another. `what` is the same on all ranks.
  virtual void exchange(std::span<const std::byte> send,
                        std::span<const int64_t> send_counts,
                        std::span<std::byte> receive,
                        std::span<const int64_t> receive_counts,
                        const char* what) = 0;
  /// Whether this rank's tokens add to gradients: asked in every forward. If not, their gradients
  /// are zeros.
  virtual bool learns() const = 0;
  /// Takes the gradient that a rank's tokens add to `bank`, the weight of a bank or of an adapter's
  /// A or B: that of this rank's experts alone, [E / n, O, I].
  virtual void take_gradient(const at::Tensor& bank, int64_t source, at::Tensor gradient) = 0;
};

/// sum_k weights[t, k] down_e(silu(gate_e x) * up_e x), e = experts[t, k], where each product has
/// the terms' scale B_e A_e drop(x) added to it. No token has two terms beside the same product.
///
/// Shapes: x [T, D]; gate_up [E, 2F, D] (rows 0..F gate, F..2F up); down [E, D, F] -> [T, D] in x's
/// dtype. Numerics: one permutation sorts the T K pairs by expert (stable), grouped products over
/// it, combine adds a token's K
///   terms in order of k in float32. With packed banks a token's bits do not depend on the others
///   (docs/numerics.md). Terms are added as in adapted_linear, and never made into matrices [O, I].
/// Gradients: for x, weights, gate_up.weight, down.weight, and the terms' A and B. Experts without
/// a token get zeros. With `ranks`, which must live until the backward is over: the same bits, of
/// which those of banks and terms go to ExpertRanks::take_gradient(); a token has at most one term,
/// and of the banks' values this rank's experts alone are read.
at::Tensor experts(const at::Tensor& x,
                   const Routing& routing,
                   const ExpertBank& gate_up,
                   const ExpertBank& down,
                   std::span<const ExpertTerm> terms = {},
                   ExpertRanks* ranks = nullptr);

}  // namespace lockstep::ops
