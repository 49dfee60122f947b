// The table of Lockstep's own storages: what is multiplied together lies together
// (model/weights.h). Names are parameter ids.
// SPDX-License-Identifier: Apache-2.0
#include "model/weight_formats/format_tables.h"

namespace lockstep::model {
namespace {

using layout::part;

class Lockstep : public WeightFormat {
 public:
  TopNames top_names() const override { return {"embedding", "layers.", "final_norm", "head"}; }
  int64_t padded_vocab(int64_t vocab_size, int64_t ranks) const override {
    return (vocab_size + ranks - 1) / ranks * ranks;
  }
  Entries block(const BlockIds& ids) const override {
    Entries entries{{"input_norm", {part(ids.input_norm)}}};
    const auto add = [&](Entry entry) { entries.push_back(std::move(entry)); };
    if (ids.attention) {
      const AttentionIds& a = *ids.attention;
      add({"attention.qkv", {queries(a), part(a.k), part(a.v)}, Split::kHeads});
      add({"attention.o", {part(a.o)}, Split::kColumns});
      add({"attention.q_norm", {part(a.q_norm)}});
      add({"attention.k_norm", {part(a.k_norm)}});
    }
    if (ids.delta) {
      const DeltaIds& d = *ids.delta;
      add({"delta.in_proj",
           {part(d.q), part(d.k), part(d.v), part(d.z), part(d.b), part(d.a)},
           Split::kKeyHeads});
      add({"delta.conv",
           {part(d.conv_q), part(d.conv_k), part(d.conv_v)},
           Split::kKeyHeads,
           /*is_conv=*/true});
      add({"delta.A_log", {part(d.A_log)}, Split::kKeyHeads});
      add({"delta.dt_bias", {part(d.dt_bias)}, Split::kKeyHeads});
      add({"delta.norm", {part(d.norm)}});
      add({"delta.out", {part(d.out)}, Split::kColumns});
    }
    add({"post_norm", {part(ids.post_norm)}});
    const auto add_mlp = [&](const std::string& prefix, const MlpIds& mlp) {
      add({prefix + "gate_up", {part(mlp.gate), part(mlp.up)}, Split::kRows});
      add({prefix + "down", {part(mlp.down)}, Split::kColumns});
    };
    if (ids.dense) add_mlp("dense.", *ids.dense);
    if (!ids.experts) return entries;
    add({"experts.router", {part(ids.experts->router)}});
    if (!ids.experts->shared) return entries;
    add_mlp("experts.shared.", *ids.experts->shared);
    add({"experts.shared_gate", {part(ids.experts->shared_gate)}});
    return entries;
  }
  Entries routed(std::span<const MlpIds> experts, int64_t) const override {
    Entries entries = experts_grouped(experts);
    entries[0].name = "experts.gate_up";
    entries[1].name = "experts.down";
    return entries;
  }
};

}  // namespace

std::unique_ptr<WeightFormat> lockstep_format() { return std::make_unique<Lockstep>(); }

}  // namespace lockstep::model
