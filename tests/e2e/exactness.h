// The sampler's log-probability of every token against the trainer's, bit for bit: for the tests
// and the long run in bench/.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "rollout/engine.h"
#include "tests/model/tiny_model.h"
#include "train/trainer.h"

namespace lockstep::testing {

inline constexpr int64_t kLongestSequence = 4000, kNewTokens = 64;

/// Tokens that were sampled, and those of them whose log-probability the trainer sees otherwise.
struct Tally {
  int64_t tokens = 0, different = 0, longest = 0;
  double largest = 0;

  void add(const std::vector<float>& sampler, const std::vector<float>& trainer) {
    for (size_t t = 0; t < sampler.size(); ++t) {
      different += std::memcmp(&sampler[t], &trainer[t], sizeof(float)) != 0;
      const double difference =
          std::abs(static_cast<double>(sampler[t]) - static_cast<double>(trainer[t]));
      largest = std::isnan(difference) ? HUGE_VAL : std::max(largest, difference);
    }
  }
};

/// Prompts of lengths that are even on a logarithmic scale, a few completions each.
inline std::vector<rollout::GenerationRequest> draw_requests(std::mt19937_64& random,
                                                             uint64_t draw) {
  std::uniform_real_distribution<double> exponent(0, std::log(kLongestSequence - kNewTokens));
  std::vector<rollout::GenerationRequest> requests;
  for (int i = 0; i < 12; ++i) {
    const bool is_longest = draw == 0 && i == 5;
    const auto length = static_cast<size_t>(is_longest ? kLongestSequence - kNewTokens
                                                       : std::exp(exponent(random)));
    requests.push_back({.prompt = random_ids(length, random),
                        .num_samples = 1 + static_cast<int64_t>(random() % 6),
                        .draw = draw});
  }
  return requests;
}

inline std::vector<train::Sample> samples_of(
    const std::vector<rollout::GenerationRequest>& requests,
    const std::vector<std::vector<rollout::Completion>>& completions) {
  std::vector<train::Sample> samples;
  for (size_t i = 0; i < requests.size(); ++i)
    for (const auto& completion : completions[i]) {
      train::Sample sample{requests[i].prompt, std::vector<uint8_t>(requests[i].prompt.size(), 0)};
      sample.ids.insert(sample.ids.end(), completion.token_ids.begin(), completion.token_ids.end());
      sample.mask.resize(sample.ids.size(), 1);
      samples.push_back(std::move(sample));
    }
  return samples;
}

/// Samples completions of shared prompts of 1 to 4,000 tokens until there are `tokens` of them, on
/// a tiny model, and scores them by the trainer's scoring pass and by some of its training
/// forwards.
inline Tally compare_logprobs(model::Family family, model::WeightDtype dtype, int64_t tokens) {
  const auto weights = tiny_weights(family, dtype);
  rollout::Engine engine(*weights, {.max_num_seqs = 24, .cache_memory = 2});
  train::Trainer trainer(*weights, {});
  std::mt19937_64 random(test_seed(1));
  Tally tally;
  for (uint64_t draw = 0; tally.tokens < tokens; ++draw) {
    rollout::GenerationSettings settings;
    settings.sampling = {.temperature = draw % 2 ? 0.8 : 1.0, .top_p = draw % 3 ? 1.0 : 0.9};
    settings.max_new_tokens = kNewTokens;
    settings.stop_ids = {7, 11, 13,
                         17};  // one token in fifty: completions end at different lengths
    const auto requests = draw_requests(random, draw);
    const auto completions = engine.generate(requests, settings);
    const auto samples = samples_of(requests, completions);
    std::vector<const std::vector<float>*> sampled;
    for (const auto& group : completions)
      for (const auto& completion : group) sampled.push_back(&completion.logprobs);
    const train::Trainer::ScoreOptions options{.temperature = settings.sampling.temperature};
    const auto scores = trainer.score(samples, options);
    for (size_t i = 0; i < samples.size(); ++i) {
      tally.tokens += std::ssize(*sampled[i]);
      tally.longest = std::max(tally.longest, std::ssize(samples[i].ids));
      tally.add(*sampled[i], scores[i].logprobs);
    }
    if (draw % 8 != 1) continue;  // the backward pass takes most of the time
    trainer.gradients(samples, options,
                      [&](int64_t i, const train::SampleScores& seen, train::SampleGradient) {
                        tally.add(*sampled[static_cast<size_t>(i)], seen.logprobs);
                      });
  }
  return tally;
}

}  // namespace lockstep::testing
