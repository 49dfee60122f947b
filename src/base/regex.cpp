// PCRE2's C interface behind owners.
// SPDX-License-Identifier: Apache-2.0
#include "base/regex.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <array>
#include <pcre2.h>

#include "base/check.h"

namespace lockstep {
namespace {

template <auto kFree>
struct Free {
  template <class T>
  void operator()(T* object) const {
    kFree(object);
  }
};
using Code = std::unique_ptr<pcre2_code, Free<pcre2_code_free>>;
using MatchData = std::unique_ptr<pcre2_match_data, Free<pcre2_match_data_free>>;
using MatchContext = std::unique_ptr<pcre2_match_context, Free<pcre2_match_context_free>>;
using JitStack = std::unique_ptr<pcre2_jit_stack, Free<pcre2_jit_stack_free>>;

std::string message_of(int error) {
  std::array<PCRE2_UCHAR, 256> buffer{};
  pcre2_get_error_message(error, buffer.data(), buffer.size());
  return reinterpret_cast<const char*>(buffer.data());
}

}  // namespace

struct RegexScratch::Impl {
  // One pair is enough: only the whole match is asked for.
  MatchData data{pcre2_match_data_create(1, nullptr)};
  MatchContext context{pcre2_match_context_create(nullptr)};
  JitStack stack{pcre2_jit_stack_create(32 * 1024, 8 * 1024 * 1024, nullptr)};
};

RegexScratch::RegexScratch() : impl_(std::make_unique<Impl>()) {
  LOCKSTEP_CHECK(impl_->data && impl_->context, "PCRE2 is out of memory");
  if (impl_->stack) pcre2_jit_stack_assign(impl_->context.get(), nullptr, impl_->stack.get());
}
RegexScratch::~RegexScratch() = default;

struct Regex::Impl {
  Code code;
};

Regex::Regex(std::string_view pattern, std::string_view where, const char* code)
    : impl_(std::make_unique<Impl>()) {
  int error = 0;
  PCRE2_SIZE offset = 0;
  impl_->code.reset(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(),
                                  PCRE2_UTF | PCRE2_UCP, &error, &offset, nullptr));
  if (!impl_->code)
    fail<FormatError>(code, where,
                      "expected a pattern that PCRE2 compiles, got an error at character {} of "
                      "\"{}\": {}",
                      offset, pattern, message_of(error));
  // Without machine code (a processor that PCRE2 does not know) the interpreter does the same,
  // slower.
  pcre2_jit_compile(impl_->code.get(), PCRE2_JIT_COMPLETE);
}
Regex::~Regex() = default;

RegexMatch Regex::find(std::string_view text, size_t from, RegexScratch& scratch) const {
  RegexScratch::Impl& memory = *scratch.impl_;
  const int result =
      pcre2_match(impl_->code.get(), reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), from,
                  PCRE2_NO_UTF_CHECK, memory.data.get(), memory.context.get());
  if (result == PCRE2_ERROR_NOMATCH) return {false, 0, 0};
  if (result < 0)
    fail<FormatError>("bad-text", "tokenizer",
                      "expected a text that the pattern can split, got: {}", message_of(result));
  const PCRE2_SIZE* pair = pcre2_get_ovector_pointer(memory.data.get());
  return {true, pair[0], pair[1]};
}

}  // namespace lockstep
