// Encoders of chats for tests: a small tokenizer with each chat template.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <string_view>
#include <utility>

#include "base/file.h"
#include "base/json.h"
#include "tests/support/source_dir.h"
#include "text/chat_encoder.h"
#include "text/default_tokenizer.h"

namespace lockstep::text {

inline Json json(std::string_view text) { return parse_json(text, "test"); }

/// The tokenizer that ships with the program.
inline Tokenizer default_tokenizer() {
  constexpr int64_t kVocabSize = 2048;
  return Tokenizer::from_json(default_tokenizer_json(kVocabSize), default_tokenizer_config(),
                              "default");
}

/// An encoder with a template of tests/data/chat_templates, or the one that ships ("").
inline ChatEncoder chat_model(const std::string& name = "") {
  const std::string source =
      name.empty() ? std::string(default_chat_template())
                   : read_file(testing::source_dir() / "tests" / "data" / "chat_templates" / name);
  return {default_tokenizer(), ChatTemplate(source, name, default_tokenizer_config())};
}

}  // namespace lockstep::text
