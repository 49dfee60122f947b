// A row as every command works on it: a conversation or ids, and its other columns; and the checks
// that all rows get.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/check.h"
#include "base/json.h"

namespace lockstep::text {

/// How the columns of a row differ from those of its file.
struct FileColumns {
  /// The names of those that became the conversation.
  std::vector<std::string> conversation;
  /// The names of those that were made from others.
  std::vector<std::string> made;
};

/// One row in canonical form.
struct Row {
  /// Array of {"role", "content", …}; roles system, user, assistant, tool.
  Json messages;
  /// Array, or null.
  Json tools;
  /// Object, or null.
  Json chat_template_kwargs;
  /// Object: every other column, as it stood (solution, …), for rewards and logs.
  Json columns;
  /// The prompt of a row of TRL's whose column `prompt` is text, which is the user's message.
  std::optional<std::string> text_prompt;
  /// Where the row stands, for errors: "file:line".
  std::string where;
  /// The row as it stands in its file, and an object of those of its columns that hold completions.
  /// Only rows with recorded completions (DatasetOptions::recorded) have them.
  Json file_row, recorded;
  /// Shared by the rows of a file; null for a row that is none of a data set.
  std::shared_ptr<const FileColumns> file_columns;
};

/// How messages are taken out of a row: in canonical form (text/messages.h), or as they stand, as
/// transformers would give them to the template.
enum class MessageForm : uint8_t { kCanonical, kAsTheyStand };

/// Takes the conversation out of a row: the column `messages` ("": none), `tools` and
/// `chat_template_kwargs`, these also as strings of JSON; what is left is `columns`. Throws
/// FormatError "bad-row" at `where`.
Row take_conversation(Json&& row,
                      const std::string& where,
                      MessageForm form = MessageForm::kCanonical,
                      const std::string& messages = "messages");

/// Throws FormatError "bad-row" for a row with an image, a video or a sound: columns image, images,
/// video, … (in any case) that are not empty.
void check_text_only(const Json& row, std::string_view where);

/// The ids under `key`. Throws FormatError "bad-row" unless they are a list of whole numbers in
/// [0, vocab_size).
std::vector<int64_t> ids_of(const Json& row,
                            std::string_view key,
                            int64_t vocab_size,
                            std::string_view where);
/// Throws FormatError "bad-row" for an id that the model does not have.
void check_ids(std::span<const int64_t> ids, int64_t vocab_size, std::string_view where);

/// The list of 0 and 1 under `key`, one for each of `count` ids. Throws FormatError "bad-row".
std::vector<uint8_t> mask_of(const Json& row,
                             std::string_view key,
                             size_t count,
                             std::string_view where);
/// The list of `count` numbers under `key`; `what_for` says for what there is one each. Throws
/// FormatError "bad-row".
std::vector<double> numbers_of(const Json& row,
                               std::string_view key,
                               size_t count,
                               std::string_view what_for,
                               std::string_view where);

/// Runs `function`; what it throws about a row's text, ids or template comes out as "bad-row" at
/// `where`.
template <class Function>
auto at_row(std::string_view where, Function&& function) {
  try {
    return function();
  } catch (const FormatError& error) {
    if (error.code() == "bad-template" || error.where() == where) throw;
    // A tokenizer or a template does not know which row it works on.
    fail<FormatError>("bad-row", where, "{}", error.what());
  }
}

}  // namespace lockstep::text
