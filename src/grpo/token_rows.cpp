// SPDX-License-Identifier: Apache-2.0
#include "grpo/token_rows.h"

#include "base/json.h"

namespace lockstep::grpo {
train::Sample token_row(const Json& row, int64_t vocab_size, std::string_view where) {
  const auto list = [&](const char* key) {
    std::vector<int64_t> values;
    if (!row.is_object() || !row.contains(key) || !row[key].is_array() || row[key].empty())
      fail<FormatError>("bad-row", where, "expected a list that is not empty in {}, got none", key);
    for (const Json& value : row[key]) {
      if (!value.is_number_integer())
        fail<FormatError>("bad-row", where, "expected whole numbers in {}, got {}", key,
                          value.type_name());
      values.push_back(value.get<int64_t>());
    }
    return values;
  };
  train::Sample sample;
  sample.ids = list("input_ids");
  check_ids(sample.ids, vocab_size, where);
  sample.mask.assign(sample.ids.size(), 1);
  if (row.contains("completion_mask")) {
    const auto mask = list("completion_mask");
    if (mask.size() != sample.ids.size())
      fail<FormatError>("bad-row", where,
                        "expected {} entries in completion_mask, one an input id, got {}",
                        sample.ids.size(), mask.size());
    for (size_t t = 0; t < mask.size(); ++t) {
      if (mask[t] != 0 && mask[t] != 1)
        fail<FormatError>("bad-row", where, "expected 0 or 1 in completion_mask, got {}", mask[t]);
      sample.mask[t] = static_cast<uint8_t>(mask[t]);
    }
    if (mask[0])
      fail<FormatError>("bad-row", where,
                        "expected 0 as the first entry of completion_mask (nothing predicts the "
                        "first token), got 1");
  }
  sample.mask[0] = 0;
  return sample;
}

void check_ids(const std::vector<int64_t>& ids, int64_t vocab_size, std::string_view where) {
  for (const int64_t id : ids)
    if (id < 0 || id >= vocab_size)
      fail<FormatError>("bad-row", where, "expected ids in [0, {}), got {}", vocab_size, id);
}

}  // namespace lockstep::grpo
