// Holds trainer and sampler to the same bits: measures how far they are apart, finds the layer that
// differs, and stops the run or warns.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "grpo/experience.h"
#include "grpo/metrics.h"
#include "grpo/options.h"
#include "train/trainer.h"

namespace lockstep::grpo {

/// The log-probabilities that trainer and sampler gave the same tokens.
struct LogprobDifferences {
  /// The largest difference of a token; infinite where one of the two is no number.
  double largest = 0;
  double sum = 0;
  int64_t tokens = 0;
  /// How many tokens differ in a bit.
  int64_t different = 0;

  /// Adds log-probabilities of the same tokens; returns whether they are equal bit by bit.
  bool add(std::span<const float> trainer, std::span<const float> sampler);
};

/// Compares the forward of an optimizer step with the sampler, for the completions that were
/// sampled under the weights as they are now. If what sampling kept stood in for the forward, this
/// compares the final norm and the head alone.
struct FreshDifferences {
  LogprobDifferences logprobs;
  /// The first completion of the step that differs; -1 if none does.
  int64_t first = -1;

  void add(int64_t completion, std::span<const float> trainer, std::span<const float> sampler) {
    if (!logprobs.add(trainer, sampler) && first < 0) first = completion;
  }
};

/// Compares trainer and sampler in every mode of training, and acts on --exact and --on_inexact.
/// Not thread-safe.
class ExactnessCheck {
 public:
  /// Samples completions of the current weights again and keeps what the layers read: that of
  /// `first`, and as many others as memory has room for. Empty where the sampler cannot keep that:
  /// a difference is then said without its layer.
  using SampleAgain = std::function<std::vector<train::Sample>(const train::Sample& first)>;

  struct Options {
    bool exact = true;
    /// RolloutClient::has_trained_weights(). What another sampler says is measured, not held to.
    bool sampler_is_exact = true;
    OnInexact on_inexact = OnInexact::kStop;
  };
  /// `scoring`: how completions are scored. `trainer` must outlive it.
  ExactnessCheck(const train::Trainer& trainer,
                 train::Trainer::ScoreOptions scoring,
                 const Options& options)
      : trainer_(&trainer),
        scoring_(std::move(scoring)),
        is_exact_(options.exact),
        holds_sampler_(options.exact && options.sampler_is_exact),
        stops_(options.exact && options.on_inexact == OnInexact::kStop) {}

  /// Whether a difference stops the run.
  bool stops() const { return stops_; }

  /// Compares `old_logprobs`, as score_old_policy() has set them from a forward of the trainer's
  /// own, of completions that were just sampled.
  /// Throws InternalError "inexact-sampler" at the layer that differs, where it stops().
  void check_scores(std::span<const Experience> scored, const SampleAgain& sample_again);

  /// A step whose gradients the trainer has just computed.
  struct Step {
    std::span<const Experience> completions;
    /// The version of the weights as they are now.
    int64_t weight_version = 0;
    FreshDifferences fresh;
    /// The forward dropped inputs of adapters, as sampling does not: another one is compared.
    bool has_dropout = false;
  };
  /// Compares the step's layers and log-probabilities, and adds their differences to `metrics`.
  /// Throws as check_scores, and as check_recomputed.
  void check_step(const Step& step, const SampleAgain& sample_again, Metrics& metrics);

  /// Compares the layers that the trainer's last gradients() computed again.
  /// If it stops(), throws InternalError at the layer that gave its backward other bits than
  /// before: "inexact-recompute" if they differ from its forward, "inexact-sampler" if from
  /// sampling.
  void check_recomputed(Metrics& metrics) const;

 private:
  const model::ModelWeights& weights() const { return trainer_->weights(); }
  void report(std::string_view code, const std::string& where, const std::string& text) const;
  void say_first(const Step& step, const LogprobDifferences& found);
  void report_layers(const train::LayerComparison& layers) const;
  /// `first` is a completion that differs; `compared` are all those of the forward in which it did,
  /// in its order.
  void find_layer(const LogprobDifferences& found,
                  const train::Sample& first,
                  const std::vector<const Experience*>& compared,
                  const SampleAgain& sample_again);
  FreshDifferences measure(const Step& step) const;

  const train::Trainer* trainer_;
  train::Trainer::ScoreOptions scoring_;
  bool is_exact_, holds_sampler_, stops_;
  /// It has looked for a layer that differs; it has said how the first step compares.
  bool has_searched_ = false, has_said_ = false;
};

}  // namespace lockstep::grpo
