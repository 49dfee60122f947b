// UTF-8, code point classes and NFC: what the tokenizer needs of Unicode.
// The classes are those of Hugging Face `tokenizers` (unicode_classes.inc), not of a library of the
// system.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace lockstep::text {

enum class CharClass : uint8_t { kOther = 0, kLetter, kMark, kNumber, kSpace };

/// The class of a code point below 0x110000: \p{L}, \p{M}, \p{N}, \s or none of them. Threads: any.
CharClass class_of(char32_t code_point);

struct DecodedChar {
  char32_t code_point;
  /// Bytes, 1 to 4.
  uint32_t size;
};
/// The character at `begin` of a text that is valid UTF-8.
DecodedChar decode_char(std::string_view text, size_t begin);

/// Bytes of the well-formed UTF-8 at the start of `text`: text.size() if it is valid as a whole.
size_t valid_prefix(std::string_view text);

bool is_ascii(std::string_view text);

/// How many columns of a terminal the text takes, if each character takes one.
int terminal_columns(std::string_view text);

/// Appends `bytes` to `out`, each maximal ill-formed part as one U+FFFD (Unicode 3.9, as Rust's
/// from_utf8_lossy).
///
/// Returns the number of bytes used: fewer than all only if `more_follows` and the last ones begin
/// a character.
size_t append_lossy(std::string_view bytes, bool more_follows, std::string& out);

/// True if `text` is seen to be in NFC by its code points alone; false says nothing.
bool is_surely_nfc(std::string_view text);
/// Normalization form C of a valid text, as `tokenizers` has it: marks newer than its tables stay
/// where they stand.
std::string to_nfc(std::string_view text);

}  // namespace lockstep::text
