// The tables of published checkpoints, of transformers' parameters, and of Qwen3-Next's form of the
// delta rule.
// SPDX-License-Identifier: Apache-2.0
#include <utility>

#include "model/weight_formats/format_tables.h"

namespace lockstep::model {
namespace {

using layout::each;
using layout::part;

class Checkpoint : public WeightFormat {
 public:
  explicit Checkpoint(CheckpointForm form) : form_(std::move(form)) {}

  TopNames top_names() const override {
    return {form_.prefix + "embed_tokens.weight", form_.prefix + "layers.",
            form_.prefix + "norm.weight", "lm_head.weight"};
  }
  Entries routed(std::span<const MlpIds> experts, int64_t first) const override {
    return form_.experts_grouped ? experts_grouped(experts) : experts_one_by_one(experts, first);
  }

 private:
  CheckpointForm form_;
};

/// The delta rule's projections as two tensors with interleaved key heads: [q | k | v | z] and
/// [b | a]. The convolution keeps its three parts. Source: transformers, modeling_qwen3_next.py.
class Qwen3Next : public Checkpoint {
 public:
  using Checkpoint::Checkpoint;

 protected:
  Entries delta(const DeltaIds& ids) const override {
    Entries entries = WeightFormat::delta(ids);
    // Removes in_proj_qkv, in_proj_z, in_proj_b and in_proj_a.
    entries.erase(entries.begin(), entries.begin() + 4);
    entries.insert(
        entries.begin(),
        {{"in_proj_qkvz.weight",
          {each("key_head", {part(ids.q), part(ids.k), part(ids.v), part(ids.z)})},
          Split::kKeyHeads},
         {"in_proj_ba.weight", {each("key_head", {part(ids.b), part(ids.a)})}, Split::kKeyHeads}});
    return entries;
  }
};

}  // namespace

std::unique_ptr<WeightFormat> checkpoint_format(const CheckpointForm& form) {
  return std::make_unique<Checkpoint>(form);
}
std::unique_ptr<WeightFormat> qwen3_next_format(const CheckpointForm& form) {
  return std::make_unique<Qwen3Next>(form);
}

MtpNames checkpoint_mtp_names() {
  return {"mtp.fc.weight",
          "mtp.layers.",
          "",
          "mtp.norm.weight",
          "mtp.pre_fc_norm_embedding.weight",
          "mtp.pre_fc_norm_hidden.weight"};
}

}  // namespace lockstep::model
