// SPDX-License-Identifier: Apache-2.0
#include "model/identity.h"

#include <fmt/ranges.h>

#include "tensor/aten.h"

namespace lockstep::model {

Digest configuration_digest(const ModelConfig& config) {
  std::string layers;
  for (size_t i = 0; i < config.mixers.size(); ++i)
    layers += fmt::format("{}{} ", static_cast<int>(config.mixers[i]),
                          config.moe_layers[i] ? "moe" : "dense");
  const std::string text = fmt::format(
      "family {} vocabulary {} hidden {} feed-forward {} layers {} heads {} {} {} eps {} tied {} "
      "rope {} {} delta {} {} {} {} {} experts {} {} {} {} {} mixers {}",
      enum_name(config.family), config.vocab_size, config.hidden_size, config.intermediate_size,
      config.num_hidden_layers, config.num_attention_heads, config.num_key_value_heads,
      config.head_dim, config.rms_norm_eps, config.tie_word_embeddings, config.rope_theta,
      config.rotary_dim, config.linear_num_key_heads, config.linear_num_value_heads,
      config.linear_key_head_dim, config.linear_value_head_dim, config.linear_conv_kernel_dim,
      config.num_experts, config.num_experts_per_tok, config.moe_intermediate_size,
      config.shared_expert_intermediate_size, config.norm_topk_prob, layers);
  return digest_of(text);
}

Digest tensors_digest(const ModelWeights& weights) {
  Digest digest;
  for (const Parameter& parameter : weights.parameters())
    for (const CheckpointPiece& piece : parameter.pieces)
      digest = digest_of(
          fmt::format("{} {} {}", piece.name, c10::toString(parameter.value.scalar_type()),
                      fmt::join(piece.shape, ",")),
          digest);
  return digest;
}

Digest adapter_digest(const Adapter& adapter) {
  Digest digest;
  const std::vector<Parameter>& halves = adapter.parameters();
  for (size_t i = 0; i < adapter.targets().size(); ++i) {
    const AdapterTarget& target = adapter.targets()[i];
    digest = digest_of(
        fmt::format("weight {} row {} out {} in {} experts {} rank {} scale {}", target.weight,
                    target.first_row, target.out, target.in, target.num_experts,
                    halves[2 * i].shape.end()[-2], adapter.config().scale_of(target.path)),
        digest);
    for (const Parameter& half : {halves[2 * i], halves[2 * i + 1]})
      digest = digest_of(half.value.const_data_ptr(), half.value.nbytes(), digest);
  }
  for (const SavedTensor& saved : adapter.saved()) {
    const at::Tensor value = saved.value.contiguous();
    digest = digest_of(
        value.const_data_ptr(), value.nbytes(),
        digest_of(fmt::format("saved {} {}", saved.place.name, c10::toString(value.scalar_type())),
                  digest));
  }
  return digest;
}

}  // namespace lockstep::model
