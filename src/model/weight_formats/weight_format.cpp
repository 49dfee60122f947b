// SPDX-License-Identifier: Apache-2.0
#include "model/weight_formats/weight_format.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include <fmt/format.h>

#include "base/check.h"

namespace lockstep::model {

using layout::Dims;
using layout::each;
using layout::LogicalTensors;
using layout::part;
using layout::PhysicalTensor;
using layout::Placement;
using layout::Range;
using layout::Rows;

namespace {

/// Divides what ranks share, with errors that say who shares out what.
class Divider {
 public:
  Divider(const Share& share, const Entry& entry, const std::string& layout_name)
      : share_(share), entry_(entry), layout_name_(layout_name) {}

  Range piece(int64_t size, std::string_view what) const {
    return piece(size, share_.rank, share_.size, what);
  }
  Range piece(int64_t size, int64_t index, int64_t count, std::string_view what) const {
    if (size % count != 0)
      fail<ConfigError>("layout-conflict", layout_name_,
                        "expected {} of {} to divide into {} ranks, got {}", what, entry_.name,
                        count, size);
    return layout::piece_of(size, index, count);
  }

 private:
  const Share& share_;
  const Entry& entry_;
  const std::string& layout_name_;
};

/// The first logical tensor of a program.
int32_t first_part(const Rows& rows) {
  return rows.tensor >= 0 ? rows.tensor : first_part(rows.body.front());
}

int64_t size_of(const layout::LogicalTensor& tensor, std::string_view name) {
  for (const layout::LogicalDim& dim : tensor.dims)
    if (dim.name == name) return dim.size;
  return 1;
}

/// A rank's share of a program. Each part is limited by itself, since parts may differ in size.
Rows shared_out(const LogicalModel& model,
                const Rows& rows,
                Split split,
                const Share& share,
                const Divider& divider) {
  if (rows.tensor < 0) {
    Rows copy = rows;
    for (Rows& inner : copy.body) inner = shared_out(model, inner, split, share, divider);
    return copy;
  }
  const layout::LogicalTensor& tensor = (*model.tensors)[rows.tensor];
  Rows mine = rows;
  bool is_copy = share.is_copy;
  switch (split) {
    case Split::kWhole:
      is_copy = is_copy || share.rank > 0;
      break;
    case Split::kHeads: {
      const int64_t groups = size_of(tensor, "group");
      if (share.size <= groups) {
        mine = rows.limited("group", divider.piece(groups, "the key-value heads"));
        break;
      }
      if (share.size % groups != 0) divider.piece(groups, "the key-value heads");
      const int64_t ranks_of_group = share.size / groups, group = share.rank / ranks_of_group,
                    inside = share.rank % ranks_of_group, members = size_of(tensor, "member");
      mine = rows.limited("group", {group, group + 1});
      // It is a query: the group's other ranks have the other heads.
      if (tensor.num_row_dims == 3)
        mine = mine.limited(
            "member", divider.piece(members, inside, ranks_of_group, "the query heads of a group"));
      else
        is_copy = is_copy || inside > 0;
      break;
    }
    case Split::kKeyHeads:
      mine = rows.limited("key_head", divider.piece(size_of(tensor, "key_head"), "the key heads"));
      break;
    case Split::kRows:
      mine = rows.limited("out", divider.piece(size_of(tensor, "out"), "the rows"));
      break;
    case Split::kColumns:
      mine = rows.limited("in", divider.piece(size_of(tensor, "in"), "the columns"));
      break;
    case Split::kVocabulary:
    case Split::kCut:
      break;
  }
  return is_copy ? mine.copied() : mine;
}

std::vector<Rows> shared_out(const LogicalModel& model,
                             const std::vector<Rows>& program,
                             Split split,
                             const Share& share,
                             const Divider& divider) {
  std::vector<Rows> mine;
  for (const Rows& rows : program) mine.push_back(shared_out(model, rows, split, share, divider));
  return mine;
}

PhysicalTensor place_stacked(const LogicalModel& model,
                             const Entry& entry,
                             const Share& share,
                             const Divider& divider) {
  const LogicalTensors& logical = *model.tensors;
  std::vector<std::vector<Rows>> mine;
  for (const auto& program : entry.stacked)
    mine.push_back(shared_out(model, program, entry.split, share, divider));
  const int64_t rows = num_rows(logical, mine.front()),
                columns = num_columns(logical, mine.front());
  const auto count = static_cast<int64_t>(mine.size());
  Placement placement(
      logical, entry.name,
      entry.is_transposed ? std::vector{count, columns, rows} : std::vector{count, rows, columns},
      entry.is_transposed ? Placement::Axes{.row = 2, .column = 1}
                          : Placement::Axes{.row = 1, .column = 2});
  if (entry.stored_type) placement.store_as(*entry.stored_type);
  for (int64_t i = 0; i < count; ++i) placement.place(mine[static_cast<size_t>(i)], Dims{i});
  return std::move(placement).finish();
}

PhysicalTensor place_vocabulary(const LogicalModel& model,
                                const Entry& entry,
                                const Share& share,
                                int64_t padded_vocab,
                                const Divider& divider) {
  const LogicalTensors& logical = *model.tensors;
  const layout::LogicalTensor& table = logical[first_part(entry.rows.front())];
  const int64_t vocab = table.dims[0].size;
  const Range range = divider.piece(padded_vocab, "the padded vocabulary");
  Placement placement(logical, entry.name, {range.size(), table.dims[1].size}, {});
  if (entry.stored_type) placement.store_as(*entry.stored_type);
  const int64_t end = std::clamp(vocab, range.begin, range.end);
  if (range.begin < end) {
    const Rows mine = entry.rows.front().limited("vocab", {range.begin, end});
    placement.place(std::vector{share.is_copy ? mine.copied() : mine});
  }
  PhysicalTensor tensor = std::move(placement).finish((range.end - end) * table.dims[1].size);
  // Set here, since a tensor that is all padding has no box to set it.
  tensor.type = entry.stored_type.value_or(table.type);
  return tensor;
}

}  // namespace

Entries WeightFormat::attention(const AttentionIds& ids) const {
  return {{"q_proj.weight", {queries(ids)}, Split::kHeads},
          {"k_proj.weight", {part(ids.k)}, Split::kHeads},
          {"v_proj.weight", {part(ids.v)}, Split::kHeads},
          {"o_proj.weight", {part(ids.o)}, Split::kColumns},
          {"q_norm.weight", {part(ids.q_norm)}},
          {"k_norm.weight", {part(ids.k_norm)}}};
}

Entries WeightFormat::delta(const DeltaIds& ids) const {
  return {
      {"in_proj_qkv.weight", {part(ids.q), part(ids.k), part(ids.v)}, Split::kKeyHeads},
      {"in_proj_z.weight", {part(ids.z)}, Split::kKeyHeads},
      {"in_proj_b.weight", {part(ids.b)}, Split::kKeyHeads},
      {"in_proj_a.weight", {part(ids.a)}, Split::kKeyHeads},
      {"conv1d.weight",
       {part(ids.conv_q), part(ids.conv_k), part(ids.conv_v)},
       Split::kKeyHeads,
       /*is_conv=*/true},
      {"A_log", {part(ids.A_log)}, Split::kKeyHeads},
      {"dt_bias", {part(ids.dt_bias)}, Split::kKeyHeads},
      {"norm.weight", {part(ids.norm)}},
      {"out_proj.weight", {part(ids.out)}, Split::kColumns},
  };
}

Entries WeightFormat::mlp(const MlpIds& ids) const {
  return {{"gate_proj.weight", {part(ids.gate)}, Split::kRows},
          {"up_proj.weight", {part(ids.up)}, Split::kRows},
          {"down_proj.weight", {part(ids.down)}, Split::kColumns}};
}

Entries WeightFormat::block(const BlockIds& ids) const {
  Entries entries{{"input_layernorm.weight", {part(ids.input_norm)}}};
  const auto add = [&](const char* prefix, Entries more) {
    more = below(prefix, std::move(more));
    std::move(more.begin(), more.end(), std::back_inserter(entries));
  };
  if (ids.attention) add("self_attn.", attention(*ids.attention));
  if (ids.delta) add("linear_attn.", delta(*ids.delta));
  entries.push_back({"post_attention_layernorm.weight", {part(ids.post_norm)}});
  if (ids.dense) add("mlp.", mlp(*ids.dense));
  if (!ids.experts) return entries;
  entries.push_back({"mlp.gate.weight", {part(ids.experts->router)}});
  if (!ids.experts->shared) return entries;
  add("mlp.shared_expert.", mlp(*ids.experts->shared));
  entries.push_back({"mlp.shared_expert_gate.weight", {part(ids.experts->shared_gate)}});
  return entries;
}

int64_t WeightFormat::padded_vocab(int64_t vocab_size, int64_t) const { return vocab_size; }

Rows queries(const AttentionIds& ids) {
  if (ids.gate < 0) return part(ids.q);
  return each("group", {each("member", {part(ids.q), part(ids.gate)})});
}

std::string without_model_prefix(const std::string& name) {
  return name.starts_with("model.visual.") ? name.substr(6) : name;
}

Entries below(const std::string& prefix, Entries entries) {
  for (Entry& entry : entries) entry.name.insert(0, prefix);
  return entries;
}

Entries experts_one_by_one(std::span<const MlpIds> experts, int64_t first) {
  Entries entries;
  for (size_t i = 0; i < experts.size(); ++i) {
    const std::string prefix = fmt::format("mlp.experts.{}.", first + static_cast<int64_t>(i));
    entries.push_back({prefix + "gate_proj.weight", {part(experts[i].gate)}, Split::kRows});
    entries.push_back({prefix + "up_proj.weight", {part(experts[i].up)}, Split::kRows});
    entries.push_back({prefix + "down_proj.weight", {part(experts[i].down)}, Split::kColumns});
  }
  return entries;
}

Entries experts_grouped(std::span<const MlpIds> experts) {
  Entry gate_up{.name = "mlp.experts.gate_up_proj", .split = Split::kRows};
  Entry down{.name = "mlp.experts.down_proj", .split = Split::kColumns};
  for (const MlpIds& ids : experts) {
    gate_up.stacked.push_back({part(ids.gate), part(ids.up)});
    down.stacked.push_back({part(ids.down)});
  }
  return {std::move(gate_up), std::move(down)};
}

PhysicalTensor place_entry(const LogicalModel& model,
                           const Entry& entry,
                           const Share& share,
                           int64_t padded_vocab,
                           const std::string& layout_name) {
  const LogicalTensors& logical = *model.tensors;
  const Divider divider(share, entry, layout_name);
  if (!entry.stacked.empty()) return place_stacked(model, entry, share, divider);
  if (entry.split == Split::kVocabulary)
    return place_vocabulary(model, entry, share, padded_vocab, divider);
  const std::vector<Rows> mine = shared_out(model, entry.rows, entry.split, share, divider);
  const int64_t rows = num_rows(logical, mine), columns = num_columns(logical, mine);
  const layout::LogicalTensor& first = logical[first_part(mine.front())];
  const bool is_vector = static_cast<size_t>(first.num_row_dims) == first.dims.size();
  Placement placement(logical, entry.name,
                      is_vector       ? std::vector{rows}
                      : entry.is_conv ? std::vector<int64_t>{rows, 1, columns}
                                      : std::vector{rows, columns},
                      {.row = 0, .column = entry.is_conv ? 2 : 1});
  if (entry.stored_type) placement.store_as(*entry.stored_type);
  placement.place(mine);
  PhysicalTensor tensor = std::move(placement).finish();
  if (entry.split != Split::kCut) return tensor;
  const Range range = divider.piece(rows, "the rows");
  return cut(tensor, /*axis=*/0, range.begin, range.end);
}

PhysicalTensor place_carried(const LogicalModel& model, int32_t tensor, std::string name) {
  const layout::LogicalTensor& logical = (*model.tensors)[tensor];
  PhysicalTensor placed{std::move(name), {}, logical.type, {}, 0};
  layout::Box box{.tensor = tensor, .region = whole(logical), .steps = {}};
  for (size_t d = 0; d < logical.dims.size(); ++d) {
    placed.shape.push_back(logical.dims[d].size);
    box.steps[d] = {static_cast<int>(d), 1};
  }
  if (logical.numel() > 0) placed.boxes.push_back(box);
  return placed;
}

}  // namespace lockstep::model
