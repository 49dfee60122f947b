// The variable `loop` of a for loop.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <optional>
#include <string_view>
#include <vector>

#include "text/jinja/value.h"

namespace lockstep::text::jinja {

/// Walks the elements of a for loop; a filter is asked only when an element is needed, so that it
/// sees what the body has set.
class LoopWalk {
 public:
  using Filter = std::function<bool(const Value&)>;
  LoopWalk(std::vector<Value> items, Filter filter);

  /// The next element, or nothing at the end.
  std::optional<Value> next();
  /// Forgets the elements that are left, at the end of the loop.
  void release();
  /// An attribute of `loop`: index, first, previtem, …; nothing for other names.
  std::optional<Value> attribute(std::string_view name);
  /// loop.cycle and loop.changed.
  Value cycle(const std::vector<Value>& values) const;
  Value changed(std::vector<Value> values, Budget& budget);

 private:
  std::optional<Value> fetch();
  const std::optional<Value>& peek();
  int64_t length();

  std::vector<Value> items_;
  // It may be empty.
  Filter filter_;
  // The index of the next element to fetch.
  size_t at_ = 0;
  int64_t index0_ = -1;
  bool has_peeked_ = false;
  std::optional<Value> after_, current_, before_;
  std::optional<int64_t> length_;
  std::optional<std::vector<Value>> last_changed_;
};

/// What a Value of kind kLoop refers to.
struct Loop {
  LoopWalk walk;
};

}  // namespace lockstep::text::jinja
