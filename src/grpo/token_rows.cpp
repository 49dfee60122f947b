// SPDX-License-Identifier: Apache-2.0
#include "grpo/token_rows.h"

#include "base/check.h"
#include "base/json.h"
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

}  // namespace

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
