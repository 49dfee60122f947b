// A model's weights: one registry of parameters, whose storages are shared by everything that uses them, and the layers'
// view of it.
// SPDX-License-Identifier: Apache-2.0
//
// Canonical weights are checkpoint tensors. Those that are always multiplied together (q, k, v; gate, up; the experts of a
// layer) lie one behind another in one storage, of which each checkpoint tensor is a contiguous piece: one product, no copy.
#pragma once

#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <ATen/core/Tensor.h>

#include "model/config.h"
#include "model/logical.h"  // CheckpointForm
#include "ops/linear.h"
#include "ops/moe.h"
#include "ops/token_logprob.h"

namespace lockstep::model {

/// Named tensors of a checkpoint, wherever they lie (io's files, another process).
class TensorSource {
 public:
  virtual ~TensorSource() = default;
  virtual std::vector<std::string> names() const = 0;
  virtual bool contains(const std::string& name) const = 0;
  /// The tensor; it must not be written.
  virtual at::Tensor tensor(const std::string& name) const = 0;
  /// Its shape and dtype, without reading it.
  virtual std::vector<int64_t> shape(const std::string& name) const = 0;
  virtual at::ScalarType dtype(const std::string& name) const = 0;
  /// For errors: the checkpoint's folder.
  virtual std::string where() const = 0;
};

/// A checkpoint tensor and its place in a parameter's storage.
struct CheckpointPiece {
  std::string name;            ///< "model.layers.0.self_attn.q_proj.weight"
  std::vector<int64_t> shape;  ///< Its shape in the checkpoint.
  int64_t offset = 0;          ///< First element in the storage.

  int64_t numel() const;
  /// The piece of `storage` (the parameter's value, its gradient, a moment): a view of `shape`.
  at::Tensor view(const at::Tensor& storage) const;
};

/// One trained storage. Weight decay and grouping come from here, never from a shape.
struct Parameter {
  std::string id;  ///< "layers.0.attention.qkv", stable, the same in every checkpoint form.
  std::vector<int64_t> shape;           ///< Of the storage.
  std::vector<CheckpointPiece> pieces;  ///< In order of offset; together they are the storage.
  bool is_matrix =
      true;  ///< Two or more dimensions in the checkpoint: decays under the rule `matrices`.
  bool is_norm = false;    ///< A norm's gain: does not decay under the rule `transformers`.
  bool is_expert = false;  ///< Shared out over expert-parallel ranks.
  at::Tensor value;        ///< The canonical values, contiguous; a leaf when trained.
};

/// The form of a checkpoint, decided by the keys that it has. Throws FormatError "missing-tensor".
CheckpointForm detect_form(const ModelConfig& config, const TensorSource& source);

/// All parameters of a model in the order of the layers, without values.
std::vector<Parameter> describe_parameters(const ModelConfig& config, const CheckpointForm& form);

/// The storage type of a tensor after --torch_dtype: A_log and the delta rule's norm stay float32 where they are.
at::ScalarType cast_dtype(const std::string& name, at::ScalarType stored, WeightDtype wanted);

/// Checks that `source` has every tensor of `parameters` with its shape and a known dtype, and none that belongs to nothing;
/// returns the names that are carried (vision, MTP).
/// Throws FormatError "missing-tensor", "unknown-tensor", "shape-mismatch", "bad-dtype", naming the tensor.
std::vector<std::string> check_tensors(const std::vector<Parameter>& parameters,
                                       const ModelConfig& config,
                                       const TensorSource& source);

struct AttentionWeights {
  ops::LinearWeight
      qkv;  ///< [query rows + 2 Hkv Dh, D]; Qwen3.5: each head's query rows are followed by its gate's.
  ops::LinearWeight o;        ///< [D, H Dh]
  at::Tensor q_norm, k_norm;  ///< [Dh]
};
struct GatedDeltaWeights {
  ops::LinearWeight in_proj;  ///< [conv channels + Hv Dv (z) + Hv (b) + Hv (a), D]
  at::Tensor conv;            ///< [conv channels, 1, W]
  at::Tensor A_log, dt_bias;  ///< [Hv]
  at::Tensor norm;            ///< [Dv]
  ops::LinearWeight out;      ///< [D, Hv Dv]
};
struct DenseWeights {
  ops::LinearWeight gate_up;  ///< [2F, D]
  ops::LinearWeight down;     ///< [D, F]
};
struct ExpertWeights {
  ops::LinearWeight router;       ///< [E, D]
  ops::ExpertBank gate_up, down;  ///< [E, 2F, D], [E, D, F]
  std::optional<DenseWeights> shared;
  ops::LinearWeight shared_gate;  ///< [1, D], with `shared`
};
struct LayerWeights {
  at::Tensor input_norm, post_norm;  ///< [D]
  std::optional<AttentionWeights> attention;
  std::optional<GatedDeltaWeights> delta;
  std::optional<DenseWeights> dense;
  std::optional<ExpertWeights> experts;
};

/// The weights of one model. Trainer and sampler hold the same object: what the one updates the other reads.
///
/// Not copyable. Threads: reading from any thread between pack() calls.
class ModelWeights {
 public:
  /// Loads every parameter from `source`, casting to `dtype` if given (A_log and the delta rule's norm stay float32 where the
  /// source has them so). Vision, MTP and other carried tensors stay in the source, unread.
  /// Throws FormatError "missing-tensor", "unknown-tensor", "shape-mismatch", "bad-dtype", naming the tensor.
  ModelWeights(ModelConfig config, const TensorSource& source, std::optional<WeightDtype> dtype);
  ModelWeights(const ModelWeights&) = delete;
  ModelWeights& operator=(const ModelWeights&) = delete;

  const ModelConfig& config() const { return config_; }
  const CheckpointForm& form() const { return form_; }
  std::vector<Parameter>& parameters() { return parameters_; }
  const std::vector<Parameter>& parameters() const { return parameters_; }
  const std::vector<std::string>& carried() const { return carried_; }

  const at::Tensor& embedding() const { return embedding_; }  ///< [V, D]
  const std::vector<LayerWeights>& layers() const { return layers_; }
  const at::Tensor& final_norm() const { return final_norm_; }  ///< [D]
  const ops::VocabularyHead& head() const { return head_; }
  /// dtype of the hidden states.
  at::ScalarType dtype() const { return embedding_.scalar_type(); }

  /// Rebuilds every packed form from the canonical values: after loading and after each optimizer step.
  void pack();
  /// Bytes of canonical values, and of the packed forms.
  int64_t canonical_bytes() const;
  int64_t packed_bytes() const;

  /// Visits every checkpoint tensor of the text model: name and view of the canonical storage.
  void for_each_tensor(
      const std::function<void(const std::string&, const at::Tensor&)>& visit) const;

 private:
  void load(const TensorSource& source, std::optional<WeightDtype> dtype);
  void bind_layers();

  ModelConfig config_;
  CheckpointForm form_;
  std::vector<Parameter> parameters_;
  std::vector<std::string> carried_;
  at::Tensor embedding_, final_norm_;
  std::vector<LayerWeights> layers_;
  ops::VocabularyHead head_;
};

}  // namespace lockstep::model
