// What sft trains on in a conversation, by a template of the test's own.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "base/json.h"
#include "tests/support/source_dir.h"
#include "tests/support/temp_dir.h"
#include "text/chat_encoder.h"

namespace lockstep::text {

using Texts = std::vector<std::string>;

inline Json json(std::string_view text) { return parse_json(text, "test"); }

/// A checkpoint's text files with one template; encoders read it anew.
class Checkpoint {
 public:
  explicit Checkpoint(std::string_view source) {
    for (const char* name : {"tokenizer.json", "tokenizer_config.json"})
      std::filesystem::copy_file(
          testing::source_dir() / "tests" / "golden" / "checkpoints" / "qwen3_tied" / name,
          directory_ / name);
    directory_.write("chat_template.jinja", source);
  }
  const std::filesystem::path& path() const { return directory_.path(); }

 private:
  testing::TempDir directory_;
};

/// The runs of tokens that are trained on, as text.
inline Texts trained(const ChatEncoder& encoder, const EncodedDialogue& dialogue) {
  Texts texts;
  for (size_t t = 0; t < dialogue.ids.size();) {
    size_t end = t;
    while (end < dialogue.ids.size() && dialogue.mask[end] == dialogue.mask[t] &&
           (dialogue.weights.empty() || dialogue.weights[end] == dialogue.weights[t]))
      ++end;
    if (dialogue.mask[t])
      texts.push_back(encoder.tokenizer().decode(std::span(dialogue.ids).subspan(t, end - t)));
    t = end;
  }
  return texts;
}

inline Texts trained(std::string_view source,
                     const Json& messages,
                     LossTurns turns = LossTurns::kAll,
                     const Json& variables = {}) {
  const Checkpoint checkpoint(source);
  const ChatEncoder encoder(checkpoint.path());
  return trained(encoder, encoder.encode_dialogue({&messages, nullptr, &variables}, turns));
}

inline Json say(const char* role, const char* content) {
  return {{"role", role}, {"content", content}};
}

inline constexpr const char* kChatMlLoop =
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}"
    "{% endfor %}";
inline constexpr const char* kChatMlPrompt =
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

}  // namespace lockstep::text
