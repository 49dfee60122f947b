// How time grows with the number of samples and with their length: the data of
// docs/performance.md's plot.
// SPDX-License-Identifier: Apache-2.0
//
//   lockstep_scaling > scaling.json;  python3 bench/plot_scaling.py scaling.json docs/scaling.svg
#include <algorithm>
#include <chrono>
#include <functional>
#include <random>

#include <fmt/format.h>

#include <ATen/CPUGeneratorImpl.h>

#include "base/heap.h"
#include "base/json.h"
#include "bench/bench_model.h"
#include "ops/attention.h"
#include "ops/gated_delta.h"
#include "rollout/engine.h"
#include "tensor/aten.h"
#include "tensor/autograd.h"
#include "train/trainer.h"

namespace lockstep {
namespace {

/// The least of five: what is the program's own, not its neighbours'.
double best_seconds(const std::function<void()>& work) {
  double best = HUGE_VAL;
  for (int i = 0; i < 5; ++i) {
    const auto begin = std::chrono::steady_clock::now();
    work();
    const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - begin;
    best = std::min(best, taken.count());
  }
  return best;
}

class Curve {
 public:
  void add(int64_t x, int64_t tokens, double seconds) {
    points_.push_back({x, 1e6 * seconds / static_cast<double>(tokens)});
    fmt::print(stderr, "{:6} {:10.3f} us a token\n", x, points_.back()[1].get<double>());
  }
  Json take() { return std::exchange(points_, Json::array()); }

 private:
  Json points_ = Json::array();
};

constexpr int64_t kLength = 64;

/// Microseconds a token of sampling, and of forward and backward, by the number of samples of 64
/// tokens.
Json by_samples() {
  const auto made = bench::random_weights(model::Family::kQwen3_5, model::ModelSize::k10m);
  model::ModelWeights& weights = *made;
  std::mt19937_64 random(1);
  Curve sampling, training;
  for (const int64_t samples : {8, 16, 32, 64, 128, 256}) {
    std::vector<rollout::GenerationRequest> requests;
    std::vector<train::Sample> batch;
    for (int64_t i = 0; i < samples; ++i) {
      requests.push_back({.prompt = testing::random_ids(1, random)});
      batch.push_back({testing::random_ids(kLength, random), std::vector<uint8_t>(kLength, 1)});
      batch.back().mask[0] = 0;
    }
    rollout::GenerationSettings settings;
    settings.max_new_tokens = kLength;
    settings.ignore_eos = true;
    rollout::Engine engine(weights, {.max_num_seqs = samples});
    sampling.add(samples, samples * kLength,
                 best_seconds([&] { engine.generate(requests, settings); }));
    train::Trainer trainer(weights, {});
    training.add(samples, samples * kLength, best_seconds([&] {
                   trainer.gradients(batch, {}, [](int64_t, const auto&, train::SampleGradient d) {
                     std::fill(d.logprobs.begin(), d.logprobs.end(), 1e-3F);
                   });
                 }));
  }
  return {{"sampling", sampling.take()}, {"forward and backward", training.take()}};
}

/// Microseconds a token of the two mixers of a Qwen3.5, forward and backward, by the length of one
/// sequence.
Json by_length() {
  constexpr int64_t kHeads = 8, kDim = 64;
  const auto normal = [](at::IntArrayRef shape) {
    return at::randn(shape, at::detail::createCPUGenerator(1)).set_requires_grad(true);
  };
  Curve delta, attention;
  for (const int64_t tokens : {256, 512, 1024, 2048, 4096, 8192}) {
    ops::PackedSequences sequences;
    sequences.append(tokens);
    const at::Tensor q = normal({tokens, kHeads, kDim}), k = normal({tokens, kHeads, kDim}),
                     v = normal({tokens, kHeads, kDim}), ones = at::ones({tokens, kHeads, kDim});
    const at::Tensor decay = (-normal({tokens, kHeads}).detach().abs() * 0.1),
                     beta = normal({tokens, kHeads}).detach().sigmoid();
    delta.add(tokens, tokens, best_seconds([&] {
                const auto out = ops::gated_delta_rule({q, k, v, decay, beta}, sequences).output;
                gradients({out}, {q, k, v}, {ones});
              }));
    attention.add(tokens, tokens, best_seconds([&] {
                    const auto out = ops::causal_attention(q, k, v, sequences, 0.125);
                    gradients({out}, {q, k, v}, {ones});
                  }));
  }
  return {{"gated delta rule", delta.take()}, {"attention", attention.take()}};
}

}  // namespace
}  // namespace lockstep

int main() {
  lockstep::keep_freed_memory();
  const lockstep::Json found{{"threads", at::get_num_threads()},
                             {"samples", lockstep::by_samples()},
                             {"length", lockstep::by_length()}};
  fmt::print("{}\n", found.dump(1));
}
