// SPDX-License-Identifier: Apache-2.0
#include "tensor/autograd.h"

#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/functions/utils.h>
#include <torch/csrc/autograd/variable.h>

#include "base/check.h"

namespace lockstep {
namespace {

/// A graph node that runs a BackwardFunction.
class FunctionNode : public torch::autograd::Node {
 public:
  FunctionNode(torch::autograd::edge_list edges, BackwardFunction backward)
      : Node(std::move(edges)), backward_(std::move(backward)) {}

  torch::autograd::variable_list apply(torch::autograd::variable_list&& grads) override {
    at::NoGradGuard no_grad;
    std::vector<bool> needs(num_outputs());
    for (size_t i = 0; i < needs.size(); ++i) needs[i] = task_should_compute_output(i);
    LOCKSTEP_CHECK(backward_ != nullptr, "this graph was already freed");
    auto result = backward_(grads, needs);
    LOCKSTEP_CHECK(result.size() == needs.size(), "{} gradients for {} inputs", result.size(),
                   needs.size());
    return result;
  }

  void release_variables() override { backward_ = nullptr; }

 private:
  BackwardFunction backward_;
};

}  // namespace

bool wants_gradient(std::span<const at::Tensor> inputs) {
  if (!at::GradMode::is_enabled()) return false;
  for (const auto& input : inputs)
    if (input.defined() && input.requires_grad()) return true;
  return false;
}

std::vector<at::Tensor> attach_backward(const std::vector<at::Tensor>& inputs,
                                        std::vector<at::Tensor> outputs,
                                        BackwardFunction backward) {
  auto node = std::shared_ptr<FunctionNode>(
      new FunctionNode(torch::autograd::collect_next_edges(inputs), std::move(backward)),
      torch::autograd::deleteNode);
  for (auto& output : outputs) {
    // An output that is a view or one of the inputs cannot have a history of its own; a new tensor
    // over the same memory can.
    if (output.requires_grad() || output.is_view()) output = output.detach();
    torch::autograd::set_history(output, node);
  }
  return outputs;
}

std::vector<at::Tensor> gradients(const std::vector<at::Tensor>& outputs,
                                  const std::vector<at::Tensor>& inputs,
                                  const std::vector<at::Tensor>& grad_outputs) {
  return torch::autograd::grad(outputs, inputs, grad_outputs, /*retain_graph=*/false,
                               /*create_graph=*/false, /*allow_unused=*/true);
}

}  // namespace lockstep
