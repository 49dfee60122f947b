// Says in front of log lines what they are about.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <string_view>

namespace lockstep {

/// While one exists, log lines begin with "[NAME] ", those of several one behind another, the
/// outermost first; with an empty name they stay as they are. Threads: make and end one while only
/// one thread logs.
class LogScope {
 public:
  explicit LogScope(std::string_view name);
  ~LogScope();
  LogScope(const LogScope&) = delete;
  LogScope& operator=(const LogScope&) = delete;

 private:
  std::string outer_;
};

/// What log lines begin with at the moment; may be empty.
std::string_view log_scope();

}  // namespace lockstep
