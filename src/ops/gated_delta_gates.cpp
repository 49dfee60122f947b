// The gates of the gated delta rule. Plain loops over [T, Hv], one element like the other: ATen's
// own loops treat the ends of a thread's range by other instructions, so that there an element's
// bits would depend on its place in the batch.
// SPDX-License-Identifier: Apache-2.0
#include <cmath>

#include <fmt/ranges.h>

#include "base/check.h"
#include "base/op_timer.h"
#include "ops/gated_delta.h"
#include "ops/kernel_data.h"
#include "tensor/aten.h"
#include "tensor/autograd.h"
#include "tensor/parallel.h"

namespace lockstep::ops {
namespace {

constexpr int64_t kElementGrain = 1024;
constexpr float kSoftplusThreshold = 20.0F;

float sigmoid(float x) { return 1.0F / (1.0F + std::exp(-x)); }

float softplus(float x) { return x > kSoftplusThreshold ? x : std::log1p(std::exp(x)); }

at::Tensor to_float(const at::Tensor& x) { return x.to(at::kFloat).contiguous(); }

/// Calls element(i, head) for each of [T, Hv].
template <class Element>
void for_each_element(int64_t tokens, int64_t heads, const Element& element) {
  parallel_for(0, tokens * heads, kElementGrain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) element(i, i % heads);
  });
}

/// float32 copies of the four inputs.
struct Gates {
  at::Tensor a, b, A_log, dt_bias;
};

GatedDeltaGates run_forward(const Gates& in) {
  GatedDeltaGates out{at::empty_like(in.a), at::empty_like(in.a)};
  const float *a = in.a.const_data_ptr<float>(), *b = in.b.const_data_ptr<float>();
  const float *A_log = in.A_log.const_data_ptr<float>(), *bias = in.dt_bias.const_data_ptr<float>();
  float *log_decay = out.log_decay.mutable_data_ptr<float>(),
        *beta = out.beta.mutable_data_ptr<float>();
  for_each_element(in.a.size(0), in.a.size(1), [&](int64_t i, int64_t head) {
    log_decay[i] = -std::exp(A_log[head]) * softplus(a[i] + bias[head]);
    beta[i] = sigmoid(b[i]);
  });
  return out;
}

/// da = -e^A_log sigmoid(a + dt_bias) dg, db = dbeta beta (1 - beta), ddt_bias = sum_t da, dA_log =
/// sum_t dg g.
std::vector<at::Tensor> backward(const Gates& in, const std::vector<at::Tensor>& gradients) {
  const int64_t tokens = in.a.size(0), heads = in.a.size(1);
  const auto given = [&](const at::Tensor& gradient) {
    return gradient.defined() ? to_float(gradient) : at::zeros_like(in.a);
  };
  const at::Tensor decay_gradient = given(gradients[0]), beta_gradient = given(gradients[1]);
  const at::Tensor da = at::empty_like(in.a), db = at::empty_like(in.a);
  const at::Tensor decay_terms = at::empty_like(in.a);
  const float *a = in.a.const_data_ptr<float>(), *b = in.b.const_data_ptr<float>();
  const float *A_log = in.A_log.const_data_ptr<float>(), *bias = in.dt_bias.const_data_ptr<float>();
  const float *dg = decay_gradient.const_data_ptr<float>(),
              *dbeta = beta_gradient.const_data_ptr<float>();
  float *to_a = da.mutable_data_ptr<float>(), *to_b = db.mutable_data_ptr<float>();
  float* terms = decay_terms.mutable_data_ptr<float>();
  for_each_element(tokens, heads, [&](int64_t i, int64_t head) {
    const float x = a[i] + bias[head], rate = -std::exp(A_log[head]), beta = sigmoid(b[i]);
    to_a[i] = x > kSoftplusThreshold ? rate * dg[i] : rate * sigmoid(x) * dg[i];
    terms[i] = dg[i] * rate * softplus(x);
    to_b[i] = dbeta[i] * beta * (1.0F - beta);
  });
  const at::Tensor dA_log = at::zeros({heads}, at::kDouble),
                   dbias = at::zeros({heads}, at::kDouble);
  double *sum_A_log = dA_log.mutable_data_ptr<double>(),
         *sum_bias = dbias.mutable_data_ptr<double>();
  for (int64_t i = 0; i < tokens * heads; ++i) {
    sum_A_log[i % heads] += static_cast<double>(terms[i]);
    sum_bias[i % heads] += static_cast<double>(to_a[i]);
  }
  return {da, db, dA_log, dbias};
}

}  // namespace

GatedDeltaGates gated_delta_gates(const at::Tensor& a,
                                  const at::Tensor& b,
                                  const at::Tensor& A_log,
                                  const at::Tensor& dt_bias) {
  const OpTimer timer("gated_delta_gates");
  if (a.dim() != 2 || b.sizes() != a.sizes() || A_log.sizes() != at::IntArrayRef({a.size(1)}) ||
      dt_bias.sizes() != A_log.sizes())
    fail<ShapeError>("bad-shape", "gated_delta_gates",
                     "expected a, b [T, Hv] and A_log, dt_bias [Hv], got [{}], [{}], [{}], [{}]",
                     fmt::join(a.sizes(), ", "), fmt::join(b.sizes(), ", "),
                     fmt::join(A_log.sizes(), ", "), fmt::join(dt_bias.sizes(), ", "));
  for (const at::Tensor& x : {a, b, A_log, dt_bias})
    check_dtype(x.scalar_type(), "gated_delta_gates");
  const bool trains = wants_gradient({a, b, A_log, dt_bias});
  const at::NoGradGuard no_grad;
  const Gates in{to_float(a), to_float(b), to_float(A_log), to_float(dt_bias)};
  const GatedDeltaGates out = run_forward(in);
  if (!trains) return out;
  const std::vector<at::Tensor> inputs{a, b, A_log, dt_bias};
  const auto outputs =
      attach_backward(inputs, {out.log_decay, out.beta}, [=](const auto& gradients, const auto&) {
        auto results = backward(in, gradients);
        for (size_t i = 0; i < results.size(); ++i)
          results[i] = results[i].to(inputs[i].scalar_type());
        return results;
      });
  return {outputs[0], outputs[1]};
}

}  // namespace lockstep::ops
