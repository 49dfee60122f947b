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

struct FreeMatchContext {
  void operator()(pcre2_match_context* context) const { pcre2_match_context_free(context); }
};
using MatchContext = std::unique_ptr<pcre2_match_context, FreeMatchContext>;

/// PCRE2 calls it at each item of a pattern that it tries, which takes some forty nanoseconds.
int count_step(pcre2_callout_block*, void* left) {
  constexpr int64_t kCost = 4;
  return (*static_cast<int64_t*>(left) -= kCost) < 0 ? PCRE2_ERROR_CALLOUT : 0;
}

}  // namespace

struct Pattern::Impl {
  pcre2_code* code = nullptr;
  ~Impl() { pcre2_code_free(code); }

  std::vector<PatternMatch> find_all(std::string_view text, pcre2_match_context* context) const {
    std::vector<PatternMatch> matches;
    const MatchData data(pcre2_match_data_create_from_pattern(code, nullptr));
    for (size_t at = 0; at <= text.size();) {
      const int count = pcre2_match(code, bytes_of(text), text.size(), at, PCRE2_NO_UTF_CHECK,
                                    data.get(), context);
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
};

Pattern::Pattern(std::string_view expression, const PatternOptions& options)
    : impl_(std::make_unique<Impl>()) {
  int error = 0;
  PCRE2_SIZE offset = 0;
  const uint32_t flags = PCRE2_UTF | PCRE2_UCP | (options.dot_all ? PCRE2_DOTALL : 0) |
                         (options.counts_steps ? PCRE2_AUTO_CALLOUT : 0);
  impl_->code =
      pcre2_compile(bytes_of(expression), expression.size(), flags, &error, &offset, nullptr);
  LOCKSTEP_CHECK(impl_->code != nullptr, "PCRE2 error {} at {} of {}", error, offset, expression);
}

Pattern::~Pattern() = default;
Pattern::Pattern(Pattern&&) noexcept = default;

std::vector<PatternMatch> Pattern::find_all(std::string_view text) const {
  return impl_->find_all(text, nullptr);
}

std::vector<PatternMatch> Pattern::find_all(std::string_view text, WorkBudget& work) const {
  int64_t left = work.left();
  const MatchContext context(pcre2_match_context_create(nullptr));
  pcre2_set_callout(context.get(), count_step, &left);
  std::vector<PatternMatch> matches = impl_->find_all(text, context.get());
  work.spend(work.left() - left);
  return matches;
}

std::string Pattern::replace_all(std::string_view text, std::string_view replacement) const {
  std::string out(text.size() * 2 + 64, '\0');
  for (;;) {
    PCRE2_SIZE size = out.size();
    const uint32_t options = PCRE2_NO_UTF_CHECK | PCRE2_SUBSTITUTE_GLOBAL |
                             PCRE2_SUBSTITUTE_EXTENDED | PCRE2_SUBSTITUTE_UNSET_EMPTY |
                             PCRE2_SUBSTITUTE_OVERFLOW_LENGTH;
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
