// SPDX-License-Identifier: Apache-2.0
#include "model/decoder.h"

#include <algorithm>
#include <cmath>
#include <span>

#include <ATen/core/IListRef.h>  // the list of at::cat

#include "base/check.h"
#include "model/expert_ranks.h"
#include "ops/activation.h"
#include "ops/causal_conv.h"
#include "ops/gated_delta.h"
#include "ops/low_rank.h"
#include "ops/moe.h"
#include "ops/rms_norm.h"
#include "ops/rope.h"
#include "tensor/aten.h"

namespace lockstep::model {
namespace {

ops::NormKind norm_kind(const ModelConfig& config) {
  return config.is_qwen3_5() ? ops::NormKind::kOnePlus : ops::NormKind::kPlain;
}

/// The forward of one layer, whose parts share the batch and the configuration.
class LayerForward {
 public:
  LayerForward(const ModelConfig& config,
               const ForwardBatch& batch,
               const Decoder::Shared& shared,
               int64_t index,
               ExpertRanks* ranks)
      : config_(config), batch_(batch), shared_(shared), index_(index), ranks_(ranks) {}

  at::Tensor norm(const at::Tensor& x, const at::Tensor& weight) const {
    return ops::rms_norm(x, weight, config_.rms_norm_eps, norm_kind(config_));
  }

  ops::NormedSum add_norm(const at::Tensor& x,
                          const at::Tensor& residual,
                          const at::Tensor& weight) const {
    return ops::add_rms_norm(x, residual, weight, config_.rms_norm_eps, norm_kind(config_));
  }

  /// x W^T, and what adapters add to it.
  at::Tensor product(const at::Tensor& x, const ops::LinearWeight& weight) const {
    std::vector<ops::LowRankTerm> terms;
    for (const AdaptedRows& own : batch_.adapters)
      for (const ops::LowRank& pair : own.adapter->pairs_of(weight.number))
        terms.push_back({&pair, own.rows, own.dropout});
    return ops::adapted_linear(x, weight, terms);
  }

  at::Tensor attention(const at::Tensor& x, const AttentionWeights& weights) const {
    const int64_t tokens = x.size(0), heads = config_.num_attention_heads, dim = config_.head_dim;
    const int64_t kv = config_.key_value_rows();
    const at::Tensor qkv = product(x, weights.qkv);
    at::Tensor query =
        qkv.narrow(1, 0, config_.query_rows()).view({tokens, heads, config_.query_rows() / heads});
    const at::Tensor key =
        qkv.narrow(1, config_.query_rows(), kv).view({tokens, config_.num_key_value_heads, dim});
    const at::Tensor value = qkv.narrow(1, config_.query_rows() + kv, kv)
                                 .view({tokens, config_.num_key_value_heads, dim});
    // Qwen3.5 interleaves by head: Dh query rows, then Dh gate rows.
    at::Tensor gate;
    if (config_.is_qwen3_5()) {
      gate = query.narrow(2, dim, dim).reshape({tokens, heads * dim});
      query = query.narrow(2, 0, dim);
    }
    const at::Tensor q = ops::apply_rope(norm(query, weights.q_norm), shared_.rope);
    const at::Tensor k = ops::apply_rope(norm(key, weights.k_norm), shared_.rope);
    at::Tensor out = attend(q, k, value).view({tokens, heads * dim});
    if (gate.defined()) out = ops::sigmoid_mul(out, gate);
    return product(out, weights.o);
  }

