// How near the product comes to what this machine can do: shares of its memory bandwidth and of its
// rate of products.
// SPDX-License-Identifier: Apache-2.0
//
//   lockstep_roofline [part of a case's name …]
//
// The machine's peaks are measured for each case, before and after it, since shared machines
// drift; a share is against their mean. The peak of products is that of a loop of multiply-adds
// without memory; the first lines compare it with the clock and the width of the processor's units,
// and say what large products reach. Work is what the model needs (two operations for a weight
// and a token, three times that with the backward; recomputation is not counted), traffic what it
// must move at least once. One JSON line a case goes to stdout.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <functional>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include <fmt/format.h>

#include <ATen/CPUGeneratorImpl.h>

#include "base/heap.h"
#include "base/json.h"
#include "bench/bench_model.h"
#include "bench/processor_peak.h"
#include "ops/adamw.h"
#include "ops/panel_product.h"
#include "ops/token_logprob.h"
#include "rollout/engine.h"
#include "tensor/aten.h"
#include "tensor/autograd.h"
#include "tests/support/peak_allocation.h"
#include "train/trainer.h"

namespace lockstep {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_of(const std::function<void()>& work) {
  const auto begin = Clock::now();
  work();
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

double median(std::vector<double> values) {
  const auto middle = values.begin() + std::ssize(values) / 2;
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

/// The least time of runs that take about `budget` seconds together: what is the machine's own, not
/// its neighbours'.
double best_seconds(double budget, const std::function<void()>& work) {
  double best = seconds_of(work);
  for (double spent = best; spent < budget;) {
    const double taken = seconds_of(work);
    best = std::min(best, taken);
    spent += taken;
  }
  return best;
}

at::Tensor normal(at::IntArrayRef shape, at::ScalarType dtype) {
  return at::randn(shape, at::detail::createCPUGenerator(1), at::TensorOptions().dtype(at::kFloat))
      .to(dtype);
}

/// What the machine can do, in bytes and operations per second.
class Machine {
 public:
  /// The better of STREAM's triad (three arrays counted) and of reading alone: what a decode is up
  /// against.
  double bandwidth() {
    make_arrays();
    float* const out = out_.mutable_data_ptr<float>();
    const float *const x = x_.const_data_ptr<float>(), *const y = y_.const_data_ptr<float>();
    const double triad = best_seconds(kBudget, [&] {
      at::parallel_for(0, kElements, 1 << 16, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) out[i] = x[i] + 3 * y[i];
      });
    });
    const double reading = best_seconds(kBudget, [&] { x_.sum(); });
    return kArrayBytes * std::max(3 / triad, 1 / reading);
  }

  /// The rate of y = y + s x, which reads two arrays and writes one, as an optimizer does.
  double update_bandwidth() {
    make_arrays();
    return 3 * kArrayBytes / best_seconds(kBudget, [&] { y_.add_(x_, 1e-6); });
  }

  /// The rate of multiply-adds on all threads, in a loop that touches no memory; by the processor's
  /// own products where it has them for the dtype.
  double product(at::ScalarType dtype) {
    const int threads = at::get_num_threads();
    std::vector<double> rates(static_cast<size_t>(threads));
    at::parallel_for(0, threads, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const double native = dtype == at::kBFloat16 ? bench::bfloat16_peak(kBudget) : 0;
        rates[static_cast<size_t>(i)] = native > 0 ? native : bench::float_peak(kBudget);
      }
    });
    return std::accumulate(rates.begin(), rates.end(), 0.0);
  }

  /// The rate of a large product by the fastest kernel at hand.
  double library_product(at::ScalarType dtype) {
    constexpr int64_t kSide = 1024;
    const at::Tensor a = normal({kSide, kSide}, dtype), b = normal({kSide, kSide}, dtype);
    const at::Tensor panels = ops::pack_panels(b), out = at::empty({kSide, kSide}, a.options());
    const double ours = best_seconds(kBudget, [&] { ops::panel_products({{a, panels, out}}); });
    at::Tensor theirs_out = at::empty_like(out);
    const double theirs = best_seconds(kBudget, [&] { at::mm_out(theirs_out, a, b.t()); });
    return 2.0 * kSide * kSide * kSide / std::min(ours, theirs);
  }

 private:
  static constexpr double kBudget = 0.3;
  static constexpr int64_t kElements = int64_t{1} << 25;
  static constexpr double kArrayBytes = kElements * sizeof(float);

  void make_arrays() {
    if (out_.defined()) return;
    out_ = at::ones({kElements});
    x_ = at::ones({kElements});
    y_ = at::ones({kElements});
  }

  at::Tensor out_, x_, y_;
};

enum class Limit : uint8_t { kBandwidth, kUpdate, kProduct };

