// The tables of vLLM's parameters, and of vLLM-Ascend's before and after its post-load step.
// SPDX-License-Identifier: Apache-2.0
#include "model/weight_formats/format_tables.h"

namespace lockstep::model {
namespace {

using layout::part;

class Vllm : public WeightFormat {
 public:
  Vllm(bool is_nested, const LayoutSpec& name)
      : is_nested_(is_nested),
        transposes_experts_(name.has_key("state") && name.choice("state") == "processed") {
    if (!name.has_own_types()) return;
    experts_ = "mlp.experts.routed_experts.";
    type_ = name.choice("dtype") == "float32" ? ElementType::kF32 : ElementType::kBF16;
  }

  TopNames top_names() const override {
    const std::string root = is_nested_ ? "language_model." : "";
    return {root + "model.embed_tokens.weight", root + "model.layers.", root + "model.norm.weight",
            root + "lm_head.weight"};
  }
  std::string carried_name(const std::string& name) const override {
    return without_model_prefix(name);
  }
  int64_t padded_vocab(int64_t vocab_size, int64_t) const override {
    // Source: vllm, vocab_parallel_embedding.py, DEFAULT_VOCAB_PADDING_SIZE.
    constexpr int64_t kMultiple = 64;
    return (vocab_size + kMultiple - 1) / kMultiple * kMultiple;
  }

  std::optional<ElementType> stored_type(const std::string& name) const override {
    // Source: vllm 0.32, layers/mamba/gdn: A_log is made in float32 whatever the model's dtype is.
    return type_ && name.ends_with(".A_log") ? ElementType::kF32 : type_;
  }

  Entries routed(std::span<const MlpIds> experts, int64_t) const override {
    Entries entries = experts_grouped(experts);
    entries[0].name = experts_ + "w13_weight";
    entries[1].name = experts_ + "w2_weight";
    for (Entry& entry : entries) entry.is_transposed = transposes_experts_;
    return entries;
  }

 protected:
  Entries attention(const AttentionIds& ids) const override {
    return {{"qkv_proj.weight", {queries(ids), part(ids.k), part(ids.v)}, Split::kHeads},
            {"o_proj.weight", {part(ids.o)}, Split::kColumns},
            {"q_norm.weight", {part(ids.q_norm)}},
            {"k_norm.weight", {part(ids.k_norm)}}};
  }
  Entries delta(const DeltaIds& ids) const override {
    Entries entries = WeightFormat::delta(ids);
    // Removes in_proj_qkv, in_proj_z, in_proj_b and in_proj_a.
    entries.erase(entries.begin(), entries.begin() + 4);
    entries.insert(entries.begin(),
                   {{"in_proj_qkvz.weight",
                     {part(ids.q), part(ids.k), part(ids.v), part(ids.z)},
                     Split::kKeyHeads},
                    {"in_proj_ba.weight", {part(ids.b), part(ids.a)}, Split::kKeyHeads}});
    return entries;
  }
  Entries mlp(const MlpIds& ids) const override {
    return {{"gate_up_proj.weight", {part(ids.gate), part(ids.up)}, Split::kRows},
            {"down_proj.weight", {part(ids.down)}, Split::kColumns}};
  }

 private:
  bool is_nested_, transposes_experts_;
  std::string experts_ = "mlp.experts.";
  /// That of the engine; unset for a version that keeps the checkpoint's.
  std::optional<ElementType> type_;
};

}  // namespace

std::unique_ptr<WeightFormat> vllm_format(const ModelConfig& config, const LayoutSpec& name) {
  return std::make_unique<Vllm>(config.is_nested, name);
}

}  // namespace lockstep::model
