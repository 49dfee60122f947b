// A completion that is ready to learn from, and how a buffer of them is stored in a checkpoint.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <vector>

#include "io/safetensors.h"  // NamedTensor
#include "train/trainer.h"   // Sample

namespace lockstep::grpo {

/// A completion with its prompt, its log-probabilities and its advantage.
struct Experience {
  /// Prompt and completion; the mask is 1 on the completion.
  train::Sample sample;
  /// One for each token of the completion. `old_logprobs` may be empty: the policy had changed
  /// when the completion arrived, so that only the sampler knows what it said then. `ref_logprobs`
  /// may be empty, too, and `processed_logprobs`, which the tokens were drawn with, where the
  /// sampler cuts nothing off the distribution (top-p and the like).
  std::vector<float> sampler_logprobs, old_logprobs, ref_logprobs, processed_logprobs;
  /// One for each token: 0 where the entropy mask leaves it out of the loss. Empty: none is.
  std::vector<uint8_t> learned;
  double advantage = 0;
  /// One for each token where they differ; empty: all have `advantage`.
  std::vector<double> token_advantages;
  /// The number of its prompt's group in the generation batch.
  int64_t group = 0;
  /// Its number among all completions that the run trains on; -1: it is none of them, or the run
  /// was resumed since. Not kept in checkpoints.
  int64_t number = -1;
  /// Whether it ended at the length limit.
  bool is_truncated = false;
  /// How many optimizer steps had been done when it was sampled.
  int64_t weight_version = 0;
  /// Whether `old_logprobs` are of later weights than those that sampled it: then they are none to
  /// hold against the sampler's.
  bool is_rescored = false;
};

/// What the policy that sampled a completion said about its tokens: `old_logprobs`, else the
/// sampler's own. Throws InternalError "no-old-logprobs" if neither is there for each token: a
/// ratio against nothing would be 1, whatever the policy has become.
std::span<const float> old_policy(const Experience& experience);

/// What the sampler drew a completion's tokens with.
inline std::span<const float> drawn_logprobs(const Experience& experience) {
  return experience.processed_logprobs.empty() ? experience.sampler_logprobs
                                               : experience.processed_logprobs;
}

/// The tokens of prompts and completions together.
int64_t tokens_of(std::span<const Experience> experiences);

/// How a completion ended, as rewards and logs call it: "length" or "stop".
inline const char* finish_reason(const Experience& experience) {
  return experience.is_truncated ? "length" : "stop";
}

/// The buffer as tensors, with lists end to end and their lengths; JSON would take a hundred bytes
/// for each token. Shapes, for E experiences: ids, mask [sum of lengths]; sampler, old, ref,
/// processed, learned, token_advantage [sum of theirs]; lengths [E, 7]; advantage, truncated,
/// version, group, rescored [E]; and if any has experts (Sample::routed): routed_tokens [E],
/// routed [sum of these, M, K], routed_weights of the same shape or empty. `prefix` precedes the
/// names, so that a file may hold two buffers.
std::vector<io::NamedTensor> experience_tensors(const std::vector<Experience>& buffer,
                                                const std::string& prefix = "");

/// Reads what experience_tensors wrote. Throws FormatError "bad-resume" if the tensors do not
/// fit together.
std::vector<Experience> read_experiences(const std::filesystem::path& file,
                                         const std::string& prefix = "");

}  // namespace lockstep::grpo
