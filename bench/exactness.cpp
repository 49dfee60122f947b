// The sampler's log-probability of every token against the trainer's, bit for bit, over many tokens.
// SPDX-License-Identifier: Apache-2.0
//
//   lockstep_exactness [tokens a case, 100000]
//
// Each family, dtype and thread count samples completions of shared prompts of 1 to 4,000 tokens, and both the trainer's
// scoring pass and its training forward score them. Exit status 1 where one token differs.
#include <cmath>
#include <cstring>

#include <fmt/format.h>

#include "rollout/engine.h"
#include "tests/model/tiny_model.h"
#include "train/trainer.h"

namespace lockstep {
namespace {

constexpr int64_t kLongest = 4000;

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
std::vector<rollout::GenerationRequest> draw_requests(std::mt19937_64& random, uint64_t draw) {
  std::uniform_real_distribution<double> exponent(0, std::log(kLongest - 64));
  std::vector<rollout::GenerationRequest> requests;
  for (int i = 0; i < 12; ++i) {
    const auto length = static_cast<size_t>(std::exp(exponent(random)));
    requests.push_back({.prompt = testing::random_ids(length, random),
                        .num_samples = 1 + static_cast<int64_t>(random() % 6),
                        .draw = draw});
  }
  return requests;
}

std::vector<train::Sample> samples_of(
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

Tally measure(model::Family family, model::WeightDtype dtype, int64_t tokens) {
  const auto weights = testing::tiny_weights(family, dtype);
  rollout::Engine engine(*weights, {.max_num_seqs = 24, .cache_memory = 2});
  train::Trainer trainer(*weights, {});
  std::mt19937_64 random(1);
  Tally tally;
  for (uint64_t draw = 0; tally.tokens < tokens; ++draw) {
    rollout::GenerationSettings settings;
    settings.sampling = {.temperature = draw % 2 ? 0.8 : 1.0, .top_p = draw % 3 ? 1.0 : 0.9};
    settings.max_new_tokens = 64;
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
    if (draw % 8 != 0) continue;  // the backward pass takes most of the time
    trainer.gradients(samples, options,
                      [&](int64_t i, const train::SampleScores& seen, std::span<float>) {
                        tally.add(*sampled[static_cast<size_t>(i)], seen.logprobs);
                      });
  }
  return tally;
}

int run(int64_t tokens) {
  int64_t different = 0;
  for (const model::Family family : testing::kFamilies)
    for (const auto dtype : {model::WeightDtype::kFloat32, model::WeightDtype::kBFloat16})
      for (const int threads : {1, 2}) {
        at::set_num_threads(threads);
        const Tally tally = measure(family, dtype, tokens);
        fmt::print(
            "{:12} {:8} {} threads: {} tokens, longest sequence {}, different {}, largest "
            "difference {}\n",
            model::family_name(family),
            dtype == model::WeightDtype::kFloat32 ? "float32" : "bfloat16", threads, tally.tokens,
            tally.longest, tally.different, tally.largest);
        std::fflush(stdout);
        different += tally.different;
      }
  return different ? 1 : 0;
}

}  // namespace
}  // namespace lockstep

int main(int argc, char** argv) { return lockstep::run(argc > 1 ? std::atoll(argv[1]) : 100000); }
