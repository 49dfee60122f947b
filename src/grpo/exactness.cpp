// SPDX-License-Identifier: Apache-2.0
#include "grpo/exactness.h"

#include <algorithm>
#include <bit>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "base/check.h"
#include "base/log.h"

namespace lockstep::grpo {
namespace {

/// What the checkpoint calls the first parameter whose id begins so.
std::string checkpoint_name(const model::ModelWeights& weights, const std::string& id) {
  for (const model::Parameter& parameter : weights.parameters())
    if (parameter.id.starts_with(id)) return parameter.pieces.front().name;
  return id;
}

/// "model.layers.3"
std::string layer_name(const model::ModelWeights& weights, int64_t layer) {
  if (layer == train::kEmbedding) return checkpoint_name(weights, "embedding");
  const std::string id = fmt::format("layers.{}", layer), name = checkpoint_name(weights, id + ".");
  const size_t at = name.find(id + ".");
  return at == std::string::npos ? id : name.substr(0, at + id.size());
}

/// "layer 3 (attention)"
std::string layer_text(const model::ModelWeights& weights, int64_t layer) {
  if (layer == train::kEmbedding) return "the embedding";
  const auto mixer = weights.config().mixers[static_cast<size_t>(layer)];
  return fmt::format("layer {} ({})", layer,
                     mixer == model::MixerKind::kAttention ? "attention" : "gated delta rule");
}

/// What all samples kept lies in one place, from which their layers can be compared.
bool are_kept_together(const std::vector<train::Sample>& samples) {
  return std::all_of(samples.begin(), samples.end(), [&](const train::Sample& sample) {
    return sample.is_kept() && sample.kept == samples.front().kept;
  });
}

std::string logprobs_text(const LogprobDifferences& found) {
  return fmt::format("log-probabilities of {} of {} tokens, by up to {:.3g}", found.different,
                     found.tokens, found.largest);
}

void add_to(Metrics& metrics, const LogprobDifferences& found) {
  if (!found.tokens) return;
  metrics.add_max("train/sampler_logprob_max_diff", found.largest);
  metrics.add("train/sampler_logprob_mean_diff", found.sum / static_cast<double>(found.tokens));
}

}  // namespace

bool LogprobDifferences::add(std::span<const float> trainer, std::span<const float> sampler) {
  LOCKSTEP_CHECK(trainer.size() == sampler.size(), "{} log-probabilities of {} tokens",
                 trainer.size(), sampler.size());
  const int64_t before = different;
  for (size_t t = 0; t < sampler.size(); ++t) {
    const double difference = train::difference_of(trainer[t], sampler[t]);
    largest = std::max(largest, difference);
    sum += difference;
    different += std::bit_cast<uint32_t>(trainer[t]) != std::bit_cast<uint32_t>(sampler[t]);
  }
  tokens += std::ssize(sampler);
  return different == before;
}

void ExactnessCheck::report(std::string_view code,
                            const std::string& where,
                            const std::string& text) const {
  if (stops_)
    fail<InternalError>(code, where,
                        "expected {} (lockstep doctor --model probes this machine's products; "
                        "--on_inexact warn trains on and logs the difference)",
                        text);
  log_warning("{}: {}: expected {}", code, where, text);
}

void ExactnessCheck::report_layers(const train::LayerComparison& layers) const {
  const auto different = layers.different();
  const train::LayerDifference& lowest = different.front();
  std::vector<int64_t> others;
  for (size_t i = 1; i < different.size(); ++i) others.push_back(different[i].layer);
  report(lowest.is_sampler ? "inexact-sampler" : "inexact-recompute",
         layer_name(weights(), lowest.layer),
         fmt::format("{} to give {}, got other bits in {} token{}, by up to {:.3g}{}",
                     layer_text(weights(), lowest.layer),
                     lowest.is_sampler ? "training what it gave sampling"
                                       : "its backward pass what it gave the forward pass",
                     lowest.tokens, lowest.tokens == 1 ? "" : "s", lowest.largest,
                     others.empty() ? "" : fmt::format("; then in {}", fmt::join(others, ", "))));
}

/// Where training and sampling end in different log-probabilities: which layer gives others for
/// what it read while sampling?
void ExactnessCheck::find_layer(const FreshDifferences& found,
                                std::span<const Experience> completions,
                                const SampleAgain& sample_again) const {
  std::vector<train::Sample> samples;
  for (const Experience& experience : completions) samples.push_back(experience.sample);
  const train::Sample first = samples[static_cast<size_t>(found.first)];
  if (!are_kept_together(samples)) {
    log_warning("exactness: training and sampling give other {}; sampling again to find the layer",
                logprobs_text(found.logprobs));
    samples = sample_again(first);
  }
  const train::LayerComparison layers = trainer_->compare_layers(samples);
  if (!layers.is_exact()) return report_layers(layers);
  const bool is_repeated = std::any_of(samples.begin(), samples.end(),
                                       [&](const auto& sample) { return sample.ids == first.ids; });
  if (!is_repeated)
    return report("inexact-sampler", "sampler",
                  fmt::format("the same tokens from the same seed and weights, got others when it "
                              "sampled again, and other {}",
                              logprobs_text(found.logprobs)));
  // Tied or not: what transformers calls it.
  report("inexact-sampler", "lm_head",
         fmt::format("the final norm and the head to give training what they gave sampling, got "
                     "other {}",
                     logprobs_text(found.logprobs)));
}

void ExactnessCheck::check_scores(std::span<const Experience> scored,
                                  const SampleAgain& sample_again) const {
  if (!is_exact_) return;
  FreshDifferences found;
  for (const Experience& experience : scored)
    found.add(&experience - scored.data(), experience.old_logprobs, experience.sampler_logprobs);
  if (found.first >= 0) find_layer(found, scored, sample_again);
}

void ExactnessCheck::check_recomputed(Metrics& metrics) const {
  const train::LayerComparison& layers = trainer_->comparison();
  if (layers.compared()) metrics.add_max("train/recomputed_layer_max_diff", layers.largest());
  if (is_exact_ && !layers.is_exact()) report_layers(layers);
}

/// The differences of fresh completions by forwards of the trainer's own.
LogprobDifferences ExactnessCheck::measure(const Step& step) const {
  std::vector<const Experience*> left;
  std::vector<train::Sample> samples;
  LogprobDifferences found;
  for (const Experience& experience : step.completions) {
    if (experience.weight_version != step.weight_version) continue;
    if (!experience.old_logprobs.empty()) {
      found.add(experience.old_logprobs, experience.sampler_logprobs);
      continue;
    }
    left.push_back(&experience);
    samples.push_back(experience.sample);
  }
  auto scoring = step.scoring;
  scoring.reuse_kept = scoring.with_entropy = false;
  const auto scores = trainer_->score(samples, scoring);
  for (size_t i = 0; i < left.size(); ++i) found.add(scores[i].logprobs, left[i]->sampler_logprobs);
  return found;
}

void ExactnessCheck::check_step(const Step& step,
                                const SampleAgain& sample_again,
                                Metrics& metrics) const {
  check_recomputed(metrics);
  LogprobDifferences all = step.fresh.logprobs;
  if (is_exact_ && !trainer_->comparison().is_exact()) {
    // What began from sampling's own hidden states looks closer than it is.
    all = measure(step);
  } else if (is_exact_ && step.fresh.first >= 0) {
    std::vector<Experience> fresh;
    FreshDifferences found = step.fresh;
    for (size_t i = 0; i < step.completions.size(); ++i) {
      const Experience& experience = step.completions[i];
      if (static_cast<int64_t>(i) == step.fresh.first) found.first = std::ssize(fresh);
      if (experience.weight_version == step.weight_version) fresh.push_back(experience);
    }
    find_layer(found, fresh, sample_again);
  }
  // Completions of earlier weights are known by what was measured when they were sampled, which a
  // run that warned may have left to one that stops.
  FreshDifferences earlier;
  for (const Experience& experience : step.completions) {
    if (experience.weight_version == step.weight_version) continue;
    all.add(experience.old_logprobs, experience.sampler_logprobs);
    earlier.add(0, experience.old_logprobs, experience.sampler_logprobs);
  }
  if (stops_ && earlier.first >= 0)
    report("inexact-sampler", "sampler",
           fmt::format("training and sampling to agree before this run began, got other {}",
                       logprobs_text(earlier.logprobs)));
  add_to(metrics, all);
}

}  // namespace lockstep::grpo
