// A model as logical tensors: the one list from which every weight format and the list of
// parameters are made.
// SPDX-License-Identifier: Apache-2.0
//
// Dimensions by which formats cut and interleave: group (key-value heads), member (query heads of a
// group), head_dim, key_head (of the delta rule), key_dim, value_dim (all value heads of a key
// head), value_head (of a key head), expert, vocab, out; in and tap are columns.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "layout/logical_tensor.h"
#include "model/config.h"

namespace lockstep::model {

/// Indices of a layer's logical tensors; -1 for one that it does not have.
struct AttentionIds {
  int32_t q = -1, gate = -1, k = -1, v = -1, o = -1, q_norm = -1, k_norm = -1;
};
struct DeltaIds {
  int32_t q = -1, k = -1, v = -1, z = -1, b = -1, a = -1;
  int32_t conv_q = -1, conv_k = -1, conv_v = -1;
  int32_t A_log = -1, dt_bias = -1, norm = -1, out = -1;
};
struct MlpIds {
  int32_t gate = -1, up = -1, down = -1;
};
struct ExpertsIds {
  int32_t router = -1;
  std::vector<MlpIds> experts;
  std::optional<MlpIds> shared;
  /// Only with `shared`.
  int32_t shared_gate = -1;
};
/// One decoder layer. Either `attention` or `delta`; either `dense` or `experts`.
struct BlockIds {
  int32_t input_norm = -1, post_norm = -1;
  std::optional<AttentionIds> attention;
  std::optional<DeltaIds> delta;
  std::optional<MlpIds> dense;
  std::optional<ExpertsIds> experts;
};
/// The MTP head, which predicts further tokens. It is carried through and never run here.
struct MtpIds {
  int32_t fc = -1, norm = -1, embedding_norm = -1, hidden_norm = -1;
  std::vector<BlockIds> layers;
};

/// A tensor that no format takes apart, such as those of the vision tower.
struct CarriedTensor {
  /// Its name in the checkpoint.
  std::string name;
  std::vector<int64_t> shape;
  ElementType type = ElementType::kBF16;
};

/// How a checkpoint spells its names. The names that it has decide, never the model's name.
struct CheckpointForm {
  /// "model." or "model.language_model.".
  std::string prefix = "model.";
  /// Whether all experts of a layer are one tensor (mlp.experts.gate_up_proj [E, 2F, D]) rather
  /// than one tensor each; MTP layers may differ from the others.
  bool experts_grouped = false, mtp_experts_grouped = false;
};

/// The form in which the family is published.
CheckpointForm published_form(const ModelConfig& config);
/// The form of a checkpoint that `has` tensors. Throws FormatError "missing-tensor" at `where`.
CheckpointForm detect_form(const ModelConfig& config,
                           const std::function<bool(const std::string& name)>& has,
                           const std::string& where);

/// What a model has besides its text part. Its config.json does not say this.
struct Extras {
  int64_t num_mtp_layers = 0;
  std::vector<CarriedTensor> carried;
};

/// The kinds of tensors that training treats differently.
enum class TensorRole : uint8_t { kOther, kNorm, kRoutedExpert };

/// The logical tensors of a model, and which part of the model each one is. Immutable.
struct LogicalModel {
  ModelConfig config;
  layout::LogicalTensorsPtr tensors;
  /// By logical tensor.
  std::vector<TensorRole> roles;
  /// By logical tensor: the decoder layer it belongs to; -1: none.
  std::vector<int64_t> layer_of;
  int32_t embedding = -1, final_norm = -1;
  /// -1 if it is tied to the embedding.
  int32_t head = -1;
  std::vector<BlockIds> layers;
  std::optional<MtpIds> mtp;
  /// The tensors of `extras.carried`; their ids are their names in the checkpoint.
  std::vector<int32_t> carried;
};

/// The storage type of each logical tensor, by id.
using TypeOf = std::function<ElementType(const std::string& id)>;

/// Whether published checkpoints have the tensor in float32 whatever the model's dtype is: A_log
/// and the delta rule's norm. Source: Qwen3.5's published files.
bool is_published_in_float32(std::string_view checkpoint_name);
/// What a published checkpoint of `config` has: its dtype, and float32 where that is published so.
TypeOf published_types(const ModelConfig& config);

/// Makes the list of logical tensors. Throws FormatError "shape-mismatch" for a carried tensor of
/// too many dimensions.
LogicalModel logical_model(const ModelConfig& config, const Extras& extras, const TypeOf& type_of);

}  // namespace lockstep::model
