// Log-probabilities of given tokens, and entropies, from hidden states, without the full logits.
// SPDX-License-Identifier: Apache-2.0
//
// Shapes: T rows, D model dim, V vocabulary.
#pragma once

#include <span>
#include <utility>
#include <vector>

#include <ATen/core/Tensor.h>

#include "ops/linear.h"
#include "ops/low_rank.h"

namespace lockstep::ops {

struct TokenLogprobs {
  /// [T] float32, natural logarithm; differentiable.
  at::Tensor logprobs;
  /// [T] float32, of the same distribution; undefined unless asked for; differentiable.
  at::Tensor entropy;
};

/// The head of a model, cut into blocks of the vocabulary, each with a packed form of its own.
///
/// Every log-probability of the program goes through these blocks, in this order: trainer, scorer
/// and sampler.
struct VocabularyHead {
  /// [V, D], canonical; a leaf when trained (the embedding when tied).
  at::Tensor weight;
  /// Rows [i * kVocabularyBlock, ...) of `weight`.
  std::vector<LinearWeight> blocks;

  VocabularyHead() = default;
  /// The blocks stay plain until pack().
  explicit VocabularyHead(at::Tensor canonical);
  /// Builds or rebuilds the packed forms. Call after the weight changed.
  void pack();
  /// As LinearWeight's, of all blocks.
  int64_t packed_bytes() const;
  void drop_packed();
  bool can_release() const;
  void release();
  void take(const at::Tensor& values);
  at::Tensor values() const;
  /// Rows of `weight`, from the panels. Shapes: ids [T] int64 -> [T, D]. Throws: ShapeError
  /// "bad-id". Needs can_release().
  at::Tensor rows(const at::Tensor& ids) const;
};
inline constexpr int64_t kVocabularyBlock = 8192;
inline constexpr int64_t kLogprobRows = 512;

/// scale B A beside a head.
struct HeadLowRank {
  /// [R, D] float32; packed as LinearWeight::pack() says.
  LinearWeight a;
  /// [V, R] float32, in the head's blocks.
  VocabularyHead b;
  double scale = 1;
  /// LowRank::name
  uint64_t name = 0;

  void pack() {
    a.pack();
    b.pack();
  }
};

/// An adapter's part in the logits.
struct HeadTerm {
  const HeadLowRank* pair = nullptr;
  /// [N] int64, ascending: the rows that have it; undefined: all. Two terms have no row in common.
  at::Tensor rows;
  Dropout dropout;
};

/// A head with what adapters add to it: scale B A drop(h), block by block.
struct AdaptedHead {
  const VocabularyHead& head;
  std::vector<HeadTerm> terms;

  AdaptedHead(const VocabularyHead& plain, std::vector<HeadTerm> added = {})
      : head(plain), terms(std::move(added)) {}
};

/// log softmax(h W^T / temperature)[target] for each row.
///
/// Shapes: hidden [T, D]; targets [T] int64.
/// Numerics: logits in the model's dtype, terms added to them as in adapted_linear(), then float32;
/// (max, sum, target logit) per block of the vocabulary, combined in order. A row's bits depend on
/// that row and its term alone.
/// Gradients: for hidden, head.weight, and each term's A and B, by recomputing each block:
/// dlogit = ((onehot - p) dlogprob - p (log p + entropy) dentropy) / temperature. Memory: one block
/// of logits of at most kLogprobRows rows, never [T, V]. Throws: ShapeError; ConfigError for a
/// temperature outside of Range::logit_factor().
TokenLogprobs token_logprobs(const at::Tensor& hidden,
                             const AdaptedHead& head,
                             const at::Tensor& targets,
                             double temperature,
                             bool with_entropy);

/// The full logits of a few rows, for the sampler: [T, V] float32, not divided by a temperature,
/// the very numbers that token_logprobs uses. No gradients.
at::Tensor vocabulary_logits(const at::Tensor& hidden, const AdaptedHead& head);

/// Log-probabilities of `targets` from vocabulary_logits, bit-equal to token_logprobs. Shapes:
/// logits [T, V]; [T] -> [T].
at::Tensor logprobs_of_logits(const at::Tensor& logits,
                              const at::Tensor& targets,
                              double temperature);

/// What turns the logits of a row into log-probabilities, bit-equal to logprobs_of_logits.
struct RowNormalizer {
  float max = 0;
  double log_sum = 0, temperature = 1;
  float logprob(float logit) const {
    return static_cast<float>((double{logit} - max) / temperature - log_sum);
  }
};
/// That of one row of vocabulary_logits, [V]. Throws: ConfigError as logprobs_of_logits.
RowNormalizer normalizer_of_logits(std::span<const float> logits, double temperature);

}  // namespace lockstep::ops