/// One line of the table.
struct Case {
  std::string name;
  at::ScalarType dtype;
  Limit limit;
  /// Share of the limit.
  double asked;
  /// Makes what it needs, then returns operations (or bytes) per second.
  std::function<double()> rate;
};

struct NamedDtype {
  model::WeightDtype weight;
  at::ScalarType scalar;
  std::string_view name = enum_name(weight);
};
const NamedDtype kDtypes[] = {{model::WeightDtype::kFloat32, at::kFloat},
                              {model::WeightDtype::kBFloat16, at::kBFloat16}};

/// Prints the processor's peaks, and what its clock and its width allow.
void print_peaks(Machine& machine) {
  const double clock = bench::clock_rate(0.3), per_cycle = bench::operations_per_cycle();
  const int threads = at::get_num_threads();
  fmt::print(stderr, "{}, {} threads, {:.2f} GHz\n", bench::vector_target(), threads, clock / 1e9);
  for (const NamedDtype& dtype : kDtypes) {
    const bool is_native = dtype.scalar == at::kBFloat16 && bench::bfloat16_peak(0.01) > 0;
    const double allowed = clock * per_cycle * threads * (is_native ? 2 : 1);
    fmt::print(
        stderr,
        "  {}: {:.0f} GFLOP/s by multiply-adds alone, {:.0f} by clock and width, {:.0f} in a "
        "product of 1024 rows\n",
        dtype.name, machine.product(dtype.scalar) / 1e9, allowed / 1e9,
        machine.library_product(dtype.scalar) / 1e9);
  }
}

class Roofline {
 public:
  explicit Roofline(std::vector<std::string> wanted) : wanted_(std::move(wanted)) {
    print_peaks(machine_);
  }

  void run(const Case& c) {
    const auto is_wanted = [&](const std::string& part) {
      return c.name.find(part) != std::string::npos;
    };
    if (!wanted_.empty() && std::none_of(wanted_.begin(), wanted_.end(), is_wanted)) return;
    const double before = peak(c), rate = c.rate(), after = peak(c);
    const double limit = (before + after) / 2, share = rate / limit;
    fmt::print(stderr, "{:44} {:8.2f} of {:7.2f} {:8}  {:5.1f} %  (asked {:2.0f} %){}\n", c.name,
               rate / 1e9, limit / 1e9, c.limit == Limit::kProduct ? "GFLOP/s" : "GB/s",
               100 * share, 100 * c.asked, share < c.asked ? "  missed" : "");
    Json line;
    line["case"] = c.name;
    line["rate"] = rate;
    line["limit"] = limit;
    line["share"] = share;
    line["asked"] = c.asked;
    fmt::print("{}\n", line.dump());
    std::fflush(stdout);
  }

 private:
  double peak(const Case& c) {
    switch (c.limit) {
      case Limit::kBandwidth:
        return machine_.bandwidth();
      case Limit::kUpdate:
        return machine_.update_bandwidth();
      case Limit::kProduct:
        break;
    }
    return machine_.product(c.dtype);
  }

  std::vector<std::string> wanted_;
  Machine machine_;
};

/// A model of random weights and what a token costs in it.
class BenchModel {
 public:
  BenchModel(model::Family family, model::ModelSize size, model::WeightDtype dtype) {
    weights_ = bench::random_weights(family, size, dtype);
    for (const model::LayerWeights& layer : weights_->layers()) add(layer);
  }

  model::ModelWeights& weights() { return *weights_; }

  /// Operations of products with weights for one token, and of one row of the head.
  double layer_operations() const { return 2 * layer_weights_; }
  double head_operations() const {
    return 2 * static_cast<double>(weights_->head().weight.numel());
  }
  /// Operations of attention and delta rule for one token behind `context` tokens.
  double mixer_operations(double context) const {
    const model::ModelConfig& c = weights_->config();
    double sum = 0;
    for (const auto mixer : c.mixers)
      sum += mixer == model::MixerKind::kAttention
                 ? 4 * context * static_cast<double>(c.num_attention_heads * c.head_dim)
                 : 7 * state_elements();
    return sum;
  }
  /// Bytes that a decode step of one sequence must move: weights, keys and values read; states read
  /// and written.
  double decode_bytes(double context) const {
    const model::ModelConfig& c = weights_->config();
    const auto element = static_cast<double>(c10::elementSize(weights_->dtype()));
    double sum = static_cast<double>(weights_->packed_bytes());
    for (const auto mixer : c.mixers)
      sum += mixer == model::MixerKind::kAttention
                 ? 2 * context * static_cast<double>(c.key_value_rows()) * element
                 : 2 * state_elements() * static_cast<double>(sizeof(float));
    return sum;
  }