  at::Tensor delta(const at::Tensor& x, const GatedDeltaWeights& weights) const {
    const int64_t tokens = x.size(0), key_dim = config_.linear_key_dim(),
                  value_dim = config_.linear_value_dim();
    const int64_t key_heads = config_.linear_num_key_heads,
                  value_heads = config_.linear_num_value_heads;
    const at::Tensor projected = product(x, weights.in_proj);
    const int64_t conv_dim = config_.conv_dim();
    const at::Tensor z = projected.narrow(1, conv_dim, value_dim).view({tokens, value_heads, -1});
    const at::Tensor b = projected.narrow(1, conv_dim + value_dim, value_heads);
    const at::Tensor a = projected.narrow(1, conv_dim + value_dim + value_heads, value_heads);
    const at::Tensor mixed = convolve(projected.narrow(1, 0, conv_dim), weights.conv);
    const auto gates = ops::gated_delta_gates(a, b, weights.A_log, weights.dt_bias);
    const ops::GatedDeltaInputs inputs{
        mixed.narrow(1, 0, key_dim).view({tokens, key_heads, -1}),
        mixed.narrow(1, key_dim, key_dim).view({tokens, key_heads, -1}),
        mixed.narrow(1, 2 * key_dim, value_dim).view({tokens, value_heads, -1}), gates.log_decay,
        gates.beta};
    const at::Tensor normed =
        ops::gated_rms_norm(recur(inputs), z, weights.norm, config_.rms_norm_eps);
    return product(normed.view({tokens, value_dim}), weights.out);
  }

  at::Tensor dense(const at::Tensor& x, const DenseWeights& weights) const {
    return product(ops::silu_mul(product(x, weights.gate_up)), weights.down);
  }

  at::Tensor experts(const at::Tensor& x, const ExpertWeights& weights) const {
    const ops::Routing routing = choose(product(x, weights.router));
    at::Tensor out =
        ops::experts(x, routing, weights.gate_up, weights.down, terms_of(weights), ranks_);
    if (weights.shared)
      out = out.add(ops::sigmoid_mul(dense(x, *weights.shared), product(x, weights.shared_gate)));
    return out;
  }

  /// A rank's part in the experts of a layer for which it has no tokens. Shapes: x [0, D].
  at::Tensor join_experts(const at::Tensor& x, const ExpertWeights& weights) const {
    const std::vector<int64_t> none{0, config_.num_experts_per_tok};
    const ops::Routing routing{at::empty(none, x.options().requires_grad(false)),
                               at::empty(none, at::TensorOptions().dtype(at::kLong))};
    return ops::experts(x, routing, weights.gate_up, weights.down, terms_of(weights), ranks_);
  }

 private:
  /// What adapters add to the experts: ranks that share these out have terms for the same ones.
  std::vector<ops::ExpertTerm> terms_of(const ExpertWeights& weights) const {
    std::vector<ops::ExpertTerm> terms;
    const auto append = [&](const Adapter& adapter, const at::Tensor& rows,
                            const ops::Dropout& dropout) {
      const ops::ExpertLowRank* const gate_up = adapter.expert_pair_of(weights.gate_up.number);
      const ops::ExpertLowRank* const down = adapter.expert_pair_of(weights.down.number);
      if (gate_up || down) terms.push_back({gate_up, down, rows, dropout});
    };
    if (!ranks_) {
      for (const AdaptedRows& own : batch_.adapters) append(*own.adapter, own.rows, own.dropout);
      return terms;
    }
    for (const Adapter* adapter : ranks_->adapters()) {
      const auto own =
          std::find_if(batch_.adapters.begin(), batch_.adapters.end(),
                       [&](const AdaptedRows& rows) { return rows.adapter == adapter; });
      if (own != batch_.adapters.end())
        append(*adapter, own->rows, own->dropout);
      else
        append(*adapter, at::empty({0}, at::TensorOptions().dtype(at::kLong)), {});
    }
    return terms;
  }

  ops::Routing choose(const at::Tensor& logits) const {
    const RouterWatch* const watch = batch_.router.get();
    if (!watch) return route(logits, nullptr, nullptr);
    const int64_t number = config_.moe_layers_below(index_);
    const auto of_layer = [&](const at::Tensor& all) {
      return all.defined() ? all.select(1, number) : at::Tensor();
    };
    const ops::RouterTerm term{watch->token_weights, watch->slopes};
    const ops::GivenExperts given{of_layer(watch->replayed.experts),
                                  of_layer(watch->replayed.weights)};
    const ops::Routing routing = route(logits, watch->slopes.defined() ? &term : nullptr,
                                       watch->replayed.defined() ? &given : nullptr);
    if (watch->counts) count(logits, *watch);
    if (watch->changed.defined()) of_layer(watch->changed).copy_(routing.changed);
    if (watch->recorded.defined()) of_layer(watch->recorded.experts).copy_(routing.experts);
    if (watch->recorded.weights.defined())
      of_layer(watch->recorded.weights).copy_(routing.weights.detach());
    return routing;
  }

