// Filters of sequences and mappings.
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "text/jinja/builtins.h"
#include "text/jinja/filter_table.h"
#include "text/jinja/string.h"

namespace lockstep::text::jinja {
namespace {

using Items = std::vector<Value>;

Value make_iterator(Items items) {
  return Value::sequence(SequenceKind::kIterator, std::move(items));
}

/// "a.b.0" as keys to follow one after the other; a number is an index.
Items attribute_path(const Value& attribute) {
  if (attribute.is_none()) return {};
  if (!attribute.is_string()) return {attribute};
  Items path;
  for (const std::string& part : split(attribute.bytes(), ".", -1)) {
    const bool is_index = is_digit(part) && part.size() < 18;
    path.push_back(is_index ? Value::integer(std::stoll(part)) : Value::string(part));
  }
  return path;
}

Value follow(Value value, const Items& path, const Value* otherwise = nullptr) {
  for (const Value& key : path) {
    value = get_item(value, key);
    if (otherwise != nullptr && value.is_undefined()) value = *otherwise;
  }
  return value;
}

/// What sort, unique, min and max compare by.
Value sort_key(const Value& item, const Items& path, bool is_case_sensitive) {
  const Value key = follow(item, path);
  if (is_case_sensitive || !key.is_string()) return key;
  return Value::string(to_lower(key.bytes()));
}

struct Keyed {
  Value key;
  Value item;
};

/// Items with their keys, sorted stably; `is_reversed` keeps the order of equal ones, as in Python.
Items sorted_items(std::vector<Keyed> items, bool is_reversed, Budget& budget) {
  std::stable_sort(items.begin(), items.end(), [&](const Keyed& left, const Keyed& right) {
    return is_reversed ? compare(right.key, left.key, budget) < 0
                       : compare(left.key, right.key, budget) < 0;
  });
  Items result;
  for (Keyed& keyed : items) result.push_back(std::move(keyed.item));
  return result;
}

Value filter_sort(const FilterCall& call) {
  const BoundArguments bound = call.bind({"reverse", "case_sensitive", "attribute"});
  std::vector<Items> paths;
  if (bound.is_given(2) && bound[2]->is_string()) {
    for (const std::string& part : split(bound[2]->bytes(), ",", -1))
      paths.push_back(attribute_path(Value::string(part)));
  } else {
    paths.push_back(bound.has(2) ? attribute_path(*bound[2]) : Items{});
  }
  std::vector<Keyed> items;
  for (Value& item : elements_of(call.input, call.budget)) {
    Items keys;
    for (const Items& path : paths) keys.push_back(sort_key(item, path, bound.is_true_at(1)));
    items.push_back({Value::sequence(SequenceKind::kList, std::move(keys)), std::move(item)});
  }
  return Value::sequence(SequenceKind::kList,
                         sorted_items(std::move(items), bound.is_true_at(0), call.budget));
}

const Dict& mapping_input(const FilterCall& call) {
  if (!call.input.is_dict())
    fail_row("expected a mapping for {}, got '{}'", call.name, type_name(call.input));
  return call.input.dict();
}

Value make_pair_value(const std::pair<Value, Value>& item) {
  return Value::sequence(SequenceKind::kTuple, {item.first, item.second});
}

Value filter_dictsort(const FilterCall& call) {
  const BoundArguments bound = call.bind({"case_sensitive", "by", "reverse"});
  const std::string by = bound.has(1) ? bound.string(1) : "key";
  if (by != "key" && by != "value") fail_template("expected key or value to sort by, got {}", by);
  std::vector<Keyed> items;
  for (const auto& item : mapping_input(call).items) {
    const Value& key = by == "key" ? item.first : item.second;
    items.push_back({sort_key(key, {}, bound.is_true_at(0)), make_pair_value(item)});
  }
  return Value::sequence(SequenceKind::kList,
                         sorted_items(std::move(items), bound.is_true_at(2), call.budget));
}

Value filter_items(const FilterCall& call) {
  call.bind({});
  Items items;
  if (call.input.is_undefined()) return make_iterator({});
  for (const auto& item : mapping_input(call).items) items.push_back(make_pair_value(item));
  call.budget.bytes(items.size() * sizeof(Value) * 4);
  return make_iterator(std::move(items));
}

Value filter_unique(const FilterCall& call) {
  const BoundArguments bound = call.bind({"case_sensitive", "attribute"});
  const Items path = bound.has(1) ? attribute_path(*bound[1]) : Items{};
  Items keys, items;
  for (Value& item : elements_of(call.input, call.budget)) {
    Value key = sort_key(item, path, bound.is_true_at(0));
    const bool is_known = std::any_of(keys.begin(), keys.end(), [&](const Value& known) {
      return are_equal(known, key, call.budget);
    });
    if (is_known) continue;
    keys.push_back(std::move(key));
    items.push_back(std::move(item));
  }
  return make_iterator(std::move(items));
}

template <bool kMost>
Value filter_extreme(const FilterCall& call) {
  const BoundArguments bound = call.bind({"case_sensitive", "attribute"});
  const Items path = bound.has(1) ? attribute_path(*bound[1]) : Items{};
  Value best = Value::undefined("No aggregated item, sequence was empty.");
  Value best_key;
  for (Value& item : elements_of(call.input, call.budget)) {
    Value key = sort_key(item, path, bound.is_true_at(0));
    const bool is_better = best.is_undefined() || (kMost ? compare(key, best_key, call.budget) > 0
                                                         : compare(key, best_key, call.budget) < 0);
    if (!is_better) continue;
    best = std::move(item);
    best_key = std::move(key);
  }
  return best;
}

Value filter_sum(const FilterCall& call) {
  const BoundArguments bound = call.bind({"attribute", "start"});
  const Items path = bound.has(0) ? attribute_path(*bound[0]) : Items{};
  Value total = bound.has(1) ? *bound[1] : Value::integer(0);
  for (const Value& item : elements_of(call.input, call.budget))
    total = apply_operator(Operator::kAdd, total, follow(item, path), call.budget);
  return total;
}

Value filter_first(const FilterCall& call) {
  call.bind({});
  if (call.input.is_sequence(SequenceKind::kIterator)) {
    const Sequence& sequence = call.input.sequence();
    if (sequence.next < sequence.items.size()) return sequence.items[sequence.next++];
  } else {
    const Items items = elements_of(call.input, call.budget);
    if (!items.empty()) return items.front();
  }
  return Value::undefined("No first item, sequence was empty.");
}

Value filter_last(const FilterCall& call) {
  call.bind({});
  if (call.input.is_sequence(SequenceKind::kIterator))
    fail_row("expected a list to take the last of, got '{}'", type_name(call.input));
  const Items items = elements_of(call.input, call.budget);
  return items.empty() ? Value::undefined("No last item, sequence was empty.") : items.back();
}

Value filter_join(const FilterCall& call) {
  const BoundArguments bound = call.bind({"d", "attribute"});
  const std::string separator = bound.has(0) ? to_string(*bound[0], call.budget) : "";
  const Items path = bound.has(1) ? attribute_path(*bound[1]) : Items{};
  std::string out;
  bool is_first = true;
  for (const Value& item : elements_of(call.input, call.budget)) {
    if (!is_first) out += separator;
    is_first = false;
    const std::string text = to_string(follow(item, path), call.budget);
    call.budget.bytes(separator.size() + text.size());
    out += text;
  }
  return Value::string(std::move(out));
}

Value filter_list(const FilterCall& call) {
  call.bind({});
  return Value::sequence(SequenceKind::kList, elements_of(call.input, call.budget));
}

Value filter_reverse(const FilterCall& call) {
  call.bind({});
  if (call.input.is_string()) {
    std::u32string text = decode_utf8(call.input.bytes());
    std::reverse(text.begin(), text.end());
    return Value::string(encode_utf8(text), call.input.is_markup());
  }
  Items items = elements_of(call.input, call.budget);
  std::reverse(items.begin(), items.end());
  return make_iterator(std::move(items));
}

/// The arguments behind the first `count` positional ones.
CallArguments rest_of(const CallArguments& arguments, size_t count) {
  CallArguments rest;
  rest.positional.assign(arguments.positional.begin() + static_cast<std::ptrdiff_t>(count),
                         arguments.positional.end());
  rest.keyword = arguments.keyword;
  return rest;
}

const std::string& name_argument(const FilterCall& call, size_t index) {
  const Value& name = call.arguments.positional[index];
  if (!name.is_string()) fail_row("expected a name as argument of {}", call.name);
  return name.bytes();
}

Value filter_map(const FilterCall& call) {
  if (!is_true(call.input)) return make_iterator({});
  Items result;
  if (call.arguments.positional.empty()) {
    const BoundArguments bound(call.name, call.arguments, {"attribute", "default"}, 1);
    const Items path = attribute_path(*bound[0]);
    const Value* otherwise = bound.is_given(1) ? bound[1] : nullptr;
    for (const Value& item : elements_of(call.input, call.budget))
      result.push_back(follow(item, path, otherwise));
  } else {
    const std::string& name = name_argument(call, 0);
    const CallArguments rest = rest_of(call.arguments, 1);
    for (const Value& item : elements_of(call.input, call.budget))
      result.push_back(apply_filter(name, item, rest, call.budget));
  }
  call.budget.step(static_cast<int64_t>(result.size()));
  return make_iterator(std::move(result));
}

template <bool kKeep, bool kByAttribute>
Value filter_select(const FilterCall& call) {
  if (!is_true(call.input)) return make_iterator({});
  const size_t num_own = kByAttribute ? 1 : 0;
  const Items& positional = call.arguments.positional;
  if (positional.size() < num_own)
    fail_template("expected an attribute's name as argument of {}", call.name);
  const Items path = kByAttribute ? attribute_path(positional[0]) : Items{};
  const bool has_test = positional.size() > num_own;
  const CallArguments rest = has_test ? rest_of(call.arguments, num_own + 1) : CallArguments{};
  Items result;
  for (Value& item : elements_of(call.input, call.budget)) {
    call.budget.step();
    const Value subject = follow(item, path);
    const bool passes = has_test
                            ? apply_test(name_argument(call, num_own), subject, rest, call.budget)
                            : is_true(subject);
    if (passes == kKeep) result.push_back(std::move(item));
  }
  return make_iterator(std::move(result));
}

}  // namespace

const FilterTable& sequence_filters() {
  static const FilterTable table = {
      {"dictsort", filter_dictsort},
      {"first", filter_first},
      {"items", filter_items},
      {"join", filter_join},
      {"last", filter_last},
      {"list", filter_list},
      {"map", filter_map},
      {"max", filter_extreme<true>},
      {"min", filter_extreme<false>},
      {"reject", filter_select<false, false>},
      {"rejectattr", filter_select<false, true>},
      {"reverse", filter_reverse},
      {"select", filter_select<true, false>},
      {"selectattr", filter_select<true, true>},
      {"sort", filter_sort},
      {"sum", filter_sum},
      {"unique", filter_unique},
  };
  return table;
}

}  // namespace lockstep::text::jinja
