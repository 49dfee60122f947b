// SPDX-License-Identifier: Apache-2.0
#include "ops/reference/gated_delta.h"

#include <cmath>

#include "tensor/aten.h"

namespace lockstep::ops::reference {
namespace {

at::Tensor l2_normalize(const at::Tensor& x) {
  return x * (x * x).sum(-1, /*keepdim=*/true).add(1e-6).rsqrt();
}

}  // namespace

GatedDeltaOutputs gated_delta_rule(const GatedDeltaInputs& inputs,
                                   const PackedSequences& sequences,
                                   const at::Tensor& initial_state) {
  const int64_t heads = inputs.v.size(1), repeat = heads / inputs.q.size(1);
  const double scale = 1.0 / std::sqrt(static_cast<double>(inputs.q.size(2)));
  const at::Tensor q_THvDk = l2_normalize(inputs.q).mul(scale).repeat_interleave(repeat, 1);
  const at::Tensor k_THvDk = l2_normalize(inputs.k).repeat_interleave(repeat, 1);
  std::vector<at::Tensor> outputs, states;
  for (int64_t b = 0; b < sequences.count(); ++b) {
    at::Tensor S = at::zeros({heads, inputs.q.size(2), inputs.v.size(2)}, inputs.v.options());
    if (initial_state.defined()) S = initial_state.select(0, b);
    if (const int64_t parent = sequences.parent(b); parent != PackedSequences::kNoParent)
      S = states[static_cast<size_t>(parent)];
    for (int64_t t = sequences.first_token(b); t < sequences.first_token(b + 1); ++t) {
      const at::Tensor q = q_THvDk.select(0, t).unsqueeze(-1),
                       k = k_THvDk.select(0, t).unsqueeze(-1);
      const at::Tensor v = inputs.v.select(0, t), beta = inputs.beta.select(0, t).unsqueeze(-1);
      S = S * inputs.log_decay.select(0, t).exp().view({heads, 1, 1});
      const at::Tensor predicted = (S * k).sum(1);
      const at::Tensor delta = (v - predicted) * beta;
      S = S + k * delta.unsqueeze(1);
      outputs.push_back((S * q).sum(1));
    }
    states.push_back(S);
  }
  return {at::stack(outputs, 0), at::stack(states, 0)};
}

GatedDeltaGates gated_delta_gates(const at::Tensor& a,
                                  const at::Tensor& b,
                                  const at::Tensor& A_log,
                                  const at::Tensor& dt_bias) {
  return {-A_log.exp() * at::softplus(a + dt_bias), b.sigmoid()};
}

}  // namespace lockstep::ops::reference