  ops::Routing route(const at::Tensor& logits,
                     const ops::RouterTerm* term,
                     const ops::GivenExperts* given) const {
    return ops::route(logits, config_.num_experts_per_tok, config_.norm_topk_prob, term, given);
  }

  /// Adds what a layer's router chooses to the counts, whatever experts are replayed: it is the
  /// router that is to be balanced.
  void count(const at::Tensor& logits, const RouterWatch& watch) const {
    const at::NoGradGuard no_grad;
    const ops::Routing routing = route(logits, nullptr, nullptr);
    const at::Tensor weights = watch.token_weights.to(at::kDouble).unsqueeze(1);
    const at::Tensor p = ops::router_probabilities(logits).to(at::kDouble);
    RouterCounts& counts = *watch.counts;
    counts.probabilities.add_(p.mul(weights).sum(0));
    counts.chosen.index_add_(0, routing.experts.flatten(),
                             weights.expand(routing.experts.sizes()).flatten());
    counts.tokens += weights.sum().item<double>();
  }

  at::Tensor attend(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) const {
    const double scale = 1.0 / std::sqrt(static_cast<double>(config_.head_dim));
    if (!batch_.cached) return ops::causal_attention(q, k, v, batch_.sequences, scale);
    const auto& cache = batch_.cached->tensors->layers[static_cast<size_t>(index_)];
    ops::store_keys_values(k, v, cache.keys, cache.values, batch_.cached->paged);
    return ops::paged_attention(q, cache.keys, cache.values, batch_.cached->paged, scale);
  }

  at::Tensor convolve(const at::Tensor& x, const at::Tensor& weight) const {
    if (!batch_.cached) return ops::causal_conv(x, weight, batch_.sequences);
    const auto& cache = batch_.cached->tensors->layers[static_cast<size_t>(index_)];
    return ops::causal_conv_cached(x, weight, batch_.sequences, cache.conv, batch_.cached->slots);
  }

  at::Tensor recur(const ops::GatedDeltaInputs& inputs) const {
    if (batch_.cached) {
      const auto& cache = batch_.cached->tensors->layers[static_cast<size_t>(index_)];
      if (batch_.chunked_delta) return recur_chunked(inputs, cache.state);
      return ops::gated_delta_rule_cached(inputs, batch_.sequences, cache.state,
                                          batch_.cached->slots);
    }
    if (batch_.chunked_delta && !at::GradMode::is_enabled())
      return ops::gated_delta_rule_chunked(inputs, batch_.sequences).output;
    return ops::gated_delta_rule(inputs, batch_.sequences).output;
  }

  /// Computes prompts, which stand before the sequences that decode, by chunks, and the others by
  /// the recurrence.
  at::Tensor recur_chunked(const ops::GatedDeltaInputs& inputs, const at::Tensor& pool) const {
    const ops::PackedSequences& all = batch_.sequences;
    const std::span<const int64_t> slots = batch_.cached->slots;
    ops::PackedSequences prompts, others;
    int64_t num_prompts = 0;
    for (int64_t b = 0; b < all.count(); ++b)
      if (all.length(b) > 1) num_prompts = b + 1;
    for (int64_t b = 0; b < num_prompts; ++b) prompts.append(all.length(b));
    for (int64_t b = num_prompts; b < all.count(); ++b) others.append(all.length(b));
    const auto part = [&](int64_t first, int64_t count) {
      const auto rows = [&](const at::Tensor& x) { return x.narrow(0, first, count); };
      return ops::GatedDeltaInputs{rows(inputs.q), rows(inputs.k), rows(inputs.v),
                                   rows(inputs.log_decay), rows(inputs.beta)};
    };
    std::vector<at::Tensor> outputs;
    if (num_prompts) {
      const at::Tensor own = at::empty({num_prompts}, at::TensorOptions().dtype(at::kLong));
      std::copy_n(slots.begin(), num_prompts, own.mutable_data_ptr<int64_t>());
      const auto found = ops::gated_delta_rule_chunked(part(0, prompts.tokens()), prompts,
                                                       pool.index_select(0, own));
      pool.index_copy_(0, own, found.final_state);
      outputs.push_back(found.output);
    }
    if (others.tokens())
      outputs.push_back(
          ops::gated_delta_rule_cached(part(prompts.tokens(), others.tokens()), others, pool,
                                       slots.subspan(static_cast<size_t>(num_prompts))));
    return at::cat(outputs);
  }

