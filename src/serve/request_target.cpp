// SPDX-License-Identifier: Apache-2.0
#include "serve/request_target.h"

#include <algorithm>

#include "text/unicode.h"  // valid_prefix

namespace lockstep::serve {
namespace {

/// The value of a hexadecimal digit; -1 for another character.
int digit_value(char character) {
  if (character >= '0' && character <= '9') return character - '0';
  const char lower = static_cast<char>(character | 0x20);
  return lower >= 'a' && lower <= 'f' ? lower - 'a' + 10 : -1;
}

std::optional<std::string> decoded(std::string_view text, bool plus_is_space) {
  std::string result;
  result.reserve(text.size());
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '%') {
      const int high = i + 2 < text.size() ? digit_value(text[i + 1]) : -1;
      const int low = i + 2 < text.size() ? digit_value(text[i + 2]) : -1;
      if (high < 0 || low < 0) return {};
      result += static_cast<char>(high * 16 + low);
      i += 2;
    } else {
      result += text[i] == '+' && plus_is_space ? ' ' : text[i];
    }
  }
  const bool is_text =
      result.find('\0') == std::string::npos && text::valid_prefix(result) == result.size();
  return is_text ? std::optional(std::move(result)) : std::nullopt;
}

}  // namespace

std::optional<RequestTarget> parse_target(std::string_view target) {
  for (const std::string_view scheme : {"http://", "https://"})
    if (target.starts_with(scheme)) {
      target.remove_prefix(std::min(target.size(), target.find('/', scheme.size())));
      if (target.empty()) target = "/";
      break;
    }
  if (!target.starts_with('/')) return {};
  const std::string_view whole = target.substr(0, target.find('#'));
  const size_t mark = whole.find('?');
  RequestTarget result;
  auto path = decoded(whole.substr(0, mark), /*plus_is_space=*/false);
  if (!path) return {};
  result.path = std::move(*path);
  std::string_view rest = mark == std::string_view::npos ? "" : whole.substr(mark + 1);
  while (!rest.empty()) {
    const std::string_view pair = rest.substr(0, rest.find('&'));
    rest.remove_prefix(std::min(rest.size(), pair.size() + 1));
    if (pair.empty()) continue;
    const size_t equals = std::min(pair.find('='), pair.size());
    auto name = decoded(pair.substr(0, equals), true);
    auto value = decoded(pair.substr(std::min(equals + 1, pair.size())), true);
    if (!name || !value) return {};
    result.query[std::move(*name)] = std::move(*value);
  }
  return result;
}

}  // namespace lockstep::serve
