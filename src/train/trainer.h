// Forward and backward over packed micro-batches, layer by layer.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include <ATen/core/Tensor.h>

#include "base/on_resume.h"
#include "base/options.h"
#include "model/adapter.h"
#include "model/decoder.h"
#include "model/layer_inputs.h"
#include "model/weights.h"
#include "train/gathered_layers.h"
#include "train/layer_comparison.h"
#include "train/plan.h"
#include "train/shards.h"

namespace lockstep::train {

struct TrainerOptions {
  /// Whether activations of layers that the memory plan has no room for are recomputed in the
  /// backward pass.
  bool gradient_checkpointing = true;
  /// How many tokens a micro-batch has at most. Another value makes another plan, whose results are
  /// equal within rounding.
  int64_t max_tokens_per_micro_batch = 4096;
  /// Whether a prompt is computed once for all neighbouring samples of a micro-batch that begin
  /// with it.
  bool share_prompts = true;

  template <class Visitor>
  void for_each_field(Visitor&& visit) {
    visit(
        "gradient_checkpointing", gradient_checkpointing,
        "Recomputes layers' activations in the backward pass, in as many layers as memory demands; "
        "false: in none.",
        OnResume::kSaid);
    visit("max_tokens_per_micro_batch", max_tokens_per_micro_batch,
          "How many tokens are computed together at most; a longer sample is computed alone.",
          Range::at_least(1), OnResume::kSaid);
    visit("share_prompts", share_prompts,
          "Computes the prompt of a group's completions once, forward and backward.",
          OnResume::kSaid);
  }
};

/// One sequence, and which of its tokens are scored.
struct Sample {
  /// The ids of prompt and completion.
  std::vector<int64_t> ids;
  /// One an id: 1 where the token is scored. mask[0] is 0: nothing predicts the first token.
  std::vector<uint8_t> mask;
  /// Which of the trainer's adapters is added to the model for it, if the trainer has any; -1:
  /// none.
  int64_t adapter = 0;

  /// What the layers read for the first needed_tokens() ids when they were sampled, and its rows;
  /// null if nothing is kept.
  std::shared_ptr<const model::LayerInputs> kept;
  std::vector<int64_t> kept_rows;

  /// The experts that at least its first needed_tokens() ids have wherever it is scored or trained
  /// on; undefined: its routers choose.
  model::ExpertChoices routed;

  void drop_kept() {
    kept.reset();
    kept_rows = {};
  }
  bool is_kept() const { return kept && std::ssize(kept_rows) >= needed_tokens(); }
  int64_t num_scored() const;
  /// How many tokens precede the last scored one; the others predict nothing and are not computed.
  /// All tokens if none is scored.
  int64_t needed_tokens() const;
  /// How many tokens precede the first scored one.
  int64_t prompt_tokens() const;
};

/// The log-probabilities of a sample's scored tokens, in order.
struct SampleScores {
  /// Natural logarithm, after temperature.
  std::vector<float> logprobs;
  /// The entropies of the same distributions; empty unless asked for.
  std::vector<float> entropy;
  /// The experts of the sample's first needed_tokens() ids; undefined unless asked for.
  model::ExpertChoices routed = {};
};

/// The largest optimizer step that a run can have, as groups of completions of one prompt.
struct StepShape {
  int64_t samples = 0, group = 1;
  int64_t prompt_tokens = 0, completion_tokens = 0;
};

/// How much memory a step needs besides weights and optimizer, in bytes.
struct StepMemory {
  /// The sums of gradients, and what the forward keeps for the backward.
  int64_t kept = 0;
  /// About what the forward and backward of one layer allocate for the largest micro-batch.
  int64_t work = 0;
};

/// What a step's dropout is drawn by: another step of a run drops other elements.
struct DropoutStep {
  uint64_t seed = 0;
  int64_t step = 0;
};

/// The derivatives of a step's loss by what one sample's scores say, one a scored token.
struct SampleGradient {
  std::span<float> logprobs;
  /// Empty unless ScoreOptions::with_entropy_gradient.
  std::span<float> entropy;
};

/// Computes a loss from one sample's scores: writes its derivatives, including the step's
/// normaliser; they are 0 at first. Called once for each sample that this rank computes, in their
/// order; what is to be known of all samples follows from Trainer::scores().
using SampleLoss =
    std::function<void(int64_t sample, const SampleScores& scores, SampleGradient gradient)>;

/// How often the experts of Sample::routed were other ones than those that the routers would have
/// chosen, over tokens and layers; a shared prompt's tokens count once for each of its samples.
struct ReplayCounts {
  double changed = 0, choices = 0;
};

class DropoutKeys;
class RankWave;

/// Scores samples under the canonical weights, and computes the gradients of an optimizer step.
///
/// The weights must outlive it; those that are trained (model::Parameter) become leaves that
/// require gradients, so what is trained is settled before. Not thread-safe.
///
/// Its ranks have the same weights and are asked for the same, at the same time, of the same
/// samples. Each computes the micro-batches of its own slots, and all of them return the same bits,
/// which are those of one rank alone; of gradients each returns its own elements.
class Trainer {
 public:
  /// With adapters, which must outlive it too, scores and gradients are those of the model with
  /// each sample's adapter. Throws ConfigError "bad-ranks" unless the number of ranks divides that
  /// of slots.
  Trainer(model::ModelWeights& weights,
          const TrainerOptions& options,
          std::vector<model::Adapter*> adapters = {},
          const Shards& shards = {parallel::alone(), Sharding::kNone});

