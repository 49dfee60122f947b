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

namespace lockstep::serve {

inline Json json(std::string_view text) { return parse_json(text, "test"); }

/// The tokenizer that ships with the program.
inline text::Tokenizer default_tokenizer() {
  constexpr int64_t kVocabSize = 2048;
  return text::Tokenizer::from_json(text::default_tokenizer_json(kVocabSize),
                                    text::default_tokenizer_config(), "default");
}

/// An encoder with a template of tests/data/chat_templates, or the one that ships ("").
inline text::ChatEncoder chat_model(const std::string& name = "") {
  const std::string source =
      name.empty() ? std::string(text::default_chat_template())
                   : read_file(testing::source_dir() / "tests" / "data" / "chat_templates" / name);
  return {default_tokenizer(), text::ChatTemplate(source, name, text::default_tokenizer_config())};
}

}  // namespace lockstep::serve
