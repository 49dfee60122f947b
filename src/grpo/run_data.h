// The rows of a run: those that it trains on and those that are held out, and their order.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/json.h"
#include "grpo/options.h"
#include "text/dataset.h"

namespace lockstep::grpo {

/// Whether --system names a file that holds the prompt.
bool is_system_file(const std::string& system);

/// Logs which thinking mode the template renders, and shows the end of `rendered`, which is a
/// prompt or "a conversation".
void say_template(const ModelOptions& model, const std::string& rendered, const char* what);

/// The order of `count` rows in `epoch`: as they are (in the order of --curriculum_column, where
/// that is given), or a permutation by data_seed and epoch.
std::vector<int64_t> epoch_order(int64_t count, int64_t epoch, const DataOptions& options);

/// Loads --dataset and --val_dataset, or splits the first; logs the column mapping and the first
/// bad rows.
struct RunData {
  text::Dataset train, validation;
  /// Where rows are held out by --split_dataset_ratio, these as JSON lines, which --val_dataset
  /// reads back.
  std::string split_rows;
  /// The digests of the files and of the system prompt, for args.json.
  Json digests;
};
/// With `token_rows`, rows of `input_ids` are taken too (text/dataset.h).
RunData load_run_data(const DataOptions& options,
                      const std::string& system,
                      bool token_rows = false);

}  // namespace lockstep::grpo
