// A model's weights: one registry of parameters, whose storages are shared by everything that uses
// them, and the layers' view of it.
// SPDX-License-Identifier: Apache-2.0
//
// Canonical weights are checkpoint tensors. Those that are always multiplied together (q, k, v;
// gate, up; the experts of a layer) lie one behind another in one storage, of which each checkpoint
// tensor is a contiguous piece. So one product serves them all, and nothing is copied.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <ATen/core/Tensor.h>

#include "model/config.h"
#include "model/logical_model.h"  // CheckpointForm
#include "ops/linear.h"
#include "ops/moe.h"
#include "ops/token_logprob.h"
#include "parallel/ordered_sum.h"  // ElementRange

namespace lockstep::model {

class ExpertRanks;

/// The named tensors of a checkpoint, wherever they lie.
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
  /// The checkpoint's folder, for errors.
  virtual std::string where() const = 0;
  /// Told that all tensors asked for so far are copied: a file's pages may leave memory.
  virtual void release_pages() const {}
};

/// A checkpoint tensor and its place in a parameter's storage.
struct CheckpointPiece {
  /// "model.layers.0.self_attn.q_proj.weight"
  std::string name;
  /// Its shape in the checkpoint.
  std::vector<int64_t> shape;
  /// The index of its first element in the storage.
  int64_t offset = 0;
  /// Whether an optimizer may change it.
  bool is_trained = true;

  int64_t numel() const;
  /// A view of the piece, of shape `shape`, in `storage`: the parameter's value, its gradient or a
  /// moment.
  at::Tensor view(const at::Tensor& storage) const;
};

/// One storage of weights, and all that is known of it: trainer, optimizer, memory plan and saving
/// ask here. Which parameters decay is decided by the flags below; the rule `transformers` leaves
/// out dt_bias by its name, too.
struct Parameter {
  /// `layer` of what lies outside of the layers.
  static constexpr int64_t kNoLayer = -1;

  /// "layers.0.attention.qkv", stable, the same in every checkpoint form.
  std::string id;
  /// The shape of the storage.
  std::vector<int64_t> shape;
  /// In order of their offsets; together they are the whole storage.
  std::vector<CheckpointPiece> pieces;
  /// Whether the storage, as the checkpoint's tensors in it, has two or more dimensions. Such a one
  /// decays under the rule `matrices`.
  bool is_matrix = true;
  /// Whether it is the gain of a norm, which does not decay under the rule `transformers`.
  bool is_norm = false;
  /// Whether expert-parallel ranks share it out.
  bool is_expert = false;
  /// The decoder layer that it belongs to, or kNoLayer: embedding, final norm, head.
  int64_t layer = kNoLayer;
  /// The canonical values, contiguous; a leaf when trained. Of frozen weights (ModelWeights) it may
  /// be a tensor of this shape and dtype without values.
  at::Tensor value;

  /// Whether any piece, and whether all of them are trained.
  bool is_trained() const;
  bool is_trained_whole() const;
};

/// The form of a checkpoint, which the names of its tensors decide. Throws FormatError
/// "missing-tensor".
CheckpointForm detect_form(const ModelConfig& config, const TensorSource& source);

/// All parameters of a model in the order of the layers, without values.
std::vector<Parameter> describe_parameters(const ModelConfig& config, const CheckpointForm& form);

/// What libtorch calls a precision.
at::ScalarType scalar_type(WeightDtype dtype);
/// The storage type of a checkpoint's tensor after --torch_dtype: those that are published in
/// float32 (logical_model.h) are float32 unless they are stored in bfloat16.
at::ScalarType cast_dtype(const std::string& name, at::ScalarType stored, WeightDtype wanted);
/// What a tensor is held in once it is loaded: cast where a precision is wanted, else as it is
/// stored. Nothing computes in float16, so without a wish it becomes float32, which has all of its
/// values.
at::ScalarType loaded_dtype(const std::string& name,
                            at::ScalarType stored,
                            std::optional<WeightDtype> wanted);