 private:
  double state_elements() const {
    const model::ModelConfig& c = weights_->config();
    return static_cast<double>(c.linear_num_value_heads * c.linear_key_head_dim *
                               c.linear_value_head_dim);
  }
  void add(const ops::LinearWeight& weight) {
    layer_weights_ += static_cast<double>(weight.weight.numel());
  }
  void add(const model::DenseWeights& dense) {
    add(dense.gate_up);
    add(dense.down);
  }
  void add(const model::LayerWeights& layer) {
    if (layer.attention) add(layer.attention->qkv), add(layer.attention->o);
    if (layer.delta) add(layer.delta->in_proj), add(layer.delta->out);
    if (layer.dense) add(*layer.dense);
    if (!layer.experts) return;
    const model::ModelConfig& c = weights_->config();
    const double active =
        static_cast<double>(c.num_experts_per_tok) / static_cast<double>(c.num_experts);
    add(layer.experts->router);
    layer_weights_ += active * static_cast<double>(layer.experts->gate_up.weight.numel() +
                                                   layer.experts->down.weight.numel());
    if (layer.experts->shared) add(*layer.experts->shared), add(layer.experts->shared_gate);
  }

  std::unique_ptr<model::ModelWeights> weights_;
  /// That one token is multiplied with.
  double layer_weights_ = 0;
};

constexpr int64_t kPromptTokens = 32, kNewTokens = 48;

/// Seconds of a decode step of `batch` sequences, the median of the later half.
double decode_seconds(const model::ModelWeights& weights, int64_t batch) {
  rollout::Engine engine(weights, {.max_num_seqs = batch, .cache_memory = 4});
  rollout::GenerationSettings settings;
  settings.max_new_tokens = kNewTokens;
  settings.ignore_eos = true;
  std::vector<double> steps;
  auto last = Clock::now();
  engine.generate(bench::random_requests(batch, kPromptTokens, weights), settings,
                  [&](int64_t, int64_t) {
                    const auto now = Clock::now();
                    steps.push_back(std::chrono::duration<double>(now - last).count());
                    last = now;
                  });
  steps.erase(steps.begin(), steps.begin() + std::ssize(steps) / 2);
  return median(steps);
}

constexpr double kContext = kPromptTokens + 0.75 * kNewTokens;

/// Seconds of forward and backward over sequences of 512 tokens, all of them scored.
double training_seconds(model::ModelWeights& weights, int64_t tokens, bool with_checkpointing) {
  constexpr int64_t kLength = 512;
  train::Trainer trainer(weights, {.gradient_checkpointing = with_checkpointing,
                                   .max_tokens_per_micro_batch = std::min<int64_t>(tokens, 2048)});
  std::vector<train::Sample> samples;
  for (int64_t i = 0; i < tokens / kLength; ++i) {
    train::Sample sample{bench::random_prompt(kLength, static_cast<uint64_t>(i), weights),
                         std::vector<uint8_t>(kLength, 1)};
    sample.mask[0] = 0;
    samples.push_back(std::move(sample));
  }
  const auto step = [&] {
    trainer.gradients(samples, {},
                      [](int64_t, const train::SampleScores&, train::SampleGradient d) {
                        std::fill(d.logprobs.begin(), d.logprobs.end(), 1e-3F);
                      });
  };
  step();  // the heap grows
  return best_seconds(5, step);
}

double training_operations(const BenchModel& model, int64_t tokens) {
  constexpr double kMeanContext = 256;
  return 3 * static_cast<double>(tokens) *
         (model.layer_operations() + model.head_operations() +
          model.mixer_operations(kMeanContext));
}

void run_models(Roofline& roofline) {
  for (const auto family : {model::Family::kQwen3, model::Family::kQwen3_5})
    for (const auto size : {model::ModelSize::k100m, model::ModelSize::k500m})
      for (const NamedDtype& dtype : kDtypes) {
        const bool is_qwen3 = family == model::Family::kQwen3;
        const std::string label =
            fmt::format("{} {} {}", enum_name(family), enum_name(size), dtype.name);
        const auto make = [=] { return BenchModel(family, size, dtype.weight); };
        roofline.run({label + ", decode 1", dtype.scalar, Limit::kBandwidth,
                      dtype.scalar == at::kFloat ? 0.55 : 0.60, [&] {
                        BenchModel model = make();
                        return model.decode_bytes(kContext) / decode_seconds(model.weights(), 1);
                      }});
        roofline.run(
            {label + ", decode 64", dtype.scalar, Limit::kProduct, is_qwen3 ? 0.65 : 0.55, [&] {
               BenchModel model = make();
               return 64 *
                      (model.layer_operations() + model.head_operations() +
                       model.mixer_operations(kContext)) /
                      decode_seconds(model.weights(), 64);
             }});
        const int64_t tokens = size == model::ModelSize::k100m ? 4096 : 1024;
        roofline.run({label + ", forward and backward", dtype.scalar, Limit::kProduct, 0.65, [&] {
                        BenchModel model = make();
                        return training_operations(model, tokens) /
                               training_seconds(model.weights(), tokens, false);
                      }});
      }
}

