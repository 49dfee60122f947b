// SPDX-License-Identifier: Apache-2.0
#include "grpo/exactness.h"

#include <algorithm>
#include <bit>
#include <utility>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "base/check.h"
#include "base/log.h"
#include "grpo/policy_scores.h"

namespace lockstep::grpo {
namespace {

/// The checkpoint's name of the first parameter whose id begins with `prefix`.
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

/// A completion, and a sample of the same ids that kept what the layers read for it.
struct Repeated {
  const Experience* completion;
  train::Sample sample;
};

std::vector<train::Sample> samples_of(const std::vector<const Experience*>& completions) {
  std::vector<train::Sample> samples;
  for (const Experience* completion : completions) samples.push_back(completion->sample);
  return samples;
}

/// The completions that `samples` has too, in their own order: that of the micro-batches in which
/// they differed.
std::vector<Repeated> repeated(const std::vector<const Experience*>& completions,
                               std::vector<train::Sample> samples) {
  std::vector<Repeated> list;
  for (const Experience* completion : completions) {
    const auto same = std::find_if(samples.begin(), samples.end(), [&](const auto& sample) {
      return sample.ids == completion->sample.ids;
    });
    if (same == samples.end()) continue;
    list.push_back({completion, std::move(*same)});
    samples.erase(same);
  }
  return list;
}

/// What all of them kept lies in one place, from which their layers can be compared.
bool are_kept_together(const std::vector<Repeated>& list) {
  return std::all_of(list.begin(), list.end(), [&](const Repeated& one) {
    return one.sample.is_kept() && one.sample.kept == list.front().sample.kept;
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
void ExactnessCheck::find_layer(const LogprobDifferences& found,
                                const train::Sample& first,
                                const std::vector<const Experience*>& compared,
                                const SampleAgain& sample_again) {
  if (!sample_again)
    return report("inexact-sampler", "sampler",
                  fmt::format("training to end in the log-probabilities of the server's sampling, "
                              "got other {} (is it the same processor and program? --rollout_mode "
                              "colocate finds the layer)",
                              logprobs_text(found)));
  // Only a run that warns meets a second one, and sampling again takes as long as sampling.
  if (std::exchange(has_searched_, true))
    return report("inexact-sampler", "sampler",
                  fmt::format("training to end in the log-probabilities of sampling, got other {}",
                              logprobs_text(found)));
  std::vector<Repeated> again = repeated(compared, samples_of(compared));
  if (!are_kept_together(again)) {
    log_warning("exactness: training and sampling give other {}; sampling again to find the layer",
                logprobs_text(found));
    again = repeated(compared, sample_again(first));
  }
  if (std::none_of(again.begin(), again.end(),
                   [&](const Repeated& one) { return one.sample.ids == first.ids; }))
    return report("inexact-sampler", "sampler",
                  fmt::format("the same tokens from the same seed and weights, got others when it "
                              "sampled again, and other {}",
                              logprobs_text(found)));
  std::vector<train::Sample> samples;
  for (const Repeated& one : again) samples.push_back(one.sample);
  for (const bool with_gradients : {false, true}) {
    const train::LayerComparison layers = trainer_->compare_layers(samples, with_gradients);
    if (!layers.is_exact()) return report_layers(layers);
  }
  auto scoring = scoring_;
  scoring.reuse_kept = true;
  const auto scores = trainer_->score(samples, scoring);
  LogprobDifferences at_head;
  for (size_t i = 0; i < again.size(); ++i)
    at_head.add(scores[i].logprobs, again[i].completion->sampler_logprobs);
  if (at_head.different)
    // Tied or not: what transformers calls it.
    return report("inexact-sampler", "lm_head",
                  fmt::format("the final norm and the head to give training what they gave "
                              "sampling, got other {}",
                              logprobs_text(at_head)));
  report("inexact-sampler", "model",
         fmt::format("training to end in the log-probabilities of sampling, got other {}, though "
                     "each layer and the head give the same when they are computed alone",
                     logprobs_text(found)));
}

void ExactnessCheck::check_scores(std::span<const Experience> scored,
                                  const SampleAgain& sample_again) {
  if (!holds_sampler_) return;
  FreshDifferences found;
  for (const Experience& experience : scored)
    found.add(&experience - scored.data(), experience.old_logprobs, experience.sampler_logprobs);
  if (found.first < 0) return;
  find_layer(found.logprobs, scored[static_cast<size_t>(found.first)].sample, by_prompt(scored),
             sample_again);
}

void ExactnessCheck::check_recomputed(Metrics& metrics) const {
  const train::LayerComparison& layers = trainer_->comparison();
  if (layers.compared()) metrics.add_max("train/recomputed_layer_max_diff", layers.largest());
  if (is_exact_ && !layers.is_exact()) report_layers(layers);
}

/// The differences of completions of the current weights, by forwards of the trainer's own.
FreshDifferences ExactnessCheck::measure(const Step& step) const {
  std::vector<int64_t> left;
  std::vector<train::Sample> samples;
  FreshDifferences found;
  for (const Experience& experience : step.completions) {
    const int64_t number = &experience - step.completions.data();
    if (experience.weight_version != step.weight_version) continue;
    if (!experience.old_logprobs.empty()) {
      found.add(number, experience.old_logprobs, experience.sampler_logprobs);
      continue;
    }
    left.push_back(number);
    samples.push_back(experience.sample);
  }
  auto scoring = scoring_;
  scoring.reuse_kept = scoring.with_entropy = false;
  const auto scores = trainer_->score(samples, scoring);
  for (size_t i = 0; i < left.size(); ++i)
    found.add(left[i], scores[i].logprobs,
              step.completions[static_cast<size_t>(left[i])].sampler_logprobs);
  return found;
}

/// One line for the first step of a run whose completions are of the weights that it changes. What
/// differs under --exact is an error or a warning, which say more.
void ExactnessCheck::say_first(const Step& step, const LogprobDifferences& found) {
  if (has_said_ || !found.tokens) return;
  has_said_ = true;
  const int64_t number = step.weight_version + 1;
  if (found.different)
    log_info(
        "sampler and trainer differ in the log-probabilities of {} of {} tokens of step {}, "
        "by up to {:.3g}",
        found.different, found.tokens, number, found.largest);
  else
    log_info("sampler and trainer agree on {} tokens of step {}, largest difference 0",
             found.tokens, number);
}

void ExactnessCheck::check_step(const Step& step,
                                const SampleAgain& sample_again,
                                Metrics& metrics) {
  check_recomputed(metrics);
  FreshDifferences found = step.fresh;
  const bool are_layers_exact = trainer_->comparison().is_exact();
  // A forward that began from sampling's own hidden states looks closer than it is.
  if (is_exact_ && (!are_layers_exact || step.has_dropout)) found = measure(step);
  LogprobDifferences& all = found.logprobs;
  say_first(step, all);
  if (holds_sampler_ && are_layers_exact && found.first >= 0) {
    std::vector<const Experience*> fresh;
    for (const Experience& experience : step.completions)
      if (experience.weight_version == step.weight_version) fresh.push_back(&experience);
    find_layer(all, step.completions[static_cast<size_t>(found.first)].sample, fresh, sample_again);
  }
  // Completions of earlier weights are judged by what was measured when they were sampled. A run
  // that only warned may have left such a difference to a resumed run that stops. Those that
  // arrived when the weights had changed could not be measured.
  FreshDifferences earlier;
  for (const Experience& experience : step.completions) {
    if (experience.weight_version == step.weight_version || experience.old_logprobs.empty() ||
        experience.is_rescored)
      continue;
    all.add(experience.old_logprobs, experience.sampler_logprobs);
    earlier.add(0, experience.old_logprobs, experience.sampler_logprobs);
  }
  if (stops_ && holds_sampler_ && earlier.first >= 0)
    report("inexact-sampler", "sampler",
           fmt::format("training and sampling to agree before this run began, got other {}",
                       logprobs_text(earlier.logprobs)));
  add_to(metrics, all);
}

}  // namespace lockstep::grpo