/// Checks that `source` has every tensor of `parameters` with its shape and a known dtype, and no
/// tensor of unknown use. Returns the names of those that are carried (vision, MTP). Throws
/// FormatError "missing-tensor", "unknown-tensor", "shape-mismatch", "bad-dtype", naming the
/// tensor.
std::vector<std::string> check_tensors(const std::vector<Parameter>& parameters,
                                       const ModelConfig& config,
                                       const TensorSource& source);

struct AttentionWeights {
  /// [query rows + 2 Hkv Dh, D]; Qwen3.5: each head's query rows are followed by its gate's.
  ops::LinearWeight qkv;
  /// [D, H Dh]
  ops::LinearWeight o;
  /// [Dh]
  at::Tensor q_norm, k_norm;
};
struct GatedDeltaWeights {
  /// [conv channels + Hv Dv (z) + Hv (b) + Hv (a), D]
  ops::LinearWeight in_proj;
  /// [conv channels, 1, W]
  at::Tensor conv;
  /// [Hv]
  at::Tensor A_log, dt_bias;
  /// [Dv]
  at::Tensor norm;
  /// [D, Hv Dv]
  ops::LinearWeight out;
};
struct DenseWeights {
  /// [2F, D]
  ops::LinearWeight gate_up;
  /// [D, F]
  ops::LinearWeight down;
};
struct ExpertWeights {
  /// [E, D]
  ops::LinearWeight router;
  /// [E, 2F, D], [E, D, F]
  ops::ExpertBank gate_up, down;
  std::optional<DenseWeights> shared;
  /// [1, D], with `shared`
  ops::LinearWeight shared_gate;
};
struct LayerWeights {
  /// [D]
  at::Tensor input_norm, post_norm;
  std::optional<AttentionWeights> attention;
  std::optional<GatedDeltaWeights> delta;
  std::optional<DenseWeights> dense;
  std::optional<ExpertWeights> experts;
};

/// What becomes of a model's weights.
enum class WeightUse : uint8_t {
  /// They may be trained, swapped and written.
  kAny,
  /// They are read: products take them from their packed forms, and values that these hold are not
  /// kept a second time.
  kFrozen,
};

/// What is loaded of a parameter that ranks share out. The values of its other elements are
/// undefined, and take no memory until they are written.
struct LoadedPart {
  parallel::ElementRange elements;
  /// Of a parameter that holds experts: those that are packed, as ExpertBank::keep() says.
  int64_t first_expert = 0, num_experts = 0;
  /// Whether it is packed now, or once it is whole.
  bool is_packed = true;
};
/// The part of a parameter; unset: it is loaded whole.
using PartToLoad = std::function<std::optional<LoadedPart>(const Parameter&)>;

/// The weights of one model. Trainer and sampler hold the same object: what the one updates the
/// other reads.
///
/// Not copyable. Threads: reading from any thread between pack() calls.
class ModelWeights {
 public:
  /// Loads every parameter from `source`, cast to `dtype` if one is given (A_log and the delta
  /// rule's norm stay float32 if the source has them so). Vision, MTP and other carried tensors are
  /// not read. Throws FormatError "missing-tensor", "unknown-tensor", "shape-mismatch",
  /// "bad-dtype", naming the tensor.
  ModelWeights(ModelConfig config,
               const TensorSource& source,
               std::optional<WeightDtype> dtype,
               WeightUse use = WeightUse::kAny,
               const PartToLoad& part = {});
  /// What weights have of their own that share the rest with others.
  struct OwnParts {
    /// Indices of parameters.
    std::set<size_t> parameters;
    /// Where the head is tied to the embedding: whether it gets values of its own; and whether it
    /// is tied to an embedding of their own, else it stays what the others have.
    bool head = false, stays_tied = false;
  };
  /// Shares the storages and packed forms of all parameters with `base`, but for `own`, which are
  /// copied. A head that is no longer tied becomes the last parameter. `base` is not changed, and
  /// may end before it.
  ModelWeights(const ModelWeights& base, const OwnParts& own);
  ModelWeights(const ModelWeights&) = delete;
  ModelWeights& operator=(const ModelWeights&) = delete;