void run_experts(Roofline& roofline) {
  constexpr int64_t kTokens = 4096;
  for (const auto family : {model::Family::kQwen3Moe, model::Family::kQwen3_5Moe})
    for (const NamedDtype& dtype : kDtypes)
      roofline.run({fmt::format("{} 500m {}, forward and backward", enum_name(family), dtype.name),
                    dtype.scalar, Limit::kProduct, 0.50, [&] {
                      BenchModel model(family, model::ModelSize::k500m, dtype.weight);
                      return training_operations(model, kTokens) /
                             training_seconds(model.weights(), kTokens, false);
                    }});
}

void run_adamw(Roofline& roofline) {
  for (const NamedDtype& dtype : kDtypes)
    roofline.run(
        {fmt::format("AdamW, {} weights", dtype.name), dtype.scalar, Limit::kUpdate, 0.80, [&] {
           constexpr int64_t kCount = 32 << 20;
           const at::Tensor master = normal({kCount}, at::kFloat), m = at::zeros({kCount}),
                            v = at::zeros({kCount});
           const bool is_float = dtype.scalar == at::kFloat;
           const at::Tensor weight = is_float ? master : master.to(at::kBFloat16),
                            gradient = normal({kCount}, dtype.scalar);
           const double bytes = is_float ? 3 * 8 + 4 : 3 * 8 + 2 + 2;
           return bytes * kCount / best_seconds(3, [&] {
                    ops::adamw_step(weight, master, m, v, gradient, {.learning_rate = 1e-6});
                  });
         }});
}

/// Prints what tensors took at most in `work`, beyond a result of `result` bytes.
void report_scratch(const std::string& label, double result, const std::function<void()>& work) {
  const auto peak = static_cast<double>(testing::peak_allocation(work));
  fmt::print(stderr, "    {}: {:.0f} MB of scratch (asked 200)\n", label, (peak - result) / 1e6);
}

void run_logprobs(Roofline& roofline) {
  constexpr int64_t kVocabulary = 248320, kModelDim = 1024, kRows = 1024;
  constexpr double kProduct = 2.0 * kVocabulary * kModelDim * kRows;
  for (const NamedDtype& dtype : kDtypes) {
    const auto make_head = [&] {
      ops::VocabularyHead head(normal({kVocabulary, kModelDim}, dtype.scalar).div_(32));
      head.pack();
      return head;
    };
    const at::Tensor hidden = normal({kRows, kModelDim}, dtype.scalar);
    const at::Tensor targets =
        at::randint(0, kVocabulary, {kRows}, at::detail::createCPUGenerator(2),
                    at::TensorOptions().dtype(at::kLong));
    roofline.run({fmt::format("log-probabilities {}, forward", dtype.name), dtype.scalar,
                  Limit::kProduct, 0.65, [&] {
                    const ops::VocabularyHead head = make_head();
                    const auto work = [&] { ops::token_logprobs(hidden, head, targets, 1, false); };
                    report_scratch("forward", 0, work);
                    return kProduct / best_seconds(5, work);
                  }});
    roofline.run({fmt::format("log-probabilities {}, forward and backward", dtype.name),
                  dtype.scalar, Limit::kProduct, 0.65, [&] {
                    // The logits are computed again: four products, of which three are the model's
                    // own.
                    ops::VocabularyHead head = make_head();
                    head.weight.set_requires_grad(true);
                    const at::Tensor leaf = hidden.detach().set_requires_grad(true),
                                     ones = at::ones({kRows});
                    const auto work = [&] {
                      const auto found = ops::token_logprobs(leaf, head, targets, 1, false);
                      gradients({found.logprobs}, {leaf, head.weight}, {ones});
                    };
                    report_scratch("forward and backward, beside the head's gradient",
                                   static_cast<double>(head.weight.nbytes()), work);
                    return 4 * kProduct / best_seconds(5, work);
                  }});
  }
}

}  // namespace
}  // namespace lockstep

int main(int argc, char** argv) {
  lockstep::bench::choose_vector_target();
  lockstep::keep_freed_memory();
  lockstep::Roofline roofline({argv + 1, argv + argc});
  lockstep::run_adamw(roofline);
  lockstep::run_logprobs(roofline);
  lockstep::run_models(roofline);
  lockstep::run_experts(roofline);
}
