// Forward and backward over packed micro-batches, walked layer by layer.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include <ATen/core/Tensor.h>

#include "base/options.h"
#include "model/decoder.h"
#include "model/layer_inputs.h"
#include "model/weights.h"
#include "train/layer_comparison.h"
#include "train/plan.h"

namespace lockstep::train {

struct TrainerOptions {
  /// Recompute layers' activations in the backward pass where the memory plan does not let them be
  /// kept.
  bool gradient_checkpointing = true;
  /// Most tokens of a micro-batch. Another value is another plan: equal results within rounding.
  int64_t max_tokens_per_micro_batch = 4096;
  /// Compute a prompt once for all samples of a micro-batch that stand behind one another and begin
  /// with it.
  bool share_prompts = true;

  template <class Visitor>
  void for_each_field(Visitor&& visit) {
    visit("gradient_checkpointing", gradient_checkpointing,
          "Recompute layers' activations in the backward pass, as many as memory demands; false: "
          "none.");
    visit("max_tokens_per_micro_batch", max_tokens_per_micro_batch,
          "Most tokens that are computed together; a longer sample is alone.", Range::at_least(1));
    visit("share_prompts", share_prompts,
          "Compute the prompt of a group's completions once, forward and backward.");
  }
};

/// One sequence and the tokens of it that count.
struct Sample {
  /// Prompt and completion.
  std::vector<int64_t> ids;
  /// One an id: 1 where the token is scored. mask[0] is 0: nothing predicts the first token.
  std::vector<uint8_t> mask;

  /// What the layers read for the first needed_tokens() ids when they were sampled, and its rows;
  /// null: nothing is kept.
  std::shared_ptr<const model::LayerInputs> kept;
  std::vector<int64_t> kept_rows;

  void drop_kept() {
    kept.reset();
    kept_rows = {};
  }
  bool is_kept() const { return kept && std::ssize(kept_rows) >= needed_tokens(); }
  int64_t num_scored() const;
  /// Tokens before the last scored one: the others predict nothing, and are not computed. All of
  /// them if none is scored.
  int64_t needed_tokens() const;
  /// Tokens before the first scored one.
  int64_t prompt_tokens() const;
};

/// Log-probabilities of a sample's scored tokens, in order.
struct SampleScores {
  /// Natural logarithm, after temperature.
  std::vector<float> logprobs;
  /// Of the same distributions; empty unless asked for.
  std::vector<float> entropy;
};

/// The largest optimizer step that a run can have: groups of completions behind one prompt.
struct StepShape {
  int64_t samples = 0, group = 1;
  int64_t prompt_tokens = 0, completion_tokens = 0;
};

/// What a step needs beside weights and optimizer, in bytes.
struct StepMemory {
  /// Sums of gradients, and what the forward keeps for the backward.
  int64_t kept = 0;
  /// About what a layer's forward and backward make for the largest micro-batch.
  int64_t work = 0;
};

/// What a loss does with one sample's log-probabilities: writes d(step's loss)/d(logprob) for each
/// scored token, the step's normaliser included. Called once a sample, in order of samples.
using SampleLoss =
    std::function<void(int64_t sample, const SampleScores& scores, std::span<float> gradient)>;

/// Trainer over the canonical weights: scores samples, and computes an optimizer step's gradients.
///
/// The weights must outlive it; their tensors become leaves that require gradients. Not
/// thread-safe.
class Trainer {
 public:
  Trainer(model::ModelWeights& weights, const TrainerOptions& options);

  struct ScoreOptions {
    double temperature = 1;
    bool with_entropy = false;
    /// --exact false
    bool chunked_delta = false;
    /// Take what samples kept for the forward. The weights must be those that they were sampled
    /// under.
    bool reuse_kept = false;
    /// Told the share of the work that is done, now and then.
    std::function<void(double share)> progress;
  };
  /// Log-probabilities without gradients, in the micro-batches of a step over the same samples.
  std::vector<SampleScores> score(std::span<const Sample> samples,
                                  const ScoreOptions& options) const;

  /// Gradients of the step's loss for each parameter, float32, undefined where none came; in the
  /// order of ModelWeights::parameters(). comparison() is then this step's.
  std::vector<at::Tensor> gradients(std::span<const Sample> samples,
                                    const ScoreOptions& options,
                                    const SampleLoss& loss);

  /// Each layer that the last call of gradients() computed again for its backward, against what it
  /// gave before: to the sampler where what samples kept was taken for the forward (then the
  /// embedding is compared too, and every row that sampling computed for a prompt that several
  /// groups have), else to the forward of the step. A layer that keeps what its
  /// forward made computes nothing again, and its forward ends in the log-probabilities that the
  /// loss was called with.
  const LayerComparison& comparison() const { return comparison_; }
  /// What each layer gives for what it read while these samples were sampled, against what the next
  /// one read, in the micro-batches of a step over the same samples. `with_gradients`: as a forward
  /// that a backward follows computes it; else as one that is only scored. Each sample has what was
  /// kept for it; the weights must be those that they were sampled under.
  LayerComparison compare_layers(std::span<const Sample> samples, bool with_gradients) const;

  /// The last `count` layers keep what their forward made, the others recompute it in the backward;
  /// at first none with TrainerOptions::gradient_checkpointing, and all without. No bit of a
  /// gradient depends on it.
  void keep_layers(int64_t count);
  int64_t kept_layers() const { return kept_layers_; }
  int64_t num_layers() const { return decoder_.num_layers(); }
  /// What gradients() needs at most, the layers kept as they are now: for the memory plan.
  StepMemory step_memory(const StepShape& shape) const;

  const model::ModelWeights& weights() const { return *weights_; }

 private:
  struct Packed;
  struct Pass;
  struct Step;
  Packed pack(std::span<const Sample> samples) const;
  std::vector<MicroBatch> plan(std::span<const Sample> samples) const;
  WaveCosts wave_costs() const;
  Pass forward(std::span<const Sample> samples, const ScoreOptions& options) const;
  void backward_head(std::span<const Sample> samples, int64_t first, Pass& pass, Step& step) const;
  void backward_layer(int64_t index, Pass& pass, Step& step);
  void compare_embedding(const Packed& packed,
                         const at::Tensor& read,
                         LayerComparison& comparison) const;
  void compare_twins(const Packed& packed,
                     int64_t layer,
                     const at::Tensor& now,
                     LayerComparison& comparison) const;

  model::ModelWeights* weights_;
  model::Decoder decoder_;
  TrainerOptions options_;
  /// Parameter indices of each layer.
  std::vector<std::vector<size_t>> layer_parameters_;
  size_t embedding_ = 0, final_norm_ = 0, head_ = 0;
  int64_t kept_layers_ = 0;
  LayerComparison comparison_;
};

}  // namespace lockstep::train
