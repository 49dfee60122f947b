// The target of a request, taken apart: what stands between the method and "HTTP/1.1".
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <map>
#include <optional>
#include <string>
#include <string_view>

namespace lockstep::serve {

struct RequestTarget {
  /// Decoded, with its leading slash.
  std::string path;
  /// Decoded; of several parameters with one name the last.
  std::map<std::string, std::string> query;
};

/// Takes "/path?name=value" apart, or "http://host/path…" as proxies write it; "+" is a space in
/// the query. Unset if it is neither, if a "%" is not followed by two hexadecimal digits, and if
/// what was decoded is not UTF-8 or holds a zero byte.
std::optional<RequestTarget> parse_target(std::string_view target);

}  // namespace lockstep::serve
