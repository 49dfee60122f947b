// PCRE2 behind Pattern.
// SPDX-License-Identifier: Apache-2.0
#include "reward/pattern.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "base/check.h"

namespace lockstep::reward {
namespace {

PCRE2_SPTR bytes_of(std::string_view text) { return reinterpret_cast<PCRE2_SPTR>(text.data()); }

struct FreeMatchData {
  void operator()(pcre2_match_data* data) const { pcre2_match_data_free(data); }
};
using MatchData = std::unique_ptr<pcre2_match_data, FreeMatchData>;

}  // namespace

struct Pattern::Impl {
  pcre2_code* code = nullptr;
  ~Impl() { pcre2_code_free(code); }
};

Pattern::Pattern(std::string_view expression, bool dot_all) : impl_(std::make_unique<Impl>()) {
  int error = 0;
  PCRE2_SIZE offset = 0;
  const uint32_t options =
      PCRE2_UTF | PCRE2_UCP | PCRE2_MATCH_INVALID_UTF | (dot_all ? PCRE2_DOTALL : 0);
  impl_->code =
      pcre2_compile(bytes_of(expression), expression.size(), options, &error, &offset, nullptr);
  LOCKSTEP_CHECK(impl_->code != nullptr, "PCRE2 error {} at {} of {}", error, offset, expression);
}

Pattern::~Pattern() = default;
Pattern::Pattern(Pattern&&) noexcept = default;

std::vector<PatternMatch> Pattern::find_all(std::string_view text) const {
  std::vector<PatternMatch> matches;
  const MatchData data(pcre2_match_data_create_from_pattern(impl_->code, nullptr));
  for (size_t at = 0; at <= text.size();) {
    const int count =
        pcre2_match(impl_->code, bytes_of(text), text.size(), at, 0, data.get(), nullptr);
    if (count < 0) break;
    const PCRE2_SIZE* bounds = pcre2_get_ovector_pointer(data.get());
    PatternMatch match{bounds[0], bounds[1], {}};
    for (uint32_t i = 0; i < pcre2_get_ovector_count(data.get()); ++i) {
      const bool took_part = bounds[2 * i] != PCRE2_UNSET;
      match.groups.push_back(took_part
                                 ? text.substr(bounds[2 * i], bounds[2 * i + 1] - bounds[2 * i])
                                 : std::string_view());
    }
    at = match.end > match.begin ? match.end : match.end + 1;
    matches.push_back(std::move(match));
  }
  return matches;
}

std::string Pattern::replace_all(std::string_view text, std::string_view replacement) const {
  std::string out(text.size() * 2 + 64, '\0');
  for (;;) {
    PCRE2_SIZE size = out.size();
    const uint32_t options = PCRE2_SUBSTITUTE_GLOBAL | PCRE2_SUBSTITUTE_EXTENDED |
                             PCRE2_SUBSTITUTE_UNSET_EMPTY | PCRE2_SUBSTITUTE_OVERFLOW_LENGTH;
    const int count = pcre2_substitute(impl_->code, bytes_of(text), text.size(), 0, options,
                                       nullptr, nullptr, bytes_of(replacement), replacement.size(),
                                       reinterpret_cast<PCRE2_UCHAR*>(out.data()), &size);
    if (count == PCRE2_ERROR_NOMEMORY && size > out.size()) {
      out.resize(size);
      continue;
    }
    if (count < 0) return std::string(text);  // too many steps: as it was
    out.resize(size);
    return out;
  }
}

size_t Pattern::group_index(const std::string& name) const {
  const int number =
      pcre2_substring_number_from_name(impl_->code, reinterpret_cast<PCRE2_SPTR>(name.c_str()));
  return number < 0 ? 0 : static_cast<size_t>(number);
}

}  // namespace lockstep::reward
