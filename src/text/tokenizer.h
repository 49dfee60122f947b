// Byte-level BPE from a Hugging Face tokenizer.json.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/json_fwd.h"

namespace lockstep::text {

/// Text to ids and back, equal to Hugging Face `tokenizers` for byte-level BPE files: added tokens
/// on raw text (leftmost, longest), NFC, the file's split pattern (PCRE2), byte-level alphabet,
/// merges.
///
/// Threads: safe after construction (each encode works on its own scratch and a per-thread word
/// cache).
class Tokenizer {
 public:
  /// Reads tokenizer.json, and tokenizer_config.json beside it if there is one
  /// (added_tokens_decoder for tokens missing in tokenizer.json; eos_token, pad_token). Throws
  /// FormatError "bad-tokenizer" naming the field; what is not supported (another model type,
  /// dropout, another normaliser) is an error, an unknown split pattern a warning.
  static Tokenizer from_directory(const std::filesystem::path& directory);
  static Tokenizer from_json(const Json& tokenizer,
                             const Json& tokenizer_config,
                             std::string_view where);
  Tokenizer(Tokenizer&&) noexcept;
  Tokenizer& operator=(Tokenizer&&) noexcept;
  ~Tokenizer();

  /// Ids of `text`; added tokens in it are recognised. Throws FormatError "bad-text" for invalid
  /// UTF-8.
  std::vector<int64_t> encode(std::string_view text) const;
  /// Text of `ids`, special tokens kept unless `skip_special`; bytes that are no UTF-8 become
  /// U+FFFD, as in tokenizers. Ids that no token has, as an embedding's padding rows, decode to "".
  /// Throws FormatError "bad-token-id" for an id that is negative or does not fit 31 bits.
  std::string decode(std::span<const int64_t> ids, bool skip_special = false) const;
  /// The raw bytes of one id (byte-level alphabet undone); added tokens give their text.
  std::string_view bytes_of(int64_t id) const;

  /// Id of an added token, else of a vocabulary token, by its text (bytes as bytes_of gives them).
  /// Linear time.
  std::optional<int64_t> id_of(std::string_view token) const;
  std::optional<int64_t> eos_id() const;
  std::optional<int64_t> pad_id() const;
  /// Largest id + 1.
  int64_t size() const;
  bool is_special(int64_t id) const;

 private:
  struct Impl;
  explicit Tokenizer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

/// Decodes a stream of ids by whole characters: text() holds only complete UTF-8; the rest waits.
///
/// After finish(), what was left incomplete is U+FFFD: the concatenation of all pieces equals
/// Tokenizer::decode of all ids. Not thread-safe. The tokenizer must outlive it.
class StreamDecoder {
 public:
  explicit StreamDecoder(const Tokenizer& tokenizer) : tokenizer_(&tokenizer) {}
  /// The text that `id` completes (may be empty).
  std::string push(int64_t id);
  std::string finish();

 private:
  const Tokenizer* tokenizer_;
  std::string pending_;
};

}  // namespace lockstep::text
