// UTF-8 by the table of well-formed sequences, classes by a table of runs, NFC by utf8proc.
// SPDX-License-Identifier: Apache-2.0
#include "text/unicode.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <vector>

#include <utf8proc.h>

#include "base/check.h"

namespace lockstep::text {
namespace {

constexpr uint32_t kRuns[] = {
#include "text/unicode_classes.inc"
};
struct Range {
  char32_t first, last;
};
/// Marks that came into Unicode after the tables of tokenizers' NFC, which takes them for letters.
constexpr Range kNewMarks[] = {
#include "text/nfc_new_marks.inc"
};
constexpr size_t kNumCodePoints = 0x110000;

std::vector<CharClass> expand_runs() {
  std::vector<CharClass> classes(kNumCodePoints);
  const size_t num_runs = std::size(kRuns);
  for (size_t i = 0; i < num_runs; ++i) {
    const size_t end = i + 1 < num_runs ? kRuns[i + 1] / 8 : kNumCodePoints;
    std::fill(classes.begin() + kRuns[i] / 8, classes.begin() + static_cast<ptrdiff_t>(end),
              static_cast<CharClass>(kRuns[i] % 8));
  }
  return classes;
}

unsigned char byte_at(std::string_view text, size_t i) {
  return static_cast<unsigned char>(text[i]);
}

struct Sequence {
  /// Bytes of the character, or of the maximal ill-formed part.
  size_t size;
  /// Whether it is a whole character.
  bool is_complete;
  /// Whether the text ends inside what could still become one.
  bool is_cut;
};

/// What stands at `begin` by table 3-7 of the Unicode standard.
Sequence sequence_at(std::string_view text, size_t begin) {
  const unsigned char lead = byte_at(text, begin);
  if (lead < 0x80) return {1, true, false};
  if (lead < 0xc2 || lead > 0xf4) return {1, false, false};
  const size_t size = lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
  // The bounds of the second byte.
  unsigned char low = 0x80, high = 0xbf;
  if (lead == 0xe0) low = 0xa0;
  if (lead == 0xed) high = 0x9f;
  if (lead == 0xf0) low = 0x90;
  if (lead == 0xf4) high = 0x8f;
  for (size_t i = 1; i < size; ++i) {
    if (begin + i == text.size()) return {i, false, true};
    const unsigned char byte = byte_at(text, begin + i);
    if (byte < low || byte > high) return {i, false, false};
    low = 0x80;
    high = 0xbf;
  }
  return {size, true, false};
}

/// Code points that NFC leaves alone whatever their neighbours among them are: starters that
/// neither decompose nor compose with what stands before.
bool is_inert(char32_t c) {
  return c < 0x300 || (c >= 0x400 && c < 0x483) || (c >= 0x2010 && c < 0x2060) ||
         (c >= 0x2190 && c < 0x2200) || (c >= 0x3001 && c < 0x302a) ||
         (c >= 0x3041 && c < 0x3099) || (c >= 0x30a1 && c < 0x3100) ||
         (c >= 0x4e00 && c < 0xa000) || (c >= 0xac00 && c < 0xd7a4) ||
         (c >= 0xff01 && c < 0xffef) || (c >= 0x1f300 && c < 0x1fb00);
}

bool is_new_mark(char32_t c) {
  if (c < kNewMarks[0].first) return false;
  const Range* const found =
      std::lower_bound(std::begin(kNewMarks), std::end(kNewMarks), c,
                       [](const Range& range, char32_t value) { return range.last < value; });
  return found != std::end(kNewMarks) && found->first <= c;
}

void append_nfc(std::string_view text, std::string& out) {
  utf8proc_uint8_t* raw = nullptr;
  const auto options = static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE);
  const utf8proc_ssize_t size =
      utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(text.data()),
                   static_cast<utf8proc_ssize_t>(text.size()), &raw, options);
  const std::unique_ptr<utf8proc_uint8_t, decltype(&std::free)> owner(raw, &std::free);
  LOCKSTEP_CHECK(size >= 0, "utf8proc: {}", utf8proc_errmsg(size));
  out.append(reinterpret_cast<const char*>(raw), static_cast<size_t>(size));
}

}  // namespace

CharClass class_of(char32_t code_point) {
  static const std::vector<CharClass> classes = expand_runs();
  return classes[code_point];
}

DecodedChar decode_char(std::string_view text, size_t begin) {
  const char32_t lead = byte_at(text, begin);
  const auto tail = [&](size_t i) {
    return static_cast<char32_t>(byte_at(text, begin + i) & 0x3f);
  };
  if (lead < 0x80) return {lead, 1};
  if (lead < 0xe0) return {(lead & 0x1f) << 6 | tail(1), 2};
  if (lead < 0xf0) return {(lead & 0x0f) << 12 | tail(1) << 6 | tail(2), 3};
  return {(lead & 0x07) << 18 | tail(1) << 12 | tail(2) << 6 | tail(3), 4};
}

size_t valid_prefix(std::string_view text) {
  size_t at = 0;
  while (at < text.size()) {
    const Sequence sequence = sequence_at(text, at);
    if (!sequence.is_complete) return at;
    at += sequence.size;
  }
  return at;
}

int terminal_columns(std::string_view text) {
  return static_cast<int>(
      std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xC0) != 0x80; }));
}

bool is_ascii(std::string_view text) {
  size_t at = 0;
  for (; at + 8 <= text.size(); at += 8) {
    uint64_t word = 0;
    std::memcpy(&word, text.data() + at, 8);
    if ((word & 0x8080808080808080u) != 0) return false;
  }
  return std::all_of(text.begin() + static_cast<ptrdiff_t>(at), text.end(),
                     [](char c) { return static_cast<unsigned char>(c) < 0x80; });
}

size_t append_lossy(std::string_view bytes, bool more_follows, std::string& out) {
  size_t at = 0;
  while (at < bytes.size()) {
    const Sequence sequence = sequence_at(bytes, at);
    if (sequence.is_complete) {
      out.append(bytes, at, sequence.size);
    } else if (sequence.is_cut && more_follows) {
      return at;
    } else {
      out += "\xef\xbf\xbd";
    }
    at += sequence.size;
  }
  return at;
}

bool is_surely_nfc(std::string_view text) {
  for (size_t at = 0; at < text.size();) {
    const DecodedChar decoded = decode_char(text, at);
    if (!is_inert(decoded.code_point)) return false;
    at += decoded.size;
  }
  return true;
}

std::string to_nfc(std::string_view text) {
  std::string result;
  result.reserve(text.size());
  size_t begin = 0;
  for (size_t at = 0; at < text.size();) {
    const DecodedChar c = decode_char(text, at);
    if (is_new_mark(c.code_point)) {
      append_nfc(text.substr(begin, at - begin), result);
      result.append(text, at, c.size);
      begin = at + c.size;
    }
    at += c.size;
  }
  append_nfc(text.substr(begin), result);
  return result;
}

}  // namespace lockstep::text
