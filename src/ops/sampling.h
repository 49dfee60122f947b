// Drawing a token from a row of logits. Plain host memory: no libtorch in this header.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

namespace lockstep::ops {

/// How a distribution is narrowed before a token is drawn. The order is the field's: biases, the
/// penalties (repetition, frequency, presence), temperature, top-k, top-p, min-p (transformers'
/// logits processors; vLLM's sampler).
struct SamplingParameters {
  /// Divides the logits; 0 is greedy, all others lie in Range::logit_factor().
  double temperature = 1.0;
  /// Keep the k most likely tokens; <= 0: all.
  int64_t top_k = -1;
  /// Keep the smallest set with at least this probability; 1: all.
  double top_p = 1.0;
  /// Drop tokens below min_p times the largest probability; 0: none.
  double min_p = 0.0;
  /// Divides positive logits of tokens already seen, multiplies negative ones; 1: off. In
  /// Range::logit_factor().
  double repetition_penalty = 1.0;
  /// Subtracted from the logit of each token of the completion so far, once for each time that it
  /// stands there; 0: off. As in OpenAI's API and vLLM, the prompt does not count.
  double frequency_penalty = 0;
  /// The same, once for each token that stands there at all.
  double presence_penalty = 0;
  /// Ids and what is added to their logits.
  std::vector<std::pair<int64_t, float>> logit_bias;

  /// Whether a token may be drawn from another distribution than that of the logits by their
  /// temperature alone.
  bool narrows() const { return top_k > 0 || top_p < 1 || min_p > 0 || changes_logits(); }
  /// Whether logits change before the temperature.
  bool changes_logits() const {
    return repetition_penalty != 1 || frequency_penalty != 0 || presence_penalty != 0 ||
           !logit_bias.empty();
  }
};

/// The tokens before the one that is drawn.
struct TokenHistory {
  /// Prompt and completion; read only where SamplingParameters::changes_logits().
  std::span<const int64_t> tokens;
  /// How many of them are the prompt.
  int64_t num_prompt = 0;
};

/// A token that was drawn.
struct DrawnToken {
  int64_t id = 0;
  /// Natural logarithm of its probability in the narrowed distribution, which it was drawn from; 0
  /// for greedy sampling.
  double logprob = 0;
};

/// Draws one token by inverting the cumulative distribution in order of ids at `uniform` in [0,
/// 1).
///
/// `logits` is one row, not yet divided by temperature. Tokens of `banned` are not drawn; ids that
/// the row does not have are none of it. Greedy: the largest logit, ties to the lower id.
/// Numerics: float32 logits, float64 sums: a run of 1,024 ids in as many lanes as a vector has, the
/// runs in their order, and the ids of the run that is drawn from one by one. A function of its
/// arguments and the processor's vectors. Threads: safe. Allocates only with top_k, top_p, what
/// changes logits, or banned tokens. Throws InternalError "non-finite-logits".
DrawnToken draw_token(std::span<const float> logits,
                      const SamplingParameters& parameters,
                      const TokenHistory& history,
                      double uniform,
                      std::span<const int64_t> banned = {});

/// Its id alone.
inline int64_t sample_token(std::span<const float> logits,
                            const SamplingParameters& parameters,
                            const TokenHistory& history,
                            double uniform,
                            std::span<const int64_t> banned = {}) {
  return draw_token(logits, parameters, history, uniform, banned).id;
}

}  // namespace lockstep::ops
