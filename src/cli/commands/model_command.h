// What commands that run a model share: they load it, and read rows of ids or messages.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/json_fwd.h"
#include "cli/command.h"
#include "model/adapter.h"
#include "text/row_encoder.h"
#include "train/hf_checkpoint.h"

namespace lockstep::cli {

/// check_output_apart and check_output_path for a checkpoint directory; with `overwrite` refuses a
/// folder that is none, since replacing it would delete all that is in it. True where there is a
/// folder to replace. Throws ConfigError "output-is-input", "output-exists".
bool check_output_directory(const CommandContext& context,
                            const std::string& directory,
                            bool overwrite);

/// Loads the checkpoint and says what it is, on stderr.
train::LoadedModel load_for_command(const CommandContext& context,
                                    const std::string& directory,
                                    model::WeightUse use = model::WeightUse::kFrozen);

/// Loads an adapter for a model with these parameters and says what it is; null if none is named.
std::unique_ptr<model::Adapter> load_adapter_for_command(const std::string& directory,
                                                         std::span<const model::Parameter> model);
/// Loads the checkpoint, and the adapter for it if one is named.
train::LoadedModel load_for_command(const CommandContext& context,
                                    const std::string& directory,
                                    const std::string& adapter,
                                    model::WeightUse use = model::WeightUse::kFrozen);

/// The ids of a row of `input_ids` or `messages`, the latter with or without a generation prompt.
/// Throws FormatError "bad-row" at `where`.
std::vector<int64_t> encode_row(text::RowEncoder& encoder,
                                const Json& row,
                                const std::string& where,
                                bool add_generation_prompt);

}  // namespace lockstep::cli
