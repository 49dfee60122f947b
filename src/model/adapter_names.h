// What adapters' files call things.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string_view>

namespace lockstep::model {

inline constexpr std::string_view kFilePrefix = "base_model.model.", kLoraA = ".lora_A.weight",
                                  kLoraB = ".lora_B.weight", kBaseLayer = ".base_layer";
/// The halves of an embedding's pair, and its own values where PEFT writes them along.
inline constexpr std::string_view kEmbeddingA = ".lora_embedding_A",
                                  kEmbeddingB = ".lora_embedding_B",
                                  kBaseWeight = ".base_layer.weight";
/// The path of the head, in every class of transformers.
inline constexpr std::string_view kHeadPath = "lm_head";
/// The end of the path of a layer's experts, and of their parameters behind it.
inline constexpr std::string_view kExperts = ".mlp.experts", kGateUp = ".gate_up_proj",
                                  kDown = ".down_proj";

}  // namespace lockstep::model
