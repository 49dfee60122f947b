// The table of Megatron-core's ranks, as mcore-bridge, Megatron-Bridge and slime fill them
// (docs/layouts.md).
// SPDX-License-Identifier: Apache-2.0
#include <iterator>
#include <utility>

#include <fmt/format.h>

#include "model/weight_formats/format_tables.h"

namespace lockstep::model {
namespace {

using layout::each;
using layout::part;
using layout::Rows;

class Megatron : public WeightFormat {
 public:
  explicit Megatron(const LayoutSpec& name)
      : gates_by_group_(name.choice("gate") == "group"),
        gdn_(name.choice("gdn")),
        is_centred_(name.choice("out_norm") == "centred") {}

  TopNames top_names() const override {
    return {"embedding.word_embeddings.weight", "decoder.layers.", "decoder.final_layernorm.weight",
            "output_layer.weight"};
  }
  std::optional<MtpNames> mtp_names() const override {
    return MtpNames{"mtp.layers.0.eh_proj.weight", "mtp.layers.",
                    "transformer_layer.",          "mtp.layers.0.final_layernorm.weight",
                    "mtp.layers.0.enorm.weight",   "mtp.layers.0.hnorm.weight"};
  }
  std::string carried_name(const std::string& name) const override {
    return without_model_prefix(name);
  }
  int64_t padded_vocab(int64_t vocab_size, int64_t ranks) const override {
    return (vocab_size + ranks - 1) / ranks * ranks;
  }

  Entries block(const BlockIds& ids) const override {
    Entries entries;
    const auto add = [&](Entry entry) { entries.push_back(std::move(entry)); };
    // A norm belongs to the product that follows it, if that is one of Megatron's own.
    const char* input_norm = "self_attention.linear_qkv.layer_norm_weight";
    if (ids.delta)
      input_norm = gdn_ == "hf"          ? "self_attention.input_layernorm.weight"
                   : gdn_ == "decoupled" ? "input_layernorm.weight"
                                         : "self_attention.in_proj.layer_norm_weight";
    add({input_norm, {part(ids.input_norm)}});
    Entries mixer = ids.attention ? attention(*ids.attention) : delta(*ids.delta);
    mixer = below("self_attention.", std::move(mixer));
    std::move(mixer.begin(), mixer.end(), std::back_inserter(entries));
    add({ids.experts ? "pre_mlp_layernorm.weight" : "mlp.linear_fc1.layer_norm_weight",
         {part(ids.post_norm)}});
    const auto add_mlp = [&](const std::string& prefix, const MlpIds& mlp) {
      add({prefix + "linear_fc1.weight", {part(mlp.gate), part(mlp.up)}, Split::kRows});
      add({prefix + "linear_fc2.weight", {part(mlp.down)}, Split::kColumns});
    };
    if (ids.dense) add_mlp("mlp.", *ids.dense);
    if (!ids.experts) return entries;
    add({"mlp.router.weight", {part(ids.experts->router)}});
    if (!ids.experts->shared) return entries;
    add_mlp("mlp.shared_experts.", *ids.experts->shared);
    add({"mlp.shared_experts.gate_weight", {part(ids.experts->shared_gate)}});
    return entries;
  }

  /// Experts are numbered from 0 on each rank.
  Entries routed(std::span<const MlpIds> experts, int64_t) const override {
    Entries entries;
    for (size_t i = 0; i < experts.size(); ++i) {
      entries.push_back({fmt::format("mlp.experts.linear_fc1.weight{}", i),
                         {part(experts[i].gate), part(experts[i].up)},
                         Split::kRows});
      entries.push_back({fmt::format("mlp.experts.linear_fc2.weight{}", i),
                         {part(experts[i].down)},
                         Split::kColumns});
    }
    return entries;
  }

 protected:
  Entries attention(const AttentionIds& ids) const override {
    std::vector<Rows> group;
    if (ids.gate >= 0 && gates_by_group_)
      group = {part(ids.q), part(ids.gate)};
    else if (ids.gate >= 0)
      group = {each("member", {part(ids.q), part(ids.gate)})};
    else
      group = {part(ids.q)};
    group.push_back(part(ids.k));
    group.push_back(part(ids.v));
    return {{"linear_qkv.weight", {each("group", std::move(group))}, Split::kCut},
            {"linear_proj.weight", {part(ids.o)}, Split::kColumns},
            {"q_layernorm.weight", {part(ids.q_norm)}},
            {"k_layernorm.weight", {part(ids.k_norm)}}};
  }

  Entries delta(const DeltaIds& ids) const override {
    Rows norm = part(ids.norm);
    norm.minus_one = is_centred_;
    if (gdn_ == "hf") {
      Entries entries = WeightFormat::delta(ids);
      for (Entry& entry : entries) {
        entry.split = Split::kWhole;
        if (entry.name == "norm.weight") entry.rows = {norm};
      }
      return below("linear_attn.", std::move(entries));
    }
    const Rows q = part(ids.q), k = part(ids.k), v = part(ids.v), z = part(ids.z), b = part(ids.b),
               a = part(ids.a);
    std::vector<Rows> conv{part(ids.conv_q), part(ids.conv_k), part(ids.conv_v)};
    if (gdn_ != "part") conv = {each("key_head", std::move(conv))};
    Entries entries;
    if (gdn_ == "fused") {
      entries = {{"in_proj.weight", {each("key_head", {q, k, v, z, b, a})}, Split::kKeyHeads}};
    } else if (gdn_ == "decoupled") {
      entries = {{"in_proj_qkvz.weight", {each("key_head", {q, k, v, z})}, Split::kKeyHeads},
                 {"in_proj_ba.weight", {each("key_head", {b, a})}, Split::kKeyHeads}};
    } else {
      entries = {{"in_proj.weight", {q, k, v, z, b, a}, Split::kKeyHeads}};
    }
    entries.push_back({"conv1d.weight", std::move(conv), Split::kKeyHeads, /*is_conv=*/true});
    entries.push_back({"A_log", {part(ids.A_log)}, Split::kKeyHeads});
    entries.push_back({"dt_bias", {part(ids.dt_bias)}, Split::kKeyHeads});
    entries.push_back({"out_norm.weight", {norm}});
    entries.push_back({"out_proj.weight", {part(ids.out)}, Split::kColumns});
    return entries;
  }

 private:
  bool gates_by_group_;
  std::string gdn_;
  bool is_centred_;
};

}  // namespace

std::unique_ptr<WeightFormat> megatron_format(const LayoutSpec& name) {
  return std::make_unique<Megatron>(name);
}

}  // namespace lockstep::model
