// SPDX-License-Identifier: Apache-2.0
#include "serve/request_fields.h"

#include <utility>

#include "base/check.h"

namespace lockstep::serve {
namespace {

std::string span_text(int64_t low, int64_t high) {
  return high == std::numeric_limits<int64_t>::max()
             ? fmt::format("a whole number of at least {}", low)
             : fmt::format("a whole number from {} to {}", low, high);
}

std::string range_text(const Range& range) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  std::string text = "a number";
  if (range.low > -kInfinity)
    text += fmt::format(" {} {:g}", range.low_open ? "above" : "of at least", range.low);
  if (range.high < kInfinity)
    text += fmt::format("{} {} {:g}", range.low > -kInfinity ? " and" : "",
                        range.high_open ? "below" : "of at most", range.high);
  return text;
}

/// The value of a whole number that 64 bits with sign hold.
std::optional<int64_t> whole_number(const Json& value) {
  if (!value.is_number_integer()) return std::nullopt;
  if (value.is_number_unsigned() &&
      value.get<uint64_t>() > static_cast<uint64_t>(std::numeric_limits<int64_t>::max()))
    return std::nullopt;
  return value.get<int64_t>();
}

}  // namespace

Json parse_body(std::string_view body) {
  Json value;
  try {
    value = parse_json(body, "body", "bad-json", {.max_depth = 64});
  } catch (const FormatError& error) {
    throw RequestError(400, "bad-json", "", error.what());
  }
  if (!value.is_object())
    throw RequestError(400, "bad-json", "",
                       fmt::format("body: expected a JSON object, got {}", shown(value)));
  return value;
}

std::string shown(const Json& value) {
  constexpr size_t kLongest = 80;
  if (value.is_array()) return fmt::format("a list of {}", value.size());
  if (value.is_object()) return "an object";
  if (value.is_string() && value.get_ref<const std::string&>().size() > kLongest)
    return fmt::format("a text of {} bytes", value.get_ref<const std::string&>().size());
  return dump_json(value);
}

void refuse_field(const std::string& field, std::string_view expected, const Json& got) {
  throw RequestError(400, "bad-request", field,
                     fmt::format("expected {}, got {}", expected, shown(got)));
}

void refuse_feature(const std::string& field, std::string_view why) {
  throw RequestError(400, "not-supported", field,
                     fmt::format("this server does not have it: {}", why));
}

RequestFields::RequestFields(const Json& object, std::string place)
    : object_(&object), place_(std::move(place)) {
  if (!object.is_object()) refuse_field(place_, "an object", object);
}

const Json* RequestFields::find(const char* name) const {
  const auto found = object_->find(name);
  return found == object_->end() || found->is_null() ? nullptr : &*found;
}

std::string RequestFields::field(const char* name) const {
  return place_.empty() ? name : place_ + "." + name;
}

std::optional<bool> RequestFields::boolean(const char* name) const {
  const Json* value = find(name);
  if (!value) return std::nullopt;
  if (!value->is_boolean()) refuse_field(field(name), "true or false", *value);
  return value->get<bool>();
}

std::optional<int64_t> RequestFields::integer(const char* name, int64_t low, int64_t high) const {
  const Json* value = find(name);
  if (!value) return std::nullopt;
  const auto number = whole_number(*value);
  if (!number || *number < low || *number > high)
    refuse_field(field(name), span_text(low, high), *value);
  return number;
}

std::optional<uint64_t> RequestFields::unsigned_integer(const char* name) const {
  const Json* value = find(name);
  if (!value) return std::nullopt;
  const bool is_negative =
      value->is_number_integer() && !value->is_number_unsigned() && value->get<int64_t>() < 0;
  if (!value->is_number_integer() || is_negative)
    refuse_field(field(name), "a whole number from 0 to 18446744073709551615", *value);
  return value->get<uint64_t>();
}

std::optional<double> RequestFields::number(const char* name, const Range& range) const {
  const Json* value = find(name);
  if (!value) return std::nullopt;
  if (!value->is_number() || !range.contains(value->get<double>()))
    refuse_field(field(name), range_text(range), *value);
  return value->get<double>();
}

std::optional<std::string> RequestFields::text(const char* name) const {
  const Json* value = find(name);
  if (!value) return std::nullopt;
  if (!value->is_string()) refuse_field(field(name), "a text", *value);
  return value->get<std::string>();
}

std::optional<std::vector<int64_t>> RequestFields::ids(const char* name, int64_t bound) const {
  const Json* value = find(name);
  if (!value) return std::nullopt;
  return ids_of_request(*value, bound, field(name));
}

std::optional<RequestFields> RequestFields::object(const char* name) const {
  const Json* value = find(name);
  if (!value) return std::nullopt;
  return RequestFields(*value, field(name));
}

void RequestFields::refuse_set(std::initializer_list<const char*> names,
                               std::string_view why) const {
  for (const char* name : names)
    if (find(name)) refuse_feature(field(name), why);
}

std::vector<int64_t> ids_of_request(const Json& list, int64_t bound, const std::string& place) {
  const std::string expected = fmt::format("ids from 0 to {}", bound - 1);
  if (!list.is_array()) refuse_field(place, "a list of " + expected, list);
  std::vector<int64_t> ids;
  ids.reserve(list.size());
  for (const Json& one : list) {
    const auto id = whole_number(one);
    if (!id || *id < 0 || *id >= bound) refuse_field(place, expected, one);
    ids.push_back(*id);
  }
  return ids;
}

}  // namespace lockstep::serve
