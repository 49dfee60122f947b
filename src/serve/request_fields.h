// Reads a request's JSON by the types of its fields.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <initializer_list>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "base/options.h"  // Range

namespace lockstep::serve {

/// The object that a body holds. Throws RequestError 400 "bad-json" for anything else.
Json parse_body(std::string_view body);

/// A value for a message: as JSON, or what it is if that would be long.
std::string shown(const Json& value);

/// Throws RequestError 400 "bad-request" about `field`: "expected …, got …".
[[noreturn]] void refuse_field(const std::string& field,
                               std::string_view expected,
                               const Json& got);
/// The same for a field whose value is right and whose effect is not there: "expected none: …".
[[noreturn]] void refuse_feature(const std::string& field, std::string_view why);

/// The members of an object by name. Null is as good as absent. A member of another type or range
/// is a RequestError 400 "bad-request" whose place is the field's name. The object must outlive it.
class RequestFields {
 public:
  /// `place` is the object's own name ("stream_options"); empty for a whole request. Throws if it
  /// is no object.
  explicit RequestFields(const Json& object, std::string place = "");

  /// Null if it is absent.
  const Json* find(const char* name) const;
  /// "place.name".
  std::string field(const char* name) const;

  std::optional<bool> boolean(const char* name) const;
  /// A whole number of [low, high].
  std::optional<int64_t> integer(const char* name,
                                 int64_t low,
                                 int64_t high = std::numeric_limits<int64_t>::max()) const;
  std::optional<uint64_t> unsigned_integer(const char* name) const;
  std::optional<double> number(const char* name, const Range& range) const;
  std::optional<std::string> text(const char* name) const;
  /// A list of whole numbers of [0, bound).
  std::optional<std::vector<int64_t>> ids(const char* name, int64_t bound) const;
  /// An object's own fields.
  std::optional<RequestFields> object(const char* name) const;

  /// Refuses each of these that is set: `why` says what takes their place.
  void refuse_set(std::initializer_list<const char*> names, std::string_view why) const;

 private:
  const Json* object_;
  std::string place_;
};

/// A list of whole numbers of [0, bound) as ids; throws as RequestFields does, at `place`.
std::vector<int64_t> ids_of_request(const Json& list, int64_t bound, const std::string& place);

}  // namespace lockstep::serve
