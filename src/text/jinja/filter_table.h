// The two tables of filters, for filters.cpp and sequence_filters.cpp only.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string_view>
#include <unordered_map>

#include "text/jinja/builtins.h"

namespace lockstep::text::jinja {

/// One application of a filter.
struct FilterCall {
  std::string_view name;
  const Value& input;
  const CallArguments& arguments;
  Budget& budget;

  BoundArguments bind(std::initializer_list<std::string_view> names, size_t required = 0) const {
    return BoundArguments(name, arguments, names, required);
  }
};

using FilterTable = std::unordered_map<std::string_view, Value (*)(const FilterCall&)>;

const FilterTable& text_filters();
const FilterTable& sequence_filters();

}  // namespace lockstep::text::jinja
