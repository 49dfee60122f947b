// What commands that run a model share: loading it, and rows that are ids or messages.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/json_fwd.h"
#include "cli/command.h"
#include "text/chat_encoder.h"
#include "train/hf_checkpoint.h"

namespace lockstep::cli {

/// check_output_apart and check_output_path for a checkpoint directory; with `overwrite` refuses a
/// folder that holds something else: replacing it would delete what is in it. Throws ConfigError
/// "output-is-input", "output-exists".
void check_output_directory(const CommandContext& context,
                            const std::string& directory,
                            bool overwrite);

/// Loads the checkpoint and says what it is, on stderr.
train::LoadedModel load_for_command(const CommandContext& context, const std::string& directory);

/// Rows of `input_ids` or `messages` as ids. The tokenizer and the template are read when the first
/// conversation comes.
class RowEncoder {
 public:
  RowEncoder(std::filesystem::path model,
             int64_t vocab_size,
             std::optional<bool> enable_thinking = {})
      : model_(std::move(model)), vocab_size_(vocab_size), enable_thinking_(enable_thinking) {}

  struct Encoded {
    std::vector<int64_t> ids;
    /// With a generation prompt.
    std::string response_prefix;
  };
  /// The row's ids; messages with or without a generation prompt. Throws FormatError "bad-row" at
  /// `where`.
  Encoded encode(const Json& row, const std::string& where, bool add_generation_prompt);
  const text::ChatEncoder& chat();

 private:
  std::filesystem::path model_;
  int64_t vocab_size_;
  std::optional<bool> enable_thinking_;
  std::unique_ptr<text::ChatEncoder> chat_;
};

}  // namespace lockstep::cli