  struct ScoreOptions {
    double temperature = 1;
    bool with_entropy = false;
    /// Whether the loss has derivatives by the entropies, too.
    bool with_entropy_gradient = false;
    /// Whether long sequences go through the chunked delta rule, which is equal within rounding
    /// (--exact false).
    bool chunked_delta = false;
    /// Whether what samples kept stands in for the forward. The weights must be those under which
    /// they were sampled.
    bool reuse_kept = false;
    /// Whether score() returns the experts that it has computed with, and their weights, too: then
    /// what samples kept stands in for nothing, since it says of no experts.
    bool record_experts = false, record_weights = false;
    /// [E] float32: the derivative of the loss by each expert's probability at each token of each
    /// layer, which gradients() takes with it (model::RouterWatch); undefined: none.
    at::Tensor router_slopes;
    /// Whether gradients are computed with the adapters' dropout; scores see everything. Then what
    /// samples kept stands in for nothing.
    std::optional<DropoutStep> dropout;
    /// Is told now and then which share of the work is done.
    std::function<void(double share)> progress;
  };
  /// Computes log-probabilities without gradients, in the micro-batches of a step over the same
  /// samples.
  std::vector<SampleScores> score(std::span<const Sample> samples,
                                  const ScoreOptions& options) const;

  /// How the experts are used for the tokens that a step over these samples computes; each sample
  /// counts its prompt.
  model::RouterCounts router_counts(std::span<const Sample> samples,
                                    const ScoreOptions& options) const;

  /// Computes the gradients of the step's loss, float32, in the order of parameters(): the elements
  /// that are this rank's, as a list unless they are all. One that is zero may be undefined, and
  /// one that is not trained is. Of a parameter of which a piece is trained, the others have
  /// gradients, too. comparison() is that of this step afterwards.
  std::vector<at::Tensor> gradients(std::span<const Sample> samples,
                                    const ScoreOptions& options,
                                    const SampleLoss& loss);

  /// What the last call of gradients() computed of each sample.
  const std::vector<SampleScores>& scores() const { return scores_; }
  /// Each layer that the last call of gradients() computed again for its backward, against what it
  /// gave before: to the sampler where what samples kept was taken for the forward (then the
  /// embedding is compared too, and every row that sampling computed for a prompt that several
  /// groups have), else to the forward of the step. A layer that keeps what its
  /// forward made computes nothing again, and its forward ends in the log-probabilities that the
  /// loss was called with.
  const LayerComparison& comparison() const { return comparison_; }
  /// What the last call of gradients() has replayed.
  const ReplayCounts& replayed() const { return replayed_; }
  /// What each layer gives for what it read while these samples were sampled, against what the next
  /// one read, in the micro-batches of a step over the same samples. `with_gradients`: as a forward
  /// that a backward follows computes it; else as one that is only scored. Each sample has what was
  /// kept for it; the weights must be those that they were sampled under.
  LayerComparison compare_layers(std::span<const Sample> samples, bool with_gradients) const;

  /// Makes the last `count` layers keep what their forward made; the others recompute it in the
  /// backward. At first no layer keeps it with TrainerOptions::gradient_checkpointing, and all
  /// without it. No bit of a gradient depends on this.
  void keep_layers(int64_t count);
  int64_t kept_layers() const { return kept_layers_; }
  int64_t num_layers() const { return decoder_.num_layers(); }
  /// How much memory gradients() needs at most with the layers that keep activations now, for the
  /// memory plan.
  StepMemory step_memory(const StepShape& shape) const;

