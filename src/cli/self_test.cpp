// Compares the ops at small shapes with their references in float64, and measures their speed.
// Shapes are as in docs/shapes.md.
// SPDX-License-Identifier: Apache-2.0
#include "cli/self_test.h"

#include <algorithm>
#include <chrono>
#include <functional>

#include "cli/noise.h"
#include "ops/activation.h"
#include "ops/adamw.h"
#include "ops/attention.h"
#include "ops/causal_conv.h"
#include "ops/gated_delta.h"
#include "ops/linear.h"
#include "ops/moe.h"
#include "ops/reference/activation.h"
#include "ops/reference/adamw.h"
#include "ops/reference/attention.h"
#include "ops/reference/causal_conv.h"
#include "ops/reference/gated_delta.h"
#include "ops/reference/rms_norm.h"
#include "ops/reference/rope.h"
#include "ops/reference/token_logprob.h"
#include "ops/rms_norm.h"
#include "ops/rope.h"
#include "ops/token_logprob.h"
#include "tensor/aten.h"
#include "tensor/parallel.h"

namespace lockstep::cli {
namespace {

// The bound for float32 sums of a few hundred terms, relative to the largest element.
constexpr double kFloatBound = 1e-5;
// The bound for bfloat16, which keeps 8 bits: half a unit in the last place is 2^-9 of the value,
// and inputs are rounded, too.
constexpr double kBfloatBound = 1.0 / 64;

double relative_error(const at::Tensor& actual, const at::Tensor& expected) {
  const at::Tensor truth = expected.to(at::kDouble);
  const double scale = truth.abs().max().item<double>();
  return (actual.to(at::kDouble) - truth).abs().max().item<double>() / (scale > 0 ? scale : 1);
}

at::Tensor exact(const at::Tensor& x) { return x.to(at::kDouble); }

/// Runs tests one after another, each for the same length of time.
class SelfTest {
 public:
  explicit SelfTest(double seconds_each) : seconds_each_(seconds_each) {}
  std::vector<SelfTestResult> take() { return std::move(results_); }

  /// `amount` is the number of floating-point operations or bytes of one run of `work`.
  void measure(SelfTestResult result, double amount, const std::function<void()>& work) {
    using Clock = std::chrono::steady_clock;
    // The first run allocates and packs.
    work();
    const Clock::time_point begin = Clock::now();
    double seconds = 0;
    int64_t runs = 0;
    while (seconds < seconds_each_) {
      work();
      ++runs;
      seconds = std::chrono::duration<double>(Clock::now() - begin).count();
    }
    result.rate = amount * double(runs) / seconds / 1e9;
    results_.push_back(std::move(result));
  }

