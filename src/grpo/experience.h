// A completion, ready to learn from, and how a buffer of them rests in a checkpoint.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <vector>

#include "io/safetensors.h"  // NamedTensor
#include "train/trainer.h"   // Sample

namespace lockstep::grpo {

struct Experience {
  /// Prompt + completion; the mask is 1 on the completion.
  train::Sample sample;
  std::vector<float> sampler_logprobs, old_logprobs,
      /// One a completion token; the last two may be empty.
      ref_logprobs;
  double advantage = 0;
  /// It ended at the length limit.
  bool is_truncated = false;
  /// Optimizer steps done when it was sampled.
  int64_t weight_version = 0;
};

/// "length" or "stop", as rewards and logs call how a completion ended.
inline const char* finish_reason(const Experience& experience) {
  return experience.is_truncated ? "length" : "stop";
}

/// The buffer as tensors, ragged lists end to end with their lengths: a JSON of it would take a
/// hundred bytes a token. Shapes, for E experiences: ids, mask [sum of lengths]; sampler, old, ref
/// [sum of theirs]; lengths [E, 4]; advantage, truncated, version [E].
std::vector<io::NamedTensor> experience_tensors(const std::vector<Experience>& buffer);

/// Reads what experience_tensors wrote. Throws FormatError "bad-resume" where the tensors do not
/// fit together.
std::vector<Experience> read_experiences(const std::filesystem::path& file);

}  // namespace lockstep::grpo
