// SPDX-License-Identifier: Apache-2.0
#include "train/adamw.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "base/check.h"
#include "ops/adamw.h"
#include "tensor/aten.h"

namespace lockstep::train {
namespace {

bool decays(const model::Parameter& parameter, WeightDecayRule rule) {
  switch (rule) {
    case WeightDecayRule::kMatrices:
      return parameter.is_matrix;
    case WeightDecayRule::kTransformers:
      // Its patterns match "bias" (here dt_bias) and the names of norms. Source: transformers 5.23,
      // Trainer.get_decay_parameter_names.
      return !parameter.is_norm && !parameter.id.ends_with("dt_bias");
    case WeightDecayRule::kAll:
      return true;
  }
  return true;
}

}  // namespace

std::span<const EnumName<WeightDecayRule>> enum_names(WeightDecayRule) {
  static constexpr EnumName<WeightDecayRule> kNames[] = {
      {WeightDecayRule::kMatrices, "matrices"},
      {WeightDecayRule::kTransformers, "transformers"},
      {WeightDecayRule::kAll, "all"},
  };
  return kNames;
}

AdamW::AdamW(model::ModelWeights& weights, const OptimizerOptions& options, model::Adapter* adapter)
    : weights_(&weights),
      adapter_(adapter),
      parameters_(model::all_parameters(weights, model::list_of(adapter))),
      options_(options) {
  for (size_t i = 0; i < parameters_.size(); ++i) {
    const model::Parameter& parameter = *parameters_[i];
    if (parameter.is_trained_whole()) {
      add_unit(i, {});
      continue;
    }
    for (size_t piece = 0; piece < parameter.pieces.size(); ++piece)
      if (parameter.pieces[piece].is_trained) add_unit(i, piece);
  }
}

void AdamW::add_unit(size_t index, std::optional<size_t> piece) {
  at::NoGradGuard no_grad;
  const model::Parameter& parameter = *parameters_[index];
  Unit unit{.name = piece ? parameter.pieces[*piece].name : parameter.id,
            .parameter = index,
            .piece = piece,
            .value = parameter.value.detach(),
            .decays = decays(parameter, options_.weight_decay_rule)};
  if (piece) unit.value = parameter.pieces[*piece].view(unit.value);
  unit.master = unit.value.scalar_type() == at::kFloat ? unit.value : unit.value.to(at::kFloat);
  unit.exp_avg = at::zeros_like(unit.master);
  unit.exp_avg_sq = at::zeros_like(unit.master);
  units_.push_back(std::move(unit));
}

/// Contiguous; undefined if there is none.
at::Tensor AdamW::gradient_of(const Unit& unit, const std::vector<at::Tensor>& gradients) const {
  const at::Tensor& whole = gradients[unit.parameter];
  if (!whole.defined()) return {};
  const at::Tensor dense = whole.contiguous();
  return unit.piece ? parameters_[unit.parameter]->pieces[*unit.piece].view(dense) : dense;
}

double AdamW::step(const std::vector<at::Tensor>& gradients, double learning_rate) {
  at::NoGradGuard no_grad;
  LOCKSTEP_CHECK(gradients.size() == parameters_.size(), "{} gradients, {} parameters",
                 gradients.size(), parameters_.size());
  std::vector<at::Tensor> trained;
  for (const Unit& unit : units_) trained.push_back(gradient_of(unit, gradients));
  const double norm = gradient_norm(trained);
  if (!std::isfinite(norm))
    fail<InternalError>("non-finite-gradient", "optimizer",
                        "expected a finite gradient norm, got {} in step {} (hint: a smaller "
                        "--learning_rate)",
                        std::isnan(norm) ? "nan" : "inf", steps_ + 1);
  ++steps_;
  ops::AdamWSettings settings{.learning_rate = learning_rate,
                              .beta1 = options_.adam_beta1,
                              .beta2 = options_.adam_beta2,
                              .eps = options_.adam_epsilon,
                              .step = steps_};
  // torch.nn.utils.clip_grad_norm_: max / (norm + 1e-6), never above 1.
  if (options_.max_grad_norm > 0)
    settings.gradient_scale = std::min(1.0, options_.max_grad_norm / (norm + 1e-6));
  for (size_t i = 0; i < units_.size(); ++i) {
    const Unit& unit = units_[i];
    settings.weight_decay = unit.decays ? options_.weight_decay : 0;
    const at::Tensor gradient = trained[i].defined() ? trained[i] : at::zeros_like(unit.master);
    ops::adamw_step(unit.value, unit.master, unit.exp_avg, unit.exp_avg_sq, gradient, settings);
  }
  const auto& base = weights_->parameters();
  if (std::any_of(base.begin(), base.end(), [](const auto& p) { return p.is_trained(); }))
    weights_->pack();
  if (adapter_) adapter_->pack();
  return norm;
}

std::vector<io::NamedTensor> AdamW::state() const {
  std::vector<io::NamedTensor> tensors;
  for (const Unit& unit : units_) {
    if (unit.value.scalar_type() != at::kFloat)
      tensors.push_back({unit.name + ".master", unit.master});
    tensors.push_back({unit.name + ".exp_avg", unit.exp_avg});
    tensors.push_back({unit.name + ".exp_avg_sq", unit.exp_avg_sq});
  }
  return tensors;
}

void AdamW::load_state(const io::SafetensorsFile& file, int64_t steps_done) {
  at::NoGradGuard no_grad;
  std::map<std::string, const io::TensorEntry*> entries;
  for (const auto& entry : file.entries()) entries[entry.name] = &entry;
  for (const auto& named : state()) {
    const auto found = entries.find(named.name);
    if (found == entries.end() || at::IntArrayRef(found->second->shape) != named.tensor.sizes() ||
        found->second->dtype != at::kFloat)
      fail<FormatError>("bad-optimizer-state", file.path().string(),
                        "expected {} float32 of {} elements, got {}", named.name,
                        named.tensor.numel(),
                        found == entries.end() ? "none" : "another shape or dtype");
    named.tensor.copy_(file.tensor(*found->second));
  }
  steps_ = steps_done;
}

int64_t AdamW::state_bytes() const {
  int64_t bytes = 0;
  for (const auto& named : state()) bytes += static_cast<int64_t>(named.tensor.nbytes());
  return bytes;
}

double gradient_norm(const std::vector<at::Tensor>& gradients) {
  double sum = 0;
  for (const auto& gradient : gradients)
    if (gradient.defined()) sum += ops::sum_of_squares(gradient.contiguous());
  return std::sqrt(sum);
}

}  // namespace lockstep::train
