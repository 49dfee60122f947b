// All that we use of libtorch's autograd: a hand-written backward for a forward that ran without
// it, and gradients of given outputs. What comes from torch/csrc/autograd stays in autograd.cpp.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <initializer_list>
#include <span>
#include <vector>

#include <ATen/core/Tensor.h>

namespace lockstep {

/// A hand-written backward. `grad_outputs[i]` is undefined if no gradient reached output i;
/// `needs[j]` says whether input j needs one. Returns one tensor for each input, of the input's
/// shape and dtype, or undefined for none. Runs without gradient mode, on a thread of autograd.
using BackwardFunction = std::function<std::vector<at::Tensor>(
    const std::vector<at::Tensor>& grad_outputs, const std::vector<bool>& needs)>;

/// True when gradient mode is on and one of `inputs` requires a gradient.
bool wants_gradient(std::span<const at::Tensor> inputs);
inline bool wants_gradient(std::initializer_list<at::Tensor> inputs) {
  return wants_gradient(std::span(inputs.begin(), inputs.size()));
}

/// Makes `outputs`, computed from `inputs` under at::NoGradGuard, part of the autograd graph with
/// `backward`.
///
/// `backward` may capture inputs freely, but an output only as `output.detach()`: capturing the
/// output itself makes a cycle that is never freed. Undefined inputs are allowed. Returns the
/// outputs, which now require gradients. Call only where wants_gradient(inputs) holds.
std::vector<at::Tensor> attach_backward(const std::vector<at::Tensor>& inputs,
                                        std::vector<at::Tensor> outputs,
                                        BackwardFunction backward);

/// The gradients of sum_i <outputs_i, grad_outputs_i> with respect to each of `inputs`; an
/// undefined tensor for an input that has none. The graph is freed.
std::vector<at::Tensor> gradients(const std::vector<at::Tensor>& outputs,
                                  const std::vector<at::Tensor>& inputs,
                                  const std::vector<at::Tensor>& grad_outputs);

}  // namespace lockstep