  const ModelConfig& config() const { return config_; }
  const CheckpointForm& form() const { return form_; }
  std::vector<Parameter>& parameters() { return parameters_; }
  const std::vector<Parameter>& parameters() const { return parameters_; }
  const std::vector<std::string>& carried() const { return carried_; }
  /// Whether parameters were loaded in part, where a part was asked for.
  bool is_loaded_in_part() const { return is_loaded_in_part_; }

  /// The embedding's rows of ids [T]: [T, D].
  at::Tensor embed(const at::Tensor& ids) const;
  const std::vector<LayerWeights>& layers() const { return layers_; }
  /// [D]
  const at::Tensor& final_norm() const { return final_norm_; }
  const ops::VocabularyHead& head() const { return head_; }
  /// The dtype of the hidden states.
  at::ScalarType dtype() const { return embedding_.scalar_type(); }
  WeightDtype weight_dtype() const {
    return dtype() == at::kFloat ? WeightDtype::kFloat32 : WeightDtype::kBFloat16;
  }

  /// Rebuilds every packed form that is its own from the canonical values, where these are kept:
  /// after each optimizer step.
  void pack();
  /// The same of the parameters that `takes` takes.
  void pack(const std::function<bool(const Parameter&)>& takes);
  /// Gives the memory of a parameter's packed form back, which keeps its address. Until it is
  /// packed again no product reads it.
  void drop_packed(size_t parameter);
  /// ops::ExpertBank::keep() of a parameter that holds experts.
  void keep_experts(size_t parameter, int64_t first, int64_t count);
  /// From now on forwards compute with the experts of these ranks; null: with its own ones.
  void share_experts(std::shared_ptr<ExpertRanks> ranks) { expert_ranks_ = std::move(ranks); }
  ExpertRanks* expert_ranks() const { return expert_ranks_.get(); }
  /// Makes none of its parameters trained.
  void freeze();
  /// The values of a parameter, as it or its packed form has them.
  at::Tensor values(size_t parameter) const;
  /// Gives a parameter that it shares with no other weights these values, cast to its dtype, and
  /// its packed form too. What is kept in that form alone stays so.
  void set_values(size_t parameter, const at::Tensor& values);
  int64_t num_elements() const;
  /// The bytes of the canonical values that are kept, and those of the packed forms; of what others
  /// share, too, but not of experts that keep_experts() leaves out.
  int64_t canonical_bytes() const;
  int64_t packed_bytes() const;
  /// The bytes of both that it does not share with `other`.
  int64_t bytes_apart_from(const ModelWeights& other) const;

  /// Visits every checkpoint tensor of the text model: name and view of the canonical storage.
  void for_each_tensor(
      const std::function<void(const std::string&, const at::Tensor&)>& visit) const;

 private:
  void allocate(const TensorSource& source, std::optional<WeightDtype> dtype);
  void load(const TensorSource& source, WeightUse use, const PartToLoad& part);
  void take_own(const ModelWeights& base, const OwnParts& own);
  void bind_layers();
  void share_products(const ModelWeights& base);
  /// Calls `visit` with the product that reads a parameter, if one does.
  template <class Self, class Visit>
  static void visit_product(Self& self, const Parameter& parameter, Visit&& visit);

  ModelConfig config_;
  CheckpointForm form_;
  std::vector<Parameter> parameters_;
  /// By parameter: whether its storage is shared with no other weights.
  std::vector<bool> is_own_;
  bool is_loaded_in_part_ = false;
  std::vector<std::string> carried_;
  at::Tensor embedding_, final_norm_;
  std::vector<LayerWeights> layers_;
  std::shared_ptr<ExpertRanks> expert_ranks_;
  ops::VocabularyHead head_;
  /// Has the rows of an embedding without values.
  ops::VocabularyHead lookup_;
};

}  // namespace lockstep::model
