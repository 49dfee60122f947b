// SPDX-License-Identifier: Apache-2.0
#include "ops/reference/token_logprob.h"

#include "tensor/aten.h"

namespace lockstep::ops::reference {
namespace {

at::Tensor log_distribution(const at::Tensor& hidden,
                            const at::Tensor& weight,
                            double temperature) {
  return at::log_softmax(at::matmul(hidden, weight.t()) / temperature, /*dim=*/1);
}

}  // namespace

at::Tensor token_logprobs(const at::Tensor& hidden,
                          const at::Tensor& weight,
                          const at::Tensor& targets,
                          double temperature) {
  const auto logp = log_distribution(hidden, weight, temperature);
  return at::gather(logp, 1, targets.unsqueeze(1)).squeeze(1);
}

at::Tensor token_entropy(const at::Tensor& hidden, const at::Tensor& weight, double temperature) {
  const auto logp = log_distribution(hidden, weight, temperature);
  return -(logp.exp() * logp).sum(1);
}

}  // namespace lockstep::ops::reference
