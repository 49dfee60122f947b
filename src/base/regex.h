// A PCRE2 pattern over UTF-8, compiled to machine code if PCRE2 can do that.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <memory>
#include <string_view>

namespace lockstep {

struct RegexMatch {
  bool found;
  /// In bytes.
  size_t begin, end;
};

/// Working memory of one match at a time; each thread needs its own.
class RegexScratch {
 public:
  RegexScratch();
  ~RegexScratch();
  RegexScratch(const RegexScratch&) = delete;
  RegexScratch& operator=(const RegexScratch&) = delete;

 private:
  friend class Regex;
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// Classes follow Unicode (UCP) in the system's version of it. Threads: safe, given one
/// RegexScratch a thread.
class Regex {
 public:
  /// Throws FormatError `code` at `where` with PCRE2's words.
  Regex(std::string_view pattern, std::string_view where, const char* code = "bad-tokenizer");
  ~Regex();
  Regex(const Regex&) = delete;
  Regex& operator=(const Regex&) = delete;
  /// The first match at or behind byte `from` of a valid text. Throws FormatError "bad-text" when
  /// it needs too much memory or too many steps.
  RegexMatch find(std::string_view text, size_t from, RegexScratch& scratch) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace lockstep
