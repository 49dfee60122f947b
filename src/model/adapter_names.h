// What adapters' files call things.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string_view>

namespace lockstep::model {

inline constexpr std::string_view kFilePrefix = "base_model.model.", kLoraA = ".lora_A.weight",
                                  kLoraB = ".lora_B.weight", kBaseLayer = ".base_layer";
/// The end of the path of a layer's experts, and of their parameters behind it.
inline constexpr std::string_view kExperts = ".mlp.experts", kGateUp = ".gate_up_proj",
                                  kDown = ".down_proj";

}  // namespace lockstep::model