 private:
  double seconds_each_;
  std::vector<SelfTestResult> results_;
};

void test_memory(SelfTest& tests) {
  // 64 MiB an array: more than every cache but the largest holds.
  constexpr int64_t kElements = int64_t{1} << 24;
  const at::Tensor a = at::empty({kElements}, at::kFloat), b = at::ones({kElements}, at::kFloat);
  const at::Tensor c = at::ones({kElements}, at::kFloat);
  float* const out = a.mutable_data_ptr<float>();
  const float *const x = b.const_data_ptr<float>(), *const y = c.const_data_ptr<float>();
  tests.measure({.name = "memory triad", .kernel = "loop", .unit = "GB/s"},
                3.0 * kElements * sizeof(float), [&] {
                  parallel_for(0, kElements, 1 << 16, [&](int64_t begin, int64_t end) {
                    for (int64_t i = begin; i < end; ++i) out[i] = x[i] + 3 * y[i];
                  });
                });
}

void test_products(SelfTest& tests) {
  constexpr int64_t kRows = 256, kInputs = 1024, kOutputs = 1024;
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
    const at::Tensor x = noise({kRows, kInputs}, dtype, 1),
                     weight = noise({kOutputs, kInputs}, dtype, 2);
    const at::Tensor truth = at::mm(exact(x), exact(weight).t());
    const double bound = dtype == at::kFloat ? kFloatBound : kBfloatBound;
    const std::string type = dtype == at::kFloat ? "float32" : "bfloat16";
    ops::LinearWeight w(weight);
    w.pack();
    for (const bool is_ours : {false, true}) {
      const auto product = [&] { return is_ours ? ops::linear(x, w) : at::mm(x, weight.t()); };
      tests.measure({.name = "product " + type,
                     .kernel = is_ours ? ops::kernel_name(w.form) : "libtorch",
                     .unit = "GFLOP/s",
                     .error = relative_error(product(), truth),
                     .bound = bound},
                    2.0 * kRows * kInputs * kOutputs, product);
    }
  }
}

ops::PackedSequences two_sequences(int64_t tokens) {
  ops::PackedSequences sequences;
  sequences.append(tokens / 4);
  sequences.append(tokens - tokens / 4);
  return sequences;
}

/// How many pairs of query and key the causal mask leaves.
double attended_pairs(const ops::PackedSequences& sequences) {
  double pairs = 0;
  for (int64_t b = 0; b < sequences.count(); ++b)
    pairs += double(sequences.length(b)) * double(sequences.length(b) + 1) / 2;
  return pairs;
}

void test_attention(SelfTest& tests) {
  constexpr int64_t kTokens = 512, kHeads = 8, kKeyHeads = 2, kDim = 64;
  const ops::PackedSequences sequences = two_sequences(kTokens);
  // The scale is kDim^-1/2.
  const double scale = 0.125;
  const at::Tensor q = noise({kTokens, kHeads, kDim}, at::kFloat, 3);
  const at::Tensor k = noise({kTokens, kKeyHeads, kDim}, at::kFloat, 4);
  const at::Tensor v = noise({kTokens, kKeyHeads, kDim}, at::kFloat, 5);
  const at::Tensor truth =
      ops::reference::causal_attention(exact(q), exact(k), exact(v), sequences, scale);
  tests.measure({.name = "attention",
                 .kernel = "Highway",
                 .unit = "GFLOP/s",
                 .error = relative_error(ops::causal_attention(q, k, v, sequences, scale), truth),
                 .bound = kFloatBound},
                4.0 * kHeads * kDim * attended_pairs(sequences),
                [&] { ops::causal_attention(q, k, v, sequences, scale); });
}

void test_gated_delta(SelfTest& tests) {
  constexpr int64_t kTokens = 256, kKeyHeads = 4, kHeads = 8, kDim = 64;
  const ops::PackedSequences sequences = two_sequences(kTokens);
  const ops::GatedDeltaInputs inputs{
      .q = noise({kTokens, kKeyHeads, kDim}, at::kFloat, 6),
      .k = noise({kTokens, kKeyHeads, kDim}, at::kFloat, 7),
      .v = noise({kTokens, kHeads, kDim}, at::kFloat, 8),
      .log_decay = noise({kTokens, kHeads}, at::kFloat, 9).abs().neg(),
      .beta = noise({kTokens, kHeads}, at::kFloat, 10).sigmoid()};
  const ops::GatedDeltaInputs wide{.q = exact(inputs.q),
                                   .k = exact(inputs.k),
                                   .v = exact(inputs.v),
                                   .log_decay = exact(inputs.log_decay),
                                   .beta = exact(inputs.beta)};
  const at::Tensor truth = ops::reference::gated_delta_rule(wide, sequences).output;
  // Decay, S^T k, the outer product and S^T q take seven operations for each element of the state.
  tests.measure({.name = "gated delta",
                 .kernel = "Highway",
                 .unit = "GFLOP/s",
                 .error = relative_error(ops::gated_delta_rule(inputs, sequences).output, truth),
                 .bound = 10 * kFloatBound},
                7.0 * kTokens * kHeads * kDim * kDim,
                [&] { ops::gated_delta_rule(inputs, sequences); });
}

void test_convolution(SelfTest& tests) {
  constexpr int64_t kTokens = 1024, kChannels = 1024, kTaps = 4;
  const ops::PackedSequences sequences = two_sequences(kTokens);
  const at::Tensor x = noise({kTokens, kChannels}, at::kFloat, 11);
  const at::Tensor weight = noise({kChannels, 1, kTaps}, at::kFloat, 12);
  const at::Tensor truth = ops::reference::causal_conv(exact(x), exact(weight), sequences);
  tests.measure({.name = "convolution",
                 .kernel = "Highway",
                 .unit = "GB/s",
                 .error = relative_error(ops::causal_conv(x, weight, sequences), truth),
                 .bound = kFloatBound},
                2.0 * double(x.nbytes()), [&] { ops::causal_conv(x, weight, sequences); });
}

void test_rows(SelfTest& tests) {
  constexpr int64_t kTokens = 1024, kDim = 1024, kHeadDim = 64;
  const at::Tensor x = noise({kTokens, kDim}, at::kFloat, 13), gain = noise({kDim}, at::kFloat, 14);
  const double bytes = 2.0 * double(x.nbytes());
  const auto add = [&](const char* name, const at::Tensor& truth, double amount,
                       const std::function<at::Tensor()>& op) {
    tests.measure({.name = name,
                   .kernel = "Highway",
                   .unit = "GB/s",
                   .error = relative_error(op(), truth),
                   .bound = kFloatBound},
                  amount, [&] { op(); });
  };
  add("norm", ops::reference::rms_norm(exact(x), exact(gain), 1e-6, ops::NormKind::kPlain), bytes,
      [&] { return ops::rms_norm(x, gain, 1e-6, ops::NormKind::kPlain); });
  add("activation", ops::reference::silu_mul(exact(x)), bytes * 0.75,
      [&] { return ops::silu_mul(x); });
  const at::Tensor table = ops::rope_table(at::arange(kTokens), kHeadDim, 1e6);
  const at::Tensor heads = x.view({kTokens, kDim / kHeadDim, kHeadDim});
  add("rotation", ops::reference::apply_rope(exact(heads), exact(table)), bytes,
      [&] { return ops::apply_rope(heads, table); });
}

void test_experts(SelfTest& tests) {
  constexpr int64_t kTokens = 256, kDim = 256, kExperts = 8, kChosen = 2, kWidth = 128;
  const at::Tensor x = noise({kTokens, kDim}, at::kFloat, 15);
  // The scale is kDim^-1/2.
  const at::Tensor gate_up = noise({kExperts, 2 * kWidth, kDim}, at::kFloat, 16) / 16;
  const at::Tensor down = noise({kExperts, kDim, kWidth}, at::kFloat, 17) / 16;
  const ops::Routing routing =
      ops::route(noise({kTokens, kExperts}, at::kFloat, 18), kChosen, /*renormalize=*/true);
  // The formula with every expert for every token; those that were not chosen have weight zero.
  const at::Tensor weights = at::zeros({kTokens, kExperts}, at::kDouble)
                                 .scatter_add(1, routing.experts, exact(routing.weights));
  at::Tensor truth = at::zeros({kTokens, kDim}, at::kDouble);
  for (int64_t e = 0; e < kExperts; ++e) {
    const at::Tensor inner =
        ops::reference::silu_mul(at::mm(exact(x), exact(gate_up.select(0, e)).t()));
    truth = truth + at::mm(inner, exact(down.select(0, e)).t()) * weights.narrow(1, e, 1);
  }
  const auto gate_up_bank = ops::ExpertBank::packed(gate_up),
             down_bank = ops::ExpertBank::packed(down);
  tests.measure({.name = "experts",
                 .kernel = "Highway and BLAS",
                 .unit = "GFLOP/s",
                 .error = relative_error(ops::experts(x, routing, gate_up_bank, down_bank), truth),
                 .bound = kFloatBound},
                6.0 * kTokens * kChosen * kDim * kWidth,
                [&] { ops::experts(x, routing, gate_up_bank, down_bank); });
}

void test_logprobs(SelfTest& tests) {
  constexpr int64_t kTokens = 128, kDim = 256, kVocabulary = 8192;
  const at::Tensor hidden = noise({kTokens, kDim}, at::kFloat, 19);
  // The scale is kDim^-1/2.
  const at::Tensor weight = noise({kVocabulary, kDim}, at::kFloat, 20) / 16;
  const at::Tensor targets = at::arange(kTokens) * 61;
  ops::VocabularyHead head(weight);
  head.pack();
  const at::Tensor truth =
      ops::reference::token_logprobs(exact(hidden), exact(weight), targets, 1.0);
  const auto op = [&] {
    return ops::token_logprobs(hidden, head, targets, 1.0, /*with_entropy=*/false).logprobs;
  };
  tests.measure({.name = "log-probs",
                 .kernel = "Highway panels",
                 .unit = "GFLOP/s",
                 .error = relative_error(op(), truth),
                 .bound = kFloatBound},
                2.0 * kTokens * kDim * kVocabulary, [&] { op(); });
}

void test_optimizer(SelfTest& tests) {
  constexpr int64_t kElements = int64_t{1} << 20;
  const at::Tensor gradient = noise({kElements}, at::kFloat, 22);
  const at::Tensor master = noise({kElements}, at::kFloat, 21);
  const at::Tensor first = at::zeros({kElements}, at::kFloat),
                   second = at::zeros({kElements}, at::kFloat);
  const ops::AdamWSettings settings{.learning_rate = 1e-3, .weight_decay = 0.1};
  const ops::reference::AdamWParameter before{exact(master), exact(first), exact(second)};
  const at::Tensor truth = ops::reference::adamw_step(before, exact(gradient), settings).value;
  const auto step = [&] { ops::adamw_step(master, master, first, second, gradient, settings); };
  step();
  tests.measure({.name = "optimizer",
                 .kernel = "Highway",
                 .unit = "GB/s",
                 .error = relative_error(master, truth),
                 .bound = kFloatBound},
                7.0 * kElements * sizeof(float), step);
}

}  // namespace

std::vector<SelfTestResult> run_self_test(double seconds_each) {
  at::NoGradGuard no_grad;
  SelfTest tests(seconds_each);
  for (const auto test : {test_memory, test_products, test_attention, test_gated_delta,
                          test_convolution, test_rows, test_experts, test_logprobs, test_optimizer})
    test(tests);
  return tests.take();
}

}  // namespace lockstep::cli
