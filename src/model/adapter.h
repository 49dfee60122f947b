// A low-rank adapter of a model: pairs A, B beside weights of its products.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "model/adapter_config.h"
#include "model/saved_modules.h"
#include "model/weights.h"
#include "ops/adapted_embedding.h"
#include "ops/low_rank.h"
#include "ops/moe.h"
#include "ops/token_logprob.h"

namespace lockstep::model {

/// What an adapter can stand beside: a linear layer of the model, the parameter that holds one
/// matrix of each of a layer's experts, the embedding, or the head.
struct AdapterTarget {
  enum class Part : uint8_t { kLayer, kEmbedding, kHead };
  /// Its path as transformers has it: "model.layers.0.self_attn.q_proj",
  /// "model.layers.0.mlp.experts.gate_up_proj", also where a checkpoint stores experts one by one.
  std::string path;
  /// The weight's number (ops::LinearWeight), and the first of its rows that is the layer's. A head
  /// that is tied to the embedding has the number of that.
  int64_t weight = 0, first_row = 0;
  /// [out, in], of each expert; of the embedding [D, V], the other way round than its weight.
  int64_t out = 0, in = 0;
  int64_t layer = 0;
  /// E for experts, 0 for a linear layer.
  int64_t num_experts = 0;
  /// Whether it is the router of a layer's experts, which transformers does not call a linear
  /// layer.
  bool is_router = false;
  Part part = Part::kLayer;
};

/// All of a model, in the order of its parameters, whose values are not needed.
std::vector<AdapterTarget> adapter_targets(std::span<const Parameter> parameters);
std::vector<AdapterTarget> adapter_targets(const ModelWeights& weights);

/// Whether a tensor is the weight of a target.
bool is_of(const ModuleTensor& tensor, const AdapterTarget& target);

/// What every layer calls a target: "q_proj", "experts.down_proj".
std::string short_name(const AdapterTarget& target);

/// An adapter in memory, bound to the numbers and shapes of a model's weights, and to nothing of
/// their values: it serves all weights of that model, and outlives those it was made for. Its
/// parameters are float32. One that saves modules needs weights that have them
/// (make_saved_weights).
///
/// Not copyable. Threads: as ModelWeights.
class Adapter {
 public:
  /// Takes the tensors of a file, in any form of adapter_reader.h, for the model with these
  /// parameters. config() gets patterns where the file has pairs in another form. Throws
  /// FormatError "bad-adapter" as read_adapter_pairs() and read_saved_tensors().
  Adapter(std::span<const Parameter> model, AdapterConfig config, const TensorSource& source);
  Adapter(const ModelWeights& base, AdapterConfig config, const TensorSource& source)
      : Adapter(base.parameters(), std::move(config), source) {}
  /// A new one beside these targets: A uniform in [-1, 1) / sqrt(I), by (seed, path, element), and
  /// B zero, so that it changes nothing yet; with `is_gaussian` A is normal with a standard
  /// deviation of 1 / rank. Beside the embedding A is zero, and B normal. Source: PEFT 0.21,
  /// LoraLayer.reset_lora_parameters.
  Adapter(const std::vector<AdapterTarget>& targets,
          AdapterConfig config,
          uint64_t seed,
          bool is_gaussian = false);
  Adapter(const Adapter&) = delete;
  Adapter& operator=(const Adapter&) = delete;

  /// Another one for each adapter of this process, from 1 on.
  uint64_t number() const { return number_; }
  const AdapterConfig& config() const { return config_; }
  void set_dropout(double rate) { config_.dropout = rate; }
  const std::vector<AdapterTarget>& targets() const { return targets_; }
  /// A and B of each target, in their order: [R, I] and [O, R], of experts [E, R, I] and
  /// [E, O, R]; I is V for the embedding.
  std::vector<Parameter>& parameters() { return parameters_; }
  const std::vector<Parameter>& parameters() const { return parameters_; }
  /// The tensors of modules that are trained whole.
  std::vector<SavedTensor>& saved() { return saved_; }
  const std::vector<SavedTensor>& saved() const { return saved_; }
  /// The pairs beside the weight of that number (ops::LinearWeight).
  std::span<const ops::LowRank> pairs_of(int64_t weight) const;
  /// The pairs beside the experts of that number (ops::ExpertBank), or null.
  const ops::ExpertLowRank* expert_pair_of(int64_t bank) const;
  /// The pairs beside the embedding and beside the head, or null.
  const ops::EmbeddingLowRank* embedding_pair() const;
  const ops::HeadLowRank* head_pair() const;
  /// The model's own values that its file has beside pairs of embedding and head: a model that has
  /// others is not the adapter's. They are taken once.
  std::vector<SavedTensor> take_base_copies() { return std::move(base_copies_); }
  /// Names and tensors of PEFT's file for values, or gradients, of parameters(): experts' A is
  /// [E R, I] there, B [O, R E] with the expert fastest. Source: PEFT 0.21, ParamWrapper.
  std::vector<std::pair<std::string, at::Tensor>> peft_tensors(
      const std::vector<at::Tensor>& values) const;
  /// Rebuilds the packed forms: after loading and after each optimizer step.
  void pack();
  /// The bytes of A and B, and those of their packed forms.
  int64_t canonical_bytes() const;
  int64_t packed_bytes() const;

 private:
  void add(const AdapterTarget& target, const at::Tensor& a, const at::Tensor& b);

  uint64_t number_;
  AdapterConfig config_;
  std::vector<AdapterTarget> targets_;
  std::vector<Parameter> parameters_;
  std::vector<SavedTensor> saved_;
  /// By number of the weight.
  std::map<int64_t, std::vector<ops::LowRank>> pairs_;
  std::map<int64_t, ops::ExpertLowRank> expert_pairs_;
  std::optional<ops::EmbeddingLowRank> embedding_pair_;
  std::optional<ops::HeadLowRank> head_pair_;
  std::vector<SavedTensor> base_copies_;
};

/// What the names of a target's halves end with, of A and B.
std::pair<std::string_view, std::string_view> half_names(const AdapterTarget& target);

/// A list of it, or an empty one for null.
std::vector<Adapter*> list_of(Adapter* adapter);
/// The parameters of a model, and behind them those of its adapters.
std::vector<Parameter*> all_parameters(ModelWeights& weights, std::span<Adapter* const> adapters);

}  // namespace lockstep::model
