// SPDX-License-Identifier: Apache-2.0
#include "train/rank_costs.h"

#include <algorithm>
#include <map>
#include <utility>
#include <vector>

#include "base/check.h"
#include "model/logical_model.h"  // is_published_in_float32
#include "train/plan.h"

namespace lockstep::train {
namespace {

constexpr int64_t kFloatBytes = 4;

int64_t bytes_of(model::WeightDtype dtype) {
  return dtype == model::WeightDtype::kFloat32 ? kFloatBytes : 2;
}

void check_divides(const char* flag, int64_t degree, int64_t whole, std::string_view what) {
  if (degree < 1 || whole % degree != 0)
    fail<ConfigError>("bad-degree", flag, "expected a divisor of the {} {}, got {}", whole, what,
                      degree);
}

/// What is outside of layers is the last unit.
int64_t unit_of(int64_t layer, int64_t num_layers) {
  return layer == model::Parameter::kNoLayer ? num_layers : layer;
}

/// A and B as parameters. They are float32, and share a unit with what they are beside.
void append_pair(const AdaptedTarget& adapted,
                 int64_t num_layers,
                 std::vector<CostedParameter>& parameters) {
  const model::AdapterTarget& target = adapted.target;
  const int64_t experts = std::max<int64_t>(1, target.num_experts);
  const auto [a_name, b_name] = model::half_names(target);
  const bool is_of_layer = target.part == model::AdapterTarget::Part::kLayer;
  const int64_t unit = unit_of(is_of_layer ? target.layer : model::Parameter::kNoLayer, num_layers);
  const auto append = [&](std::string_view suffix, int64_t width) {
    parameters.push_back({.item = {.id = target.path + std::string(suffix),
                                   .elements = experts * adapted.rank * width,
                                   .num_experts = target.num_experts},
                          .element_size = kFloatBytes,
                          .is_trained = true,
                          .unit = unit});
  };
  append(a_name, target.in);
  append(b_name, target.out);
}

}  // namespace

void check_degrees(const model::ModelConfig& config, const ParallelDegrees& degrees) {
  check_divides("--sequence_parallel_size", degrees.sequence_parallel, degrees.ranks, "ranks");
  check_divides("--expert_parallel_size", degrees.expert_parallel, degrees.ranks, "ranks");
  if (degrees.expert_parallel > 1 && config.num_experts == 0)
    fail<ConfigError>("bad-degree", "--expert_parallel_size",
                      "expected 1 for a model without experts, got {}", degrees.expert_parallel);
  if (config.num_experts > 0)
    check_divides("--expert_parallel_size", degrees.expert_parallel, config.num_experts,
                  "experts of a layer");
  // Whole heads change ranks, so that each sees the whole sequence on one of them and no bit
  // changes.
  const auto check_heads = [&](int64_t heads, const char* what) {
    if (heads > 0)
      check_divides("--sequence_parallel_size", degrees.sequence_parallel, heads, what);
  };
  check_heads(config.num_attention_heads, "query heads, which ranks of a sequence share");
  check_heads(config.num_key_value_heads, "key heads, which ranks of a sequence share");
  check_heads(config.linear_num_key_heads,
              "key heads of the delta rule, which ranks of a sequence share");
}

std::vector<CostedParameter> costed_parameters(
    const model::ModelConfig& config,
    std::span<const model::Parameter> parameters,
    model::WeightDtype dtype,
    const std::optional<std::vector<AdaptedTarget>>& adapter) {
  std::vector<CostedParameter> costed;
  for (const model::Parameter& parameter : parameters) {
    const std::string& name = parameter.pieces.front().name;
    const bool is_trained = !adapter && parameter.is_trained();
    const bool is_embedding = name.ends_with("embed_tokens.weight");
    costed.push_back(
        {.item = shard_item(parameter, config.num_experts),
         .element_size = model::is_published_in_float32(name) ? kFloatBytes : bytes_of(dtype),
         .is_trained = is_trained,
         .is_cut = is_trained && parameter.layer != model::Parameter::kNoLayer,
         .is_exchanged = !is_embedding || config.tie_word_embeddings,
         .unit = unit_of(parameter.layer, config.num_hidden_layers)});
  }
  if (adapter)
    for (const AdaptedTarget& adapted : *adapter)
      append_pair(adapted, config.num_hidden_layers, costed);
  return costed;
}

RankCosts::RankCosts(std::span<const CostedParameter> parameters,
                     const ShardPlan& plan,
                     Sharding sharding,
                     int64_t ranks_per_host)
    : parameters_(parameters), plan_(plan), sharding_(sharding), ranks_per_host_(ranks_per_host) {
  for (const CostedParameter& parameter : parameters)
    num_units_ = std::max(num_units_, static_cast<size_t>(parameter.unit) + 1);
  if (sharding == Sharding::kFull) add_gathers();
  add_updates();
}

template <class Size>
void RankCosts::add_call(std::span<const size_t> parameters, Size&& size, Gathered& sum) const {
  int64_t longest[2] = {0, 0};
  for (int64_t rank = 0; rank < plan_.degrees().ranks; ++rank) {
    int64_t bytes[2] = {0, 0};
    for (const size_t i : parameters)
      bytes[parameters_[i].item.num_experts > 0] += plan_.owned(i, rank).count() * size(i);
    for (const int kind : {0, 1}) longest[kind] = std::max(longest[kind], bytes[kind]);
  }
  for (const int kind : {0, 1}) sum.longest[kind] += longest[kind];
}

/// A layer is gathered by one call.
void RankCosts::add_gathers() {
  std::map<int64_t, std::vector<size_t>> layers;
  for (size_t i = 0; i < parameters_.size(); ++i)
    if (parameters_[i].is_cut) layers[parameters_[i].unit].push_back(i);
  for (const auto& [unit, indices] : layers) {
    add_call(
        indices, [&](size_t i) { return parameters_[i].element_size; }, gather_pass_);
    int64_t held = 0;
    for (const size_t i : indices) held += plan_.held(i, 0).count() * parameters_[i].element_size;
    largest_layer_ = std::max(largest_layer_, held);
  }
}

/// Sums go back to all ranks with the exchange of their unit; weights that were updated, in calls
/// of AdamW.
void RankCosts::add_updates() {
  if (sharding_ == Sharding::kNone) {
    std::map<int64_t, std::vector<size_t>> units;
    for (size_t i = 0; i < parameters_.size(); ++i)
      if (parameters_[i].is_trained && parameters_[i].is_exchanged)
        units[parameters_[i].unit].push_back(i);
    for (const auto& [unit, indices] : units)
      add_call(
          indices, [](size_t) { return kFloatBytes; }, update_);
    return;
  }
  std::vector<size_t> indices;
  int64_t bytes = 0;
  const auto add = [&] {
    add_call(
        indices, [&](size_t i) { return parameters_[i].element_size; }, update_);
    indices.clear();
    bytes = 0;
  };
  for (size_t i = 0; i < parameters_.size(); ++i) {
    const CostedParameter& parameter = parameters_[i];
    if (!parameter.is_trained || (sharding_ == Sharding::kFull && parameter.is_cut)) continue;
    indices.push_back(i);
    bytes += parameter.item.elements * parameter.element_size;
    if (bytes >= kSharedAtOnce) add();
  }
  add();
}

std::pair<int64_t, int64_t> RankCosts::peers(bool is_expert, int64_t rank) const {
  const int64_t ranks = plan_.degrees().ranks;
  const int64_t step = is_expert ? plan_.degrees().expert_parallel : 1;
  const int64_t begin = rank / ranks_per_host_ * ranks_per_host_;
  int64_t near = 0;
  for (int64_t other = begin; other < std::min(begin + ranks_per_host_, ranks); ++other)
    near += other != rank && other % step == rank % step;
  const int64_t all = ranks / step - 1;
  return {all, all - near};
}

std::pair<int64_t, int64_t> RankCosts::received(const Gathered& gathered, int64_t rank) const {
  std::pair<int64_t, int64_t> sum;
  for (const int kind : {0, 1}) {
    const auto [all, far] = peers(kind == 1, rank);
    sum.first += all * gathered.longest[kind];
    sum.second += far * gathered.longest[kind];
  }
  return sum;
}

RankBytes RankCosts::of(int64_t rank) const {
  const bool is_none = sharding_ == Sharding::kNone;
  const std::pair<int64_t, int64_t> peers_of[2] = {peers(false, rank), peers(true, rank)};
  RankBytes bytes;
  std::vector<int64_t> unit_gradients(num_units_);
  for (size_t i = 0; i < parameters_.size(); ++i) {
    const CostedParameter& parameter = parameters_[i];
    const auto& [all, far] = peers_of[parameter.item.num_experts > 0];
    const int64_t held = plan_.held(i, rank).count(), owned = plan_.owned(i, rank).count();
    const bool is_cut = sharding_ == Sharding::kFull && parameter.is_cut;
    const int64_t kept_state = is_none ? held : owned;
    bytes.weights += (is_cut ? owned : held) * parameter.element_size;
    if (!parameter.is_trained) continue;
    if (parameter.element_size < kFloatBytes) bytes.masters += kept_state * kFloatBytes;
    bytes.moments += kept_state * 2 * kFloatBytes;
    bytes.gradients += kept_state * kFloatBytes;
    if (!parameter.is_exchanged) continue;
    bytes.exchange += all * owned * kFloatBytes;
    bytes.step_from_hosts += far * owned * kFloatBytes;
    if (!is_none && all > 0)
      unit_gradients[static_cast<size_t>(parameter.unit)] += held * kFloatBytes;
  }
  for (const int64_t size : unit_gradients)
    bytes.unit_gradients = std::max(bytes.unit_gradients, size);
  const auto [gathered, gathered_far] = received(gather_pass_, rank);
  const auto [updated, updated_far] = received(update_, rank);
  bytes.gather_pass = gathered;
  bytes.update = updated;
  bytes.step_from_hosts += 2 * gathered_far + updated_far;
  // A rank that is alone gathers nothing.
  if (gathered > 0) bytes.gathered_units = 2 * largest_layer_;
  return bytes;
}

TokenBytes token_bytes(const model::ModelConfig& config,
                       model::WeightDtype dtype,
                       const ParallelDegrees& degrees) {
  const auto share_of_others = [](int64_t degree) {
    return static_cast<double>(degree - 1) / static_cast<double>(degree);
  };
  const auto size = static_cast<double>(bytes_of(dtype));
  TokenBytes bytes;
  bytes.expert_rows = static_cast<double>(2 * config.num_moe_layers() * config.num_experts_per_tok *
                                          config.hidden_size) *
                      size * share_of_others(degrees.expert_parallel);
  int64_t width = 0;
  for (const model::MixerKind mixer : config.mixers)
    width +=
        mixer == model::MixerKind::kAttention
            ? config.query_rows() + 2 * config.key_value_rows() +
                  config.num_attention_heads * config.head_dim
            : config.conv_dim() + 2 * config.linear_value_dim() + 2 * config.linear_num_value_heads;
  bytes.heads = static_cast<double>(width) * size * share_of_others(degrees.sequence_parallel);
  return bytes;
}

}  // namespace lockstep::train