  const model::ModelWeights& weights() const { return *weights_; }
  /// Where ranks share weights out: whole ones for others to read, until scores or gradients are
  /// computed next.
  GatheredLayers& layers() const { return *layers_; }
  /// Whether any adapter has a dropout.
  bool has_dropout() const;
  /// Those of the model, and behind them those of the adapters.
  const std::vector<model::Parameter*>& parameters() const { return parameters_; }

 private:
  struct Packed;
  struct Pass;
  struct Step;
  Packed pack(std::span<const Sample> samples,
              const DropoutKeys* dropout = nullptr,
              int64_t first = 0) const;
  /// By rank: the micro-batches that it computes.
  using RankPlans = std::vector<std::vector<MicroBatch>>;
  RankPlans plan_of_ranks(std::span<const Sample> samples) const;
  const std::vector<MicroBatch>& own_of(const RankPlans& plans) const {
    return plans[static_cast<size_t>(ranks().rank())];
  }
  std::vector<std::vector<size_t>> wave_ends(const RankPlans& plans) const;
  template <class Visit>
  void for_each_run(const RankPlans& plans, Visit&& visit) const;
  bool reuses_kept(std::span<const Sample> samples,
                   const RankPlans& plans,
                   const ScoreOptions& options) const;
  std::vector<at::Tensor> last_hidden(const std::vector<Packed>& batches,
                                      size_t count,
                                      bool reuse_kept) const;
  at::Tensor no_tokens() const;
  parallel::Group& ranks() const { return shards_.ranks(); }
  WaveCosts wave_costs() const;
  Pass begin_pass(std::span<const Sample> samples, const MicroBatch& cut, const Step& step) const;
  Pass idle_pass(const Step& step) const;
  std::vector<Pass> begin_passes(std::span<const Sample> samples,
                                 const RankWave& cuts,
                                 const Step& step) const;
  void agree_with_ranks(Step& step);
  void finish(const std::vector<size_t>& indices,
              Step& step,
              std::vector<at::Tensor>& gradients) const;
  at::Tensor layer_of(int64_t index, const at::Tensor& input, const Pass& pass) const;
  void forward(std::vector<Pass>& passes) const;
  void backward_head(Pass& pass, Step& step) const;
  void learn(const std::vector<size_t>& indices,
             const std::vector<at::Tensor>& outputs,
             const std::vector<at::Tensor>& grad_outputs,
             const at::Tensor& input,
             Pass& pass,
             Step& step) const;
  void backward_layer(int64_t index, Pass& pass, Step& step);
  void backward_embedding(const Pass& pass, Step& step) const;
  void add_embedding(Step& step, at::Tensor& gradient) const;
  const model::Parameter& parameter(size_t index) const { return *parameters_[index]; }
  void compare_embedding(const Packed& packed,
                         const at::Tensor& read,
                         LayerComparison& comparison) const;
  void compare_twins(const Packed& packed,
                     int64_t layer,
                     const at::Tensor& now,
                     LayerComparison& comparison) const;

  model::ModelWeights* weights_;
  std::vector<model::Adapter*> adapters_;
  Shards shards_;
  std::vector<model::Parameter*> parameters_;
  model::Decoder decoder_;
  /// Those that share out the experts; null: every rank has all. Then ranks go through each layer
  /// equally often, some of them without tokens.
  std::shared_ptr<model::ExpertRanks> experts_;
  std::unique_ptr<GatheredLayers> layers_;
  TrainerOptions options_;
  /// The indices of each layer's trained parameters.
  std::vector<std::vector<size_t>> layer_parameters_;
  /// Those of all parameters outside of the layers.
  std::vector<size_t> outer_parameters_;
  size_t embedding_ = 0, final_norm_ = 0, head_ = 0;
  /// Those of adapters beside embedding and head.
  std::vector<size_t> embedding_pairs_, head_pairs_;
  /// The lowest layer through which a backward goes.
  int64_t lowest_layer_ = 0;
  int64_t kept_layers_ = 0;
  std::vector<SampleScores> scores_;
  LayerComparison comparison_;
  ReplayCounts replayed_;
};

}  // namespace lockstep::train
