// The errors of the Jinja interpreter, and the limits that stop a hostile template.
// SPDX-License-Identifier: Apache-2.0
//
// JinjaError never leaves the interpreter: chat_template.cpp turns it into a FormatError with the
// template's place.
#pragma once

#include <cstdint>
#include <string>
#include <utility>

#include <fmt/format.h>

namespace lockstep::text::jinja {

/// A template that is wrong or too large, or a row that it refuses.
struct JinjaError {
  /// "bad-template" or "bad-row".
  std::string code;
  /// "expected …, got …", without the place.
  std::string message;
  /// The line of the template, counted from 1; 0 if the thrower does not know it.
  int line = 0;
};

/// Throws for a template that this interpreter does not know how to run.
template <class... Args>
[[noreturn]] void fail_template(fmt::format_string<Args...> format, Args&&... args) {
  throw JinjaError{"bad-template", fmt::format(format, std::forward<Args>(args)...)};
}

/// Throws for values that the template cannot handle: what Python would raise while rendering.
template <class... Args>
[[noreturn]] void fail_row(fmt::format_string<Args...> format, Args&&... args) {
  throw JinjaError{"bad-row", fmt::format(format, std::forward<Args>(args)...)};
}

/// What one rendering may use. Threads: one budget belongs to one rendering.
class Budget {
 public:
  /// Levels of nesting of values and of expressions and statements under way.
  static constexpr int kMaxDepth = 1000;
  /// Elements of one range(), as in Jinja's sandbox.
  static constexpr int64_t kMaxRange = 100'000;

  /// Counts `count` evaluated nodes, loop passes or visited elements.
  void step(int64_t count = 1) {
    if ((steps_left_ -= count) < 0)
      fail_template("expected at most {} steps for one conversation, got more", kMaxSteps);
  }
  /// Counts `count` bytes of text or of lists that are about to be made.
  void bytes(uint64_t count) {
    if (count > kMaxOneValue)
      fail_template("expected values of at most {} bytes, got {}", kMaxOneValue, count);
    if ((bytes_left_ -= static_cast<int64_t>(count)) < 0)
      fail_template("expected at most {} bytes of values, got more", kMaxBytes);
  }

 private:
  static constexpr int64_t kMaxSteps = 20'000'000;
  static constexpr int64_t kMaxBytes = int64_t{1} << 30;
  static constexpr uint64_t kMaxOneValue = uint64_t{1} << 28;
  int64_t steps_left_ = kMaxSteps;
  int64_t bytes_left_ = kMaxBytes;
};

}  // namespace lockstep::text::jinja
