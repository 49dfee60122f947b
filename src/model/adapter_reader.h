// The forms in which adapters are written, read into our own.
// SPDX-License-Identifier: Apache-2.0
//
// Pairs beside linear layers have the same form everywhere. Experts' differ; P is the path of a
// layer's experts, E their number, r the rank, and a parameter of them is [E, O, I] with
// O = 2F, I = D for gate_up_proj and O = D, I = F for down_proj:
//
//   PEFT 0.19.1 and later  P.base_layer.lora_A [E r, I], lora_B [O, r E], expert fastest: of both
//                          parameters gate_up_proj; P.lora_A, lora_B: down_proj, or the only one
//   the same, stacked      A [E, r, I], B [O, r, E]
//   PEFT 0.17 to 0.19.0    the same names, with the parameter read as [E, I, O]: A [E r, O],
//                          B [I, r E]
//   per expert             P.{e}.gate_proj.lora_A [r, I] and so on, also up_proj, down_proj, and
//                          gate_up_proj
//   stacked experts        P.gate_up_proj.lora_A [E, r, I], lora_B [E, O, r], also gate_proj,
//                          up_proj, down_proj; [1, …] is the same for all experts
//
// Source: PEFT 0.17.1, 0.19.0 and 0.21 (ParamWrapper in tuners/lora/layer.py); transformers 4
// (experts as modules); modelscope/mcore-bridge f020e47 (gpt_bridge.py);
// NVIDIA-NeMo/Megatron-Bridge 0191fc5 (peft_bridge.py).
#pragma once

#include <span>
#include <string_view>
#include <vector>

#include "model/adapter.h"

namespace lockstep::model {

/// A pair of an adapter in our own form.
struct AdapterPair {
  /// With the path that the file has.
  AdapterTarget target;
  /// [R, I] and [O, R], of experts [E, R, I] and [E, O, R].
  at::Tensor a, b;
  double scale = 1;
};

/// Reads the pairs of a file, in the order of the weights. Pairs of gate_proj and up_proj become
/// one of both: with the same A where they share it, else of both ranks, with a B that is zero
/// where one does not meet the other.
///
/// Throws FormatError "bad-adapter", naming the tensor: one that fits nothing of `model`, has
/// another shape than model and configuration say, lacks its other half or its like of another
/// expert; experts' parameters of which file and configuration do not say which one it is, or which
/// way it is turned.
std::vector<AdapterPair> read_adapter_pairs(const std::vector<AdapterTarget>& model,
                                            const AdapterConfig& config,
                                            const TensorSource& source);

/// Reads the values of the model's embedding and head that PEFT writes beside their pairs. Throws
/// FormatError "bad-adapter", naming the tensor, for another shape, and without a pair.
std::vector<SavedTensor> read_base_copies(std::span<const Parameter> model,
                                          const TensorSource& source);

/// "layers.3.self_attn.q_proj", "embed_tokens" or "lm_head" of a target's path, whichever class of
/// transformers it was trained in; empty for all else.
std::string_view text_path(std::string_view path);

}  // namespace lockstep::model
