// SPDX-License-Identifier: Apache-2.0
#include "train/rank_costs.h"

#include <algorithm>
#include <map>

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

/// The units of a layer are its own, embedding and head those behind all layers.
int64_t unit_of(const model::ModelConfig& config, const model::Parameter& parameter) {
  if (parameter.layer != model::Parameter::kNoLayer)
    return 2 * parameter.layer + (parameter.is_expert ? 1 : 0);
  const bool is_embedding = parameter.pieces.front().name.ends_with("embed_tokens.weight");
  return 2 * config.num_hidden_layers + (is_embedding ? 0 : 1);
}

/// A and B as parameters. They are float32, and share a unit with what they are beside.
void append_pair(const AdaptedTarget& adapted,
                 int64_t num_layers,
                 std::vector<CostedParameter>& parameters) {
  const model::AdapterTarget& target = adapted.target;
  const int64_t experts = std::max<int64_t>(1, target.num_experts);
  const auto [a_name, b_name] = model::half_names(target);
  const bool is_of_layer = target.part == model::AdapterTarget::Part::kLayer;
  const int64_t unit =
      is_of_layer
          ? 2 * target.layer + (target.num_experts > 0 ? 1 : 0)
          : 2 * num_layers + (target.part == model::AdapterTarget::Part::kEmbedding ? 0 : 1);
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

/// A rank's part in an item: elements, and other ranks that hold the same.
struct ItemShare {
  int64_t held = 0, owned = 0;
  /// Elements that it holds and others own, and how many these are.
  int64_t others = 0, peers = 0;
  /// Those of them on other hosts.
  int64_t others_far = 0, peers_far = 0;
};

ItemShare share_of(const ShardPlan& plan, size_t item, const CostTerms& terms, int64_t rank) {
  const int64_t ranks = plan.degrees().ranks;
  const int64_t step = plan.items()[item].num_experts > 0 ? plan.degrees().expert_parallel : 1;
  ItemShare share{.held = plan.held(item, rank).count(),
                  .owned = plan.owned(item, rank).count(),
                  .others = 0,
                  .peers = ranks / step - 1};
  share.others = share.held - share.owned;
  if (!terms.ranks_per_host) return share;
  share.others_far = share.others;
  share.peers_far = share.peers;
  const int64_t begin = rank / *terms.ranks_per_host * *terms.ranks_per_host;
  for (int64_t near = begin; near < std::min(begin + *terms.ranks_per_host, ranks); ++near) {
    if (near == rank || near % step != rank % step) continue;
    share.others_far -= plan.owned(item, near).count();
    --share.peers_far;
  }
  return share;
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
    const bool is_float = model::is_published_in_float32(parameter.pieces.front().name);
    costed.push_back({.item = shard_item(parameter, config.num_experts),
                      .element_size = is_float ? kFloatBytes : bytes_of(dtype),
                      .is_trained = !adapter && parameter.is_trained(),
                      .unit = unit_of(config, parameter)});
  }
  if (adapter)
    for (const AdaptedTarget& adapted : *adapter)
      append_pair(adapted, config.num_hidden_layers, costed);
  return costed;
}

int64_t rounds_of_step(const ParallelDegrees& degrees) {
  return std::max<int64_t>(1, kNumSlots / degrees.data_parallel());
}

RankBytes rank_bytes(std::span<const CostedParameter> parameters,
                     const ShardPlan& plan,
                     const CostTerms& terms,
                     int64_t rank) {
  const bool is_full = terms.level == Sharding::kFull, is_none = terms.level == Sharding::kNone;
  RankBytes bytes;
  std::map<int64_t, int64_t> unit_weights, unit_gradients;
  for (size_t i = 0; i < parameters.size(); ++i) {
    const CostedParameter& parameter = parameters[i];
    const ItemShare share = share_of(plan, i, terms, rank);
    const int64_t kept_state = is_none ? share.held : share.owned;
    bytes.weights += (is_full ? share.owned : share.held) * parameter.element_size;
    // Bytes of an element that this rank receives once, and those that each other rank sends it of
    // its own elements.
    int64_t once = 0, from_each = 0;
    if (is_full) {
      bytes.gather_pass += share.others * parameter.element_size;
      unit_weights[parameter.unit] += share.held * parameter.element_size;
      once = 2 * parameter.element_size;
    }
    if (parameter.is_trained) {
      if (parameter.element_size < kFloatBytes) bytes.masters += kept_state * kFloatBytes;
      bytes.moments += kept_state * 2 * kFloatBytes;
      bytes.gradients += kept_state * kFloatBytes;
      if (!is_none && share.peers > 0) unit_gradients[parameter.unit] += share.held * kFloatBytes;
      from_each = terms.rounds * kFloatBytes;
      bytes.exchange += share.peers * share.owned * from_each;
      // Sums go back to all, or weights that were updated with them.
      const int64_t updated = is_full ? 0 : is_none ? kFloatBytes : parameter.element_size;
      bytes.update += share.others * updated;
      once += updated;
    }
    bytes.step_from_hosts += share.others_far * once + share.peers_far * share.owned * from_each;
  }
  const auto largest = [](const std::map<int64_t, int64_t>& units) {
    int64_t most = 0;
    for (const auto& [unit, size] : units) most = std::max(most, size);
    return most;
  };
  // A rank that is alone gathers nothing.
  if (bytes.gather_pass > 0) bytes.gathered_units = 2 * largest(unit_weights);
  bytes.unit_gradients = largest(unit_gradients);
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
