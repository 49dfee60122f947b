// What a rendering writes, and where each part of it came from.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "text/jinja/value.h"

namespace lockstep::text::jinja {

constexpr int64_t kNoItem = -1;

/// Bytes [begin, end) of a text, and the element of the watched list that a loop stood at when they
/// were written; kNoItem: none.
struct Part {
  size_t begin = 0, end = 0;
  int64_t item = kNoItem;
};

/// The parts of a text, each list in its order. Parts of `items` do not overlap and are not empty.
struct Parts {
  /// Where a loop over elements of the watched list stood at one of them: the innermost such loop.
  std::vector<Part> items;
  /// What {% generation %} blocks wrote.
  std::vector<Part> generations;
  bool is_empty() const { return items.empty() && generations.empty(); }
};

/// A text that grows. Not thread-safe.
class Output {
 public:
  size_t size() const { return text_.size(); }
  void append(std::string_view text) { text_ += text; }
  /// A text that may have been captured from an output: its parts come along.
  void append(const Text& text);
  /// What comes now belongs to `item` (kNoItem: to nobody of this output). Returns whose it was.
  int64_t switch_item(int64_t item);
  /// Marks what came since `begin`.
  void add_generation(size_t begin, int64_t item);

  /// All of it, as a value that keeps its parts.
  Value take_value();
  std::string take_text() { return std::move(text_); }
  Parts take_parts();

 private:
  void close();

  std::string text_;
  Parts parts_;
  int64_t item_ = kNoItem;
  size_t item_begin_ = 0;
};

}  // namespace lockstep::text::jinja
