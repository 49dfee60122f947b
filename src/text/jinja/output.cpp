// SPDX-License-Identifier: Apache-2.0
#include "text/jinja/output.h"

#include <utility>

namespace lockstep::text::jinja {

void Output::append(const Text& text) {
  if (!text.parts) return append(text.bytes);
  const size_t at = text_.size();
  size_t done = 0;
  for (const Part& part : text.parts->items) {
    append(std::string_view(text.bytes).substr(done, part.begin - done));
    const int64_t outer = switch_item(part.item);
    append(std::string_view(text.bytes).substr(part.begin, part.end - part.begin));
    switch_item(outer);
    done = part.end;
  }
  append(std::string_view(text.bytes).substr(done));
  for (const Part& part : text.parts->generations)
    parts_.generations.push_back({at + part.begin, at + part.end, part.item});
}

int64_t Output::switch_item(int64_t item) {
  close();
  item_begin_ = text_.size();
  return std::exchange(item_, item);
}

void Output::add_generation(size_t begin, int64_t item) {
  parts_.generations.push_back({begin, text_.size(), item});
}

void Output::close() {
  if (item_ == kNoItem || item_begin_ == text_.size()) return;
  auto& items = parts_.items;
  // A loop inside of the item's turn that wrote nothing does not cut it in two.
  if (!items.empty() && items.back().item == item_ && items.back().end == item_begin_)
    items.back().end = text_.size();
  else
    items.push_back({item_begin_, text_.size(), item_});
}

Parts Output::take_parts() {
  switch_item(kNoItem);
  return std::move(parts_);
}

Value Output::take_value() {
  Parts parts = take_parts();
  return Value::captured(std::move(text_), parts.is_empty()
                                               ? nullptr
                                               : std::make_shared<const Parts>(std::move(parts)));
}

}  // namespace lockstep::text::jinja
