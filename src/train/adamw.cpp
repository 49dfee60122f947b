// SPDX-License-Identifier: Apache-2.0
#include "train/adamw.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "base/check.h"
#include "ops/adamw.h"
#include "parallel/gather.h"
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

AdamW::AdamW(model::ModelWeights& weights,
             const OptimizerOptions& options,
             model::Adapter* adapter,
             const Shards& shards)
    : weights_(&weights),
      adapter_(adapter),
      parameters_(model::all_parameters(weights, model::list_of(adapter))),
      options_(options),
      shards_(shards) {
  for (size_t i = 0; i < parameters_.size(); ++i) {
    const model::Parameter& parameter = *parameters_[i];
    if (parameter.is_trained_whole()) {
      add_unit(i, parameter.id, parameter.value.sizes().vec(), 0);
      continue;
    }
    for (const model::CheckpointPiece& piece : parameter.pieces)
      if (piece.is_trained) add_unit(i, piece.name, piece.shape, piece.offset);
  }
}

void AdamW::add_unit(size_t index, std::string name, std::vector<int64_t> shape, int64_t offset) {
  at::NoGradGuard no_grad;
  const model::Parameter& parameter = *parameters_[index];
  const int64_t count = c10::multiply_integers(shape);
  Unit unit{.name = std::move(name),
            .parameter = index,
            .shape = std::move(shape),
            .all = {offset, offset + count},
            .own = overlap({offset, offset + count}, shards_.range(parameter)),
            .decays = decays(parameter, options_.weight_decay_rule)};
  unit.value = parameter.value.detach().view({-1}).narrow(0, unit.own.first, unit.own.count());
  unit.master = unit.value.scalar_type() == at::kFloat ? unit.value : unit.value.to(at::kFloat);
  unit.exp_avg = at::zeros_like(unit.master);
  unit.exp_avg_sq = at::zeros_like(unit.master);
  units_.push_back(std::move(unit));
}

/// A list of the unit's own elements; undefined if there is none.
at::Tensor AdamW::gradient_of(const Unit& unit, const std::vector<at::Tensor>& gradients) const {
  const at::Tensor& own = gradients[unit.parameter];
  if (!own.defined()) return {};
  const parallel::ElementRange range = shards_.range(*parameters_[unit.parameter]);
  LOCKSTEP_CHECK(own.numel() == range.count(), "{}: {} elements of a gradient, expected {}",
                 unit.name, own.numel(), range.count());
  const int64_t first = unit.own.count() ? unit.own.first - range.first : 0;
  return own.contiguous().view({-1}).narrow(0, first, unit.own.count());
}

namespace {

/// The sums of squares of blocks of a list's own elements, the first of which is `first`: blocks
/// begin anew in each piece of `period` elements, if it is not 0.
std::vector<double> sums_of_blocks(const at::Tensor& own, int64_t first, int64_t period) {
  if (!period) return ops::block_sums_of_squares(own, first);
  std::vector<double> sums;
  for (int64_t at = 0; at < own.numel();) {
    const int64_t in_piece = (first + at) % period,
                  count = std::min(period - in_piece, own.numel() - at);
    for (const double sum : ops::block_sums_of_squares(own.narrow(0, at, count), in_piece))
      sums.push_back(sum);
    at += count;
  }
  return sums;
}

}  // namespace

/// The norm of all ranks' gradients, one a unit. Sums of blocks are added unit by unit, in the
/// order of elements.
double AdamW::norm_of(const std::vector<at::Tensor>& gradients) const {
  static_assert(ops::kSquaresBlock == parallel::kBlockElements);
  std::vector<std::vector<double>> own;
  for (size_t i = 0; i < units_.size(); ++i)
    own.push_back(gradients[i].defined()
                      ? sums_of_blocks(gradients[i], units_[i].own.first,
                                       Shards::period(*parameters_[units_[i].parameter]))
                      : std::vector<double>());
  double sum = 0;
  for (const std::vector<double>& blocks : gather_blocks(own)) {
    double of_unit = 0;
    for (const double block : blocks) of_unit += block;
    sum += of_unit;
  }
  return std::sqrt(sum);
}

/// By unit: what ranks that share units out have summed of each, in the order of their elements.
std::vector<std::vector<double>> AdamW::gather_blocks(
    const std::vector<std::vector<double>>& own) const {
  if (shards_.sharding() == Sharding::kNone && shards_.expert_parallel() == 1) return own;
  std::vector<double> list;
  std::vector<int64_t> counts;
  for (const std::vector<double>& blocks : own) {
    list.insert(list.end(), blocks.begin(), blocks.end());
    counts.push_back(std::ssize(blocks));
  }
  list = parallel::gather_list(shards_.ranks(), std::move(list), {"norms of gradients"});
  counts = parallel::gather_list(shards_.ranks(), std::move(counts), {"blocks of gradients"});
  std::vector<std::span<const double>> of_ranks;
  std::span<const double> rest(list);
  for (const int64_t count : counts) {
    of_ranks.push_back(rest.first(static_cast<size_t>(count)));
    rest = rest.subspan(static_cast<size_t>(count));
  }
  std::vector<std::vector<double>> all(own.size());
  for (size_t i = 0; i < own.size(); ++i)
    for (const int64_t rank : shards_.owners(*parameters_[units_[i].parameter])) {
      const auto& part = of_ranks[static_cast<size_t>(rank) * own.size() + i];
      all[i].insert(all[i].end(), part.begin(), part.end());
    }
  return all;
}

