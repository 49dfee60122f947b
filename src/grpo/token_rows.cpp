// SPDX-License-Identifier: Apache-2.0
#include "grpo/token_rows.h"

#include <algorithm>
#include <span>
#include <vector>

#include "base/check.h"
#include "base/json.h"
#include "tensor/aten.h"
#include "text/row.h"

namespace lockstep::grpo {

namespace {

/// Applies transformers' `labels` (the id again, or -100 for a token without loss) and TRL's
/// `assistant_masks`. Both exclude tokens.
void apply_labels(const Json& row, std::string_view where, train::Sample& sample) {
  const size_t count = sample.ids.size();
  if (row.contains("labels") && !row["labels"].is_null()) {
    const auto labels = text::numbers_of(row, "labels", count, "id of input_ids", where);
    for (size_t t = 0; t < count; ++t) {
      if (labels[t] == -100)
        sample.mask[t] = 0;
      else if (labels[t] != static_cast<double>(sample.ids[t]))
        fail<FormatError>("bad-row", where,
                          "expected the ids of input_ids or -100 in labels, got {} for {}",
                          labels[t], sample.ids[t]);
    }
  }
  if (row.contains("assistant_masks") && !row["assistant_masks"].is_null()) {
    const auto mask = text::mask_of(row, "assistant_masks", count, where);
    for (size_t t = 0; t < count; ++t) sample.mask[t] &= mask[t];
  }
}

/// Adds the numbers of nested lists, whose lengths are those of `shape` from `depth` on.
template <class T, class Read>
bool add_numbers(const Json& list,
                 std::span<const int64_t> shape,
                 const Read& read,
                 std::vector<T>& numbers) {
  if (!list.is_array() || std::ssize(list) != shape.front()) return false;
  return std::all_of(list.begin(), list.end(), [&](const Json& one) {
    if (shape.size() > 1) return add_numbers(one, shape.subspan(1), read, numbers);
    return read(one, numbers.emplace_back());
  });
}

template <class T, class Read>
at::Tensor block_of(const Json& row,
                    const char* key,
                    std::span<const int64_t> shape,
                    at::ScalarType dtype,
                    const Read& read) {
  std::vector<T> numbers;
  if (!add_numbers(row[key], shape, read, numbers)) return {};
  const at::Tensor made = at::empty(shape, at::TensorOptions().dtype(dtype));
  std::copy(numbers.begin(), numbers.end(), made.mutable_data_ptr<T>());
  return made;
}

}  // namespace

model::ExpertChoices routed_row(const Json& row,
                                const model::ModelConfig& model,
                                std::string_view where) {
  if (!row.contains("routed_experts") || row["routed_experts"].is_null()) return {};
  const auto ids = std::ssize(row["input_ids"]);
  std::vector<int64_t> shape{std::ssize(row["routed_experts"]), model.num_moe_layers(),
                             model.num_experts_per_tok};
  const auto is_expert = [&](const Json& one, int32_t& id) {
    if (!one.is_number_integer() || one < 0 || one >= model.num_experts) return false;
    id = one.get<int32_t>();
    return true;
  };
  const auto is_weight = [](const Json& one, float& weight) {
    if (!one.is_number()) return false;
    weight = one.get<float>();
    return true;
  };
  model::ExpertChoices routed;
  if (shape[1] && (shape[0] == ids || shape[0] + 1 == ids))
    routed.experts = block_of<int32_t>(row, "routed_experts", shape, at::kInt, is_expert);
  if (!routed.defined())
    fail<FormatError>("bad-row", where,
                      "expected routed_experts of {} tokens (or all but the last), each a list of "
                      "{} layers of {} experts below {}, got others",
                      ids, shape[1], shape[2], model.num_experts);
  if (!row.contains("routed_weights") || row["routed_weights"].is_null()) return routed;
  routed.weights = block_of<float>(row, "routed_weights", shape, at::kFloat, is_weight);
  if (!routed.weights.defined())
    fail<FormatError>("bad-row", where, "expected routed_weights in the shape of routed_experts");
  return routed;
}

train::Sample token_row(const Json& row, int64_t vocab_size, std::string_view where) {
  train::Sample sample;
  sample.ids = text::ids_of(row, "input_ids", vocab_size, where);
  if (sample.ids.empty())
    fail<FormatError>("bad-row", where, "expected at least one id in input_ids, got none");
  if (row.contains("completion_mask")) {
    sample.mask = text::mask_of(row, "completion_mask", sample.ids.size(), where);
    if (sample.mask[0])
      fail<FormatError>("bad-row", where,
                        "expected 0 as the first entry of completion_mask (nothing predicts the "
                        "first token), got 1");
  } else {
    sample.mask.assign(sample.ids.size(), 1);
    sample.mask[0] = 0;
  }
  apply_labels(row, where, sample);
  return sample;
}

}  // namespace lockstep::grpo