  const ModelConfig& config_;
  const ForwardBatch& batch_;
  const Decoder::Shared& shared_;
  int64_t index_;
  /// Null: this rank has all experts.
  ExpertRanks* ranks_;
};

}  // namespace

int64_t layer_token_bytes(const ModelConfig& config, int64_t element_size) {
  const int64_t attended = config.num_attention_heads * config.head_dim;
  const int64_t attention = config.query_rows() + 2 * config.key_value_rows() + 4 * attended;
  const int64_t delta =
      config.is_qwen3_5() ? 3 * config.conv_dim() + 4 * config.linear_value_dim() : 0;
  const int64_t width = config.num_experts
                            ? config.num_experts_per_tok * config.moe_intermediate_size +
                                  config.shared_expert_intermediate_size
                            : config.intermediate_size;
  return element_size * (6 * config.hidden_size + std::max(attention, delta) + 3 * width);
}

ExpertChoices ExpertChoices::narrow(int64_t first, int64_t count) const {
  return {experts.narrow(0, first, count),
          weights.defined() ? weights.narrow(0, first, count) : at::Tensor()};
}

ExpertChoices ExpertChoices::room(const ModelConfig& config, int64_t tokens, bool with_weights) {
  const std::vector<int64_t> shape{tokens, config.num_moe_layers(), config.num_experts_per_tok};
  ExpertChoices made{at::empty(shape, at::TensorOptions().dtype(at::kInt)), {}};
  if (with_weights) made.weights = at::empty(shape, at::TensorOptions().dtype(at::kFloat));
  return made;
}

ExpertChoices ExpertChoices::join(const std::vector<std::pair<ExpertChoices, int64_t>>& pieces) {
  const ExpertChoices* known = nullptr;
  bool with_weights = true;
  for (const auto& [piece, count] : pieces) {
    if (!piece.defined()) continue;
    known = &piece;
    with_weights &= piece.weights.defined();
  }
  if (!known) return {};
  std::vector<at::Tensor> experts, weights;
  for (const auto& [piece, count] : pieces) {
    const auto none = [&, tokens = count](at::ScalarType dtype) {
      return at::full({tokens, known->experts.size(1), known->experts.size(2)}, -1,
                      at::TensorOptions().dtype(dtype));
    };
    experts.push_back(piece.defined() ? piece.experts : none(at::kInt));
    if (with_weights) weights.push_back(piece.defined() ? piece.weights : none(at::kFloat));
  }
  return {at::cat(experts), with_weights ? at::cat(weights) : at::Tensor()};
}

void AdapterRows::append(const Adapter* adapter, int64_t count) {
  if (count == 0) return;
  const int64_t first = runs_.empty() ? 0 : runs_.back().first + runs_.back().count;
  if (!runs_.empty() && runs_.back().adapter == adapter)
    runs_.back().count += count;
  else
    runs_.push_back({adapter, first, count});
}

std::vector<AdaptedRows> AdapterRows::take() const {
  std::vector<const Adapter*> adapters;
  std::vector<int64_t> counts;
  for (const Run& run : runs_) {
    if (!run.adapter) continue;
    const auto known = std::find(adapters.begin(), adapters.end(), run.adapter);
    if (known == adapters.end()) {
      adapters.push_back(run.adapter);
      counts.push_back(run.count);
    } else {
      counts[static_cast<size_t>(known - adapters.begin())] += run.count;
    }
  }
  if (adapters.empty()) return {};
  // All rows are not named one by one.
  if (runs_.size() == 1) return {{adapters.front(), {}}};
  std::vector<AdaptedRows> found;
  for (size_t i = 0; i < adapters.size(); ++i) {
    at::Tensor rows = at::empty({counts[i]}, at::TensorOptions().dtype(at::kLong));
    int64_t* to = rows.mutable_data_ptr<int64_t>();
    for (const Run& run : runs_)
      if (run.adapter == adapters[i])
        for (int64_t row = run.first; row < run.first + run.count; ++row) *to++ = row;
    found.push_back({adapters[i], std::move(rows)});
  }
  return found;
}

at::Tensor positions_of(const ops::PackedSequences& sequences) {
  at::Tensor positions = at::empty({sequences.tokens()}, at::TensorOptions().dtype(at::kLong));
  int64_t* out = positions.mutable_data_ptr<int64_t>();
  for (int64_t b = 0; b < sequences.count(); ++b)
    for (int64_t t = 0; t < sequences.length(b); ++t) *out++ = sequences.history(b) + t;
  return positions;
}

ops::AdaptedHead adapted_head(const ops::VocabularyHead& head,
                              std::span<const AdaptedRows> adapters) {
  std::vector<ops::HeadTerm> terms;
  for (const AdaptedRows& own : adapters)
    if (const ops::HeadLowRank* pair = own.adapter->head_pair())
      terms.push_back({pair, own.rows, own.dropout});
  return {head, std::move(terms)};
}

at::Tensor Decoder::embed(const ForwardBatch& batch) const {
  std::vector<ops::EmbeddingTerm> terms;
  for (const AdaptedRows& own : batch.adapters)
    if (const ops::EmbeddingLowRank* pair = own.adapter->embedding_pair())
      terms.push_back({pair, own.rows});
  return ops::adapted_embedding(batch.ids, weights_->embed(batch.ids), terms);
}

Decoder::Shared Decoder::prepare(const ForwardBatch& batch) const {
  LOCKSTEP_CHECK(
      batch.sequences.tokens() == batch.ids.numel() && batch.positions.numel() == batch.ids.numel(),
      "{} ids, {} positions, {} tokens in sequences", batch.ids.numel(), batch.positions.numel(),
      batch.sequences.tokens());
  const ModelConfig& config = weights_->config();
  return {ops::rope_table(batch.positions, config.rotary_dim, config.rope_theta)};
}

at::Tensor Decoder::layer(int64_t index,
                          const at::Tensor& hidden,
                          const ForwardBatch& batch,
                          const Shared& shared) const {
  const LayerWeights& weights = weights_->layers()[static_cast<size_t>(index)];
  const LayerForward forward(weights_->config(), batch, shared, index, weights_->expert_ranks());
  if (hidden.size(0) == 0)
    return weights.experts ? forward.join_experts(hidden, *weights.experts) : hidden;
  const at::Tensor normed = forward.norm(hidden, weights.input_norm);
  const at::Tensor mixed = weights.attention ? forward.attention(normed, *weights.attention)
                                             : forward.delta(normed, *weights.delta);
  const auto [sum, inner] = forward.add_norm(hidden, mixed, weights.post_norm);
  return sum.add(weights.dense ? forward.dense(inner, *weights.dense)
                               : forward.experts(inner, *weights.experts));
}

at::Tensor Decoder::finish(const at::Tensor& hidden) const {
  const ModelConfig& config = weights_->config();
  return ops::rms_norm(hidden, weights_->final_norm(), config.rms_norm_eps, norm_kind(config));
}

at::Tensor Decoder::forward(const ForwardBatch& batch,
                            const std::function<void(int64_t, const at::Tensor&)>& read) const {
  const Shared shared = prepare(batch);
  at::Tensor hidden = embed(batch);
  for (int64_t i = 0; i < num_layers(); ++i) {
    if (read) read(i, hidden);
    hidden = layer(i, hidden, batch, shared);
  }
  if (read) read(num_layers(), hidden);
  return finish(hidden);
}

void join_forwards(const ModelWeights& weights) {
  ExpertRanks* const ranks = weights.expert_ranks();
  if (!ranks) return;
  at::NoGradGuard no_grad;
  const Decoder decoder(weights);
  const at::Tensor no_tokens =
      at::empty({0, weights.config().hidden_size}, at::TensorOptions().dtype(weights.dtype()));
  while (ranks->begin_forward(/*computes=*/false)) {
    for (int64_t i = 0; i < decoder.num_layers(); ++i) decoder.layer(i, no_tokens, {}, {});
    ranks->end_forward();
  }
}

}  // namespace lockstep::model
