// A weight format as a table: which tensors a layer has, what each one is made of, and how ranks
// share it out.
// SPDX-License-Identifier: Apache-2.0
//
// A format says `Entries` for each part of a layer; `place_entry` turns an entry into a rank's
// physical tensor. This class is the published checkpoint itself; a foreign format overrides what
// it does differently.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "layout/layout.h"
#include "layout/row_program.h"
#include "model/logical_model.h"

namespace lockstep::model {

/// How tensor-parallel ranks share a physical tensor.
enum class Split : int {
  /// Each rank has all of it.
  kWhole,
  /// By key-value groups; where ranks outnumber them, by query heads, and keys and values are held
  /// several times.
  kHeads,
  /// By key heads of the delta rule, each part for itself.
  kKeyHeads,
  /// By outputs, each part for itself.
  kRows,
  /// By inputs.
  kColumns,
  /// By rows of the vocabulary, padded with zeros at its end.
  kVocabulary,
  /// The finished tensor's rows in equal pieces, whatever the cut goes through.
  kCut
};

/// One physical tensor of a format.
struct Entry {
  /// Its name behind the prefix of the place where it stands.
  std::string name;
  std::vector<layout::Rows> rows;
  Split split = Split::kWhole;
  /// [rows, 1, columns]
  bool is_conv = false;
  /// For a stacked tensor, such as all experts of a layer, one row program for each index of its
  /// leading axis; then `rows` is empty.
  std::vector<std::vector<layout::Rows>> stacked;
  /// Whether a stacked tensor is [experts, columns, rows] rather than [experts, rows, columns].
  bool is_transposed = false;
  /// What WeightFormat::stored_type says of it.
  std::optional<ElementType> stored_type = {};
};
using Entries = std::vector<Entry>;

/// A rank's place among those that share a tensor.
struct Share {
  int64_t rank = 0, size = 1;
  /// Another rank of the same place, in another data-parallel group, is the owner.
  bool is_copy = false;
};

/// The names of what stands outside of the layers; the names of a layer begin with `layers` and its
/// number.
struct TopNames {
  std::string embedding, layers, final_norm, head;
};
/// The same for the MTP head; `layer_infix` follows a layer's number.
struct MtpNames {
  std::string fc, layers, layer_infix, norm, embedding_norm, hidden_norm;
};

/// The table of a format: what each part of a model is called and made of.
class WeightFormat {
 public:
  virtual ~WeightFormat() = default;

  virtual TopNames top_names() const = 0;
  /// The tensors of one layer without its routed experts; their names follow "….layers.N.".
  virtual Entries block(const BlockIds& ids) const;
  /// The tensors of a layer's routed experts [first, first + experts.size()).
  virtual Entries routed(std::span<const MlpIds> experts, int64_t first) const = 0;
  /// To how many rows the vocabulary is padded.
  virtual int64_t padded_vocab(int64_t vocab_size, int64_t ranks) const;
  /// Unset if this format knows no MTP head; then rank 0 carries the checkpoint's tensors of it.
  virtual std::optional<MtpNames> mtp_names() const { return {}; }
  /// The type in which the format stores the tensor of that name; unset: that of its parts.
  virtual std::optional<ElementType> stored_type(const std::string& /*name*/) const { return {}; }
  /// The name of a carried tensor.
  virtual std::string carried_name(const std::string& checkpoint_name) const {
    return checkpoint_name;
  }

 protected:
  virtual Entries attention(const AttentionIds& ids) const;
  virtual Entries delta(const DeltaIds& ids) const;
  virtual Entries mlp(const MlpIds& ids) const;
};

/// Qwen3.5's queries as checkpoints have them: by head, the query's rows and then its gate's.
layout::Rows queries(const AttentionIds& ids);
/// "visual.x" for "model.visual.x": Megatron and vLLM know the vision tower without the prefix of
/// the checkpoint.
std::string without_model_prefix(const std::string& checkpoint_name);
/// `entries` with `prefix` before each name.
Entries below(const std::string& prefix, Entries entries);
/// One tensor for each expert, as Qwen3-MoE is published; `first` is the number of the first one.
Entries experts_one_by_one(std::span<const MlpIds> experts, int64_t first);
/// gate_up_proj [E, 2F, D] and down_proj [E, D, F], as Qwen3.5-MoE is published.
Entries experts_grouped(std::span<const MlpIds> experts);

/// The tensor of `share` that an entry describes. Throws ConfigError "layout-conflict" at
/// `layout_name` where the ranks do not divide what they share.
layout::PhysicalTensor place_entry(const LogicalModel& model,
                                   const Entry& entry,
                                   const Share& share,
                                   int64_t padded_vocab,
                                   const std::string& layout_name);

/// A tensor that is stored whole, axis for axis.
layout::PhysicalTensor place_carried(const LogicalModel& model, int32_t tensor, std::string name);

}  // namespace lockstep::model
