// SPDX-License-Identifier: Apache-2.0
#include "grpo/policy_scores.h"

#include <algorithm>

#include "base/check.h"
#include "grpo/kl_term.h"
#include "train/adapter_file.h"
#include "train/gathered_layers.h"
#include "train/rank_costs.h"

namespace lockstep::grpo {
namespace {

std::vector<train::Sample> samples_of(const std::vector<Experience>& batch) {
  std::vector<train::Sample> samples;
  for (const Experience& experience : batch) samples.push_back(experience.sample);
  return samples;
}

}  // namespace

ScoreOptions score_options(const GrpoRunOptions& options, const RunContext& context) {
  return {.temperature = options.grpo.temperature,
          .with_entropy = options.logs_entropy(),
          .with_entropy_gradient = options.loss.has_entropy_bonus(),
          .chunked_delta = !context.exact,
          .reuse_kept = true};
}

std::vector<const Experience*> by_prompt(std::span<const Experience> completions) {
  std::vector<const Experience*> order;
  for (const Experience& experience : completions) order.push_back(&experience);
  const auto prompt = [](const Experience* experience) {
    return std::span(experience->sample.ids)
        .first(static_cast<size_t>(experience->sample.prompt_tokens()));
  };
  std::stable_sort(order.begin(), order.end(), [&](const Experience* a, const Experience* b) {
    return std::ranges::lexicographical_compare(prompt(a), prompt(b));
  });
  return order;
}

std::vector<train::SampleScores> score_policy_now(std::span<const Experience> completions,
                                                  const train::Trainer& policy,
                                                  const ScoreOptions& options) {
  const std::vector<const Experience*> order = by_prompt(completions);
  std::vector<train::Sample> samples;
  for (const Experience* experience : order) samples.push_back(experience->sample);
  auto scores = policy.score(samples, options);
  std::vector<train::SampleScores> placed(scores.size());
  for (size_t i = 0; i < order.size(); ++i)
    placed[static_cast<size_t>(order[i] - completions.data())] = std::move(scores[i]);
  return placed;
}

void score_old_policy(std::span<Experience> completions,
                      const train::Trainer& policy,
                      ScoreOptions options) {
  options.with_entropy = false;
  auto scores = score_policy_now(completions, policy, options);
  for (size_t i = 0; i < scores.size(); ++i)
    completions[i].old_logprobs = std::move(scores[i].logprobs);
}

double mask_by_entropy(std::span<Experience> completions,
                       std::span<const train::SampleScores> scores,
                       double quantile) {
  std::vector<float> all;
  for (const train::SampleScores& score : scores)
    all.insert(all.end(), score.entropy.begin(), score.entropy.end());
  if (all.empty()) return 0;
  std::sort(all.begin(), all.end());
  const double place = (1 - quantile) * static_cast<double>(all.size() - 1);
  const auto below = static_cast<size_t>(place), above = std::min(below + 1, all.size() - 1);
  const double threshold =
      all[below] + (place - static_cast<double>(below)) * (double{all[above]} - double{all[below]});
  for (size_t i = 0; i < completions.size(); ++i) {
    completions[i].learned.clear();
    for (const float entropy : scores[i].entropy)
      completions[i].learned.push_back(entropy >= threshold);
  }
  return threshold;
}

std::vector<double> kl_sums(std::span<const Experience> completions, KlEstimator estimator) {
  std::vector<double> sums;
  for (const Experience& experience : completions) {
    const std::span<const float> policy = old_policy(experience);
    double sum = 0;
    for (size_t t = 0; t < policy.size(); ++t)
      sum += kl_term(policy[t], experience.ref_logprobs[t], estimator).value;
    sums.push_back(sum);
  }
  return sums;
}

ReferenceModel::ReferenceModel(const GrpoRunOptions& options,
                               const RunContext& context,
                               const train::LoadedModel& base)
    : model_(&base) {
  const std::string& named = options.grpo.ref_model;
  const bool is_own = !named.empty() || options.training.tuner.tuner_type == TunerType::kFull;
  const std::string& directory = named.empty() ? options.training.model.model : named;
  // Frozen weights are whole on each rank, but for experts; those that follow the policy's take all
  // values of that.
  const model::ModelConfig config = train::load_config(directory);
  const bool keeps_all = config.num_experts == 0 || options.reference_sync.sync_ref_model;
  const train::ParallelDegrees degrees{
      .ranks = context.ranks->size(),
      .expert_parallel = keeps_all ? 1 : options.training.sharding.expert_parallel_size};
  check_degrees(config, degrees);
  const train::Shards shards(*context.ranks, train::Sharding::kNone, degrees.expert_parallel);
  if (is_own) {
    own_ = train::load_model(directory, context.torch_dtype, model::WeightUse::kFrozen,
                             train::own_parts(shards));
    model_ = &own_;
  }
  model::ModelWeights* weights = &model_->base_weights();
  const int64_t own = weights->config().vocab_size, wanted = base.weights->config().vocab_size;
  if (own != wanted)
    fail<ConfigError>("bad-flag", "--ref_model", "expected a vocabulary of {} ids, got {}", wanted,
                      own);
  if (!options.grpo.ref_adapters.empty()) {
    adapter_ = train::load_adapter(options.grpo.ref_adapters, *weights);
    train::check_base_copies(*adapter_, *model_->source);
    train::warn_of_other_base(options.grpo.ref_adapters, model_->directory);
  }
  if (adapter_ && !adapter_->saved().empty()) {
    saved_ = model::make_saved_weights(*weights, *adapter_);
    saved_->freeze();
    weights = saved_.get();
  }
  trainer_ = std::make_unique<train::Trainer>(*weights, options.training.trainer,
                                              model::list_of(adapter_.get()), shards);
  digest_ = compute_digest();
}

void ReferenceModel::score(std::vector<Experience>& batch, ScoreOptions options) const {
  options.with_entropy = false;
  // What was kept comes from other weights, and so do the experts.
  options.reuse_kept = false;
  std::vector<train::Sample> samples = samples_of(batch);
  for (train::Sample& sample : samples) sample.routed = {};
  auto scores = trainer_->score(samples, options);
  for (size_t i = 0; i < batch.size(); ++i) batch[i].ref_logprobs = std::move(scores[i].logprobs);
}

int64_t ReferenceModel::bytes() const {
  if (model_ != &own_) return 0;
  return own_.weights->canonical_bytes() + own_.weights->packed_bytes();
}

Digest ReferenceModel::compute_digest() const {
  Digest digest = train::digest_tensors(model_->source->files());
  if (!adapter_) return digest;
  for (const model::Parameter& parameter : adapter_->parameters())
    digest = digest_of(parameter.value.const_data_ptr(), parameter.value.nbytes(),
                       digest_of(parameter.id, digest));
  for (const model::SavedTensor& saved : adapter_->saved())
    digest = digest_of(saved.value.const_data_ptr(), saved.value.nbytes(),
                       digest_of(saved.place.name, digest));
  return digest;
}

}  // namespace lockstep::grpo