/// Gives every rank the weights that the others have updated.
void AdamW::share_weights() {
  const size_t in_model = weights_->parameters().size();
  if (shards_.sharding() != Sharding::kNone) {
    std::vector<const model::Parameter*> of_all, of_experts;
    for (size_t i = 0; i < parameters_.size(); ++i) {
      const model::Parameter& parameter = *parameters_[i];
      if (!parameter.is_trained() || (i < in_model && shards_.is_cut(parameter))) continue;
      (shards_.is_parted(parameter) ? of_experts : of_all).push_back(&parameter);
    }
    share_held(of_all);
    share_held(of_experts);
  }
  // Adapters are small: their experts are whole on every rank.
  for (size_t i = in_model; i < parameters_.size(); ++i)
    if (const model::Parameter& parameter = *parameters_[i]; shards_.is_parted(parameter))
      shards_.experts()->all_gather(shards_.held_list(parameter).bytes,
                                    bytes_of(parameter.value).bytes, {"an adapter's experts"});
}

/// Shares what is held by the same ranks.
void AdamW::share_held(const std::vector<const model::Parameter*>& parameters) const {
  std::vector<parallel::SharedList> lists;
  int64_t bytes = 0;
  const auto share = [&] {
    if (!lists.empty())
      parallel::share_ranges(shards_.holders(*parameters.front()), lists, {"weights"});
    lists.clear();
    bytes = 0;
  };
  for (const model::Parameter* parameter : parameters) {
    lists.push_back(shards_.held_list(*parameter));
    bytes += std::ssize(lists.back().bytes);
    if (bytes >= kSharedAtOnce) share();
  }
  share();
}

double AdamW::step(const std::vector<at::Tensor>& gradients, double learning_rate) {
  at::NoGradGuard no_grad;
  LOCKSTEP_CHECK(gradients.size() == parameters_.size(), "{} gradients, {} parameters",
                 gradients.size(), parameters_.size());
  std::vector<at::Tensor> trained;
  for (const Unit& unit : units_) trained.push_back(gradient_of(unit, gradients));
  const double norm = norm_of(trained);
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
  share_weights();
  const auto& base = weights_->parameters();
  if (std::any_of(base.begin(), base.end(), [](const auto& p) { return p.is_trained(); }))
    weights_->pack([&](const auto& parameter) { return !shards_.is_cut(parameter); });
  if (adapter_) adapter_->pack();
  return norm;
}

std::vector<io::TensorPart> AdamW::state_parts() const {
  std::vector<io::TensorPart> parts;
  for (const Unit& unit : units_) {
    const auto add = [&](const char* kind, const at::Tensor& values) {
      parts.push_back({unit.name + kind, unit.shape, unit.own.first - unit.all.first, values});
    };
    if (unit.value.scalar_type() != at::kFloat) add(".master", unit.master);
    add(".exp_avg", unit.exp_avg);
    add(".exp_avg_sq", unit.exp_avg_sq);
  }
  return parts;
}

void AdamW::load_state(const io::SafetensorsFile& file, int64_t steps_done) {
  at::NoGradGuard no_grad;
  std::map<std::string, const io::TensorEntry*> entries;
  for (const auto& entry : file.entries()) entries[entry.name] = &entry;
  for (const io::TensorPart& part : state_parts()) {
    const auto found = entries.find(part.name);
    if (found == entries.end() || found->second->shape != part.shape ||
        found->second->dtype != at::kFloat)
      fail<FormatError>("bad-optimizer-state", file.path().string(),
                        "expected {} float32 of {} elements, got {}", part.name,
                        c10::multiply_integers(part.shape),
                        found == entries.end() ? "none" : "another shape or dtype");
    part.values.copy_(
        file.tensor(*found->second).reshape({-1}).narrow(0, part.first, part.values.numel()));
  }
  steps_ = steps_done;
}

int64_t AdamW::state_bytes() const {
  int64_t bytes = 0;
  for (const io::TensorPart& part : state_parts())
    bytes += static_cast<int64_t>(part.values.nbytes());
  return bytes;
}

double gradient_norm(const std::vector<at::Tensor>& gradients) {
  double sum = 0;
  for (const auto& gradient : gradients)
    if (gradient.defined()) sum += ops::sum_of_squares(gradient.contiguous());
  return std::sqrt(sum);
}

}  // namespace lockstep::train
