// Modules that are trained whole beside an adapter's pairs, and kept in its file.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <ATen/core/Tensor.h>

#include "model/adapter_config.h"
#include "model/weights.h"

namespace lockstep::model {

class Adapter;

/// A tensor of a module, as transformers has it, and where a model has it.
struct ModuleTensor {
  /// "model.layers.0.self_attn.q_proj.weight"; "….mlp.experts.gate_up_proj" for all of a layer's
  /// experts, also where a checkpoint stores them one by one.
  std::string name;
  std::vector<int64_t> shape;
  /// Its parameter; unset: the head of a model that ties it to the embedding.
  std::optional<size_t> parameter;
  /// Its piece of the parameter; unset: it is all of it.
  std::optional<size_t> piece;
  bool is_norm = false;

  /// The path of its module.
  std::string_view module() const { return std::string_view(name).substr(0, name.rfind('.')); }
  /// Its part of the parameter's value or gradient.
  at::Tensor view(const Parameter& owner, const at::Tensor& storage) const;
};

/// "model.layers.0.mlp.experts.gate_up_proj" of a parameter of experts.
std::string experts_parameter_path(const Parameter& experts);

/// All of a model's, in the order of its parameters, whose values are not needed.
std::vector<ModuleTensor> module_tensors(std::span<const Parameter> parameters);

/// Whether the path of a module, or of one that it lies in, ends with `name`, wherever in a part of
/// it: "norm" saves input_layernorm. Source: PEFT 0.21, _set_trainable.
bool is_saved_by(std::string_view module, std::string_view name);
/// Whether whole parts of the path end with it, in which case PEFT adapts nothing of the module.
/// Source: PEFT 0.21, BaseTuner.inject_adapter.
bool is_saved_by_parts(std::string_view module, std::string_view name);

/// A tensor that an adapter saves.
struct SavedTensor {
  ModuleTensor place;
  /// What the file has, or a view of the weights that are trained (make_saved_weights); undefined
  /// before those of a new one are made.
  at::Tensor value;
};

/// Reads the tensors that an adapter's file has for the configuration's modules_to_save. Each has
/// the name that the file gives it. Throws FormatError "bad-adapter", naming the tensor: one that
/// is of no such module or has another shape than the model, and one that is missing.
std::vector<SavedTensor> read_saved_tensors(std::span<const Parameter> model,
                                            const AdapterConfig& config,
                                            const TensorSource& source);

/// Those that a new adapter saves by the configuration, without values. Where a model ties its head
/// to the embedding, each of the two is saved on its own, and the other stays what the base has.
std::vector<SavedTensor> new_saved_tensors(std::span<const Parameter> model,
                                           const AdapterConfig& config);

/// The weights of a model with an adapter's saved modules in the place of its own: all else is
/// shared with `base`, which is only read. The adapter's saved tensors become views of them, with
/// the values of its file, or the base's where it is new, in the base's dtype; they are trained.
std::unique_ptr<ModelWeights> make_saved_weights(const ModelWeights& base, Adapter& adapter);

}  // namespace lockstep::model
