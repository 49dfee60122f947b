// The variable `loop`: follows jinja2.runtime.LoopContext, its looking ahead included.
// SPDX-License-Identifier: Apache-2.0
#include "text/jinja/loop.h"

namespace lockstep::text::jinja {

LoopWalk::LoopWalk(std::vector<Value> items, Filter filter)
    : items_(std::move(items)), filter_(std::move(filter)) {
  if (!filter_) length_ = static_cast<int64_t>(items_.size());
}

std::optional<Value> LoopWalk::fetch() {
  while (at_ < items_.size()) {
    const Value& item = items_[at_++];
    if (!filter_ || filter_(item)) return item;
  }
  return std::nullopt;
}

const std::optional<Value>& LoopWalk::peek() {
  if (!has_peeked_) {
    after_ = fetch();
    has_peeked_ = true;
  }
  return after_;
}

std::optional<Value> LoopWalk::next() {
  std::optional<Value> item = peek();
  has_peeked_ = false;
  if (!item) return item;
  ++index0_;
  before_ = std::move(current_);
  current_ = item;
  return item;
}

void LoopWalk::release() {
  items_ = {};
  filter_ = nullptr;
  at_ = 0;
}

int64_t LoopWalk::length() {
  if (length_) return *length_;
  int64_t result = index0_ + 1;
  if (peek()) ++result;
  std::vector<Value> rest;
  while (std::optional<Value> item = fetch()) rest.push_back(std::move(*item));
  result += static_cast<int64_t>(rest.size());
  items_ = std::move(rest);
  filter_ = nullptr;
  at_ = 0;
  length_ = result;
  return result;
}

std::optional<Value> LoopWalk::attribute(std::string_view name) {
  if (name == "index") return Value::integer(index0_ + 1);
  if (name == "index0") return Value::integer(index0_);
  if (name == "revindex") return Value::integer(length() - index0_);
  if (name == "revindex0") return Value::integer(length() - index0_ - 1);
  if (name == "first") return Value::boolean(index0_ == 0);
  if (name == "last") return Value::boolean(!peek());
  if (name == "length") return Value::integer(length());
  if (name == "depth") return Value::integer(1);
  if (name == "depth0") return Value::integer(0);
  if (name == "previtem") return before_.value_or(Value::undefined("there is no previous item"));
  if (name == "nextitem") return peek().value_or(Value::undefined("there is no next item"));
  return std::nullopt;
}

Value LoopWalk::cycle(const std::vector<Value>& values) const {
  if (values.empty()) fail_template("expected values to cycle through, got none");
  return values[static_cast<size_t>(index0_) % values.size()];
}

Value LoopWalk::changed(std::vector<Value> values, Budget& budget) {
  const auto tuple = [](const std::vector<Value>& items) {
    return Value::sequence(SequenceKind::kTuple, items);
  };
  if (last_changed_ && are_equal(tuple(*last_changed_), tuple(values), budget))
    return Value::boolean(false);
  last_changed_ = std::move(values);
  return Value::boolean(true);
}

}  // namespace lockstep::text::jinja
