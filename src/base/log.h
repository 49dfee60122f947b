// Logging to stderr. stdout carries results and is never written here.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string_view>
#include <utility>

#include <fmt/format.h>

namespace lockstep {

enum class LogLevel : int { kDebug = 0, kInfo, kWarning, kError };

/// Sets the least level that is printed. Threads: any.
void set_log_level(LogLevel level);
LogLevel log_level();
/// Says that another process logs the same (parallel ranks): of this one only errors are printed,
/// and log_own_warning(). Threads: any.
void set_log_repeats(bool repeats);
/// Functions that are called before and after each line that is printed, to take a progress bar
/// away and to draw it again.
struct LogHook {
  void (*before)(void* data) = nullptr;
  void (*after)(void* data) = nullptr;
  void* data = nullptr;
};
/// Threads: call while only one thread logs.
void set_log_hook(const LogHook& hook);
void log_line(LogLevel level, std::string_view text);

template <class... Args>
void log_debug(fmt::format_string<Args...> format, Args&&... args) {
  if (log_level() <= LogLevel::kDebug)
    log_line(LogLevel::kDebug, fmt::format(format, std::forward<Args>(args)...));
}
template <class... Args>
void log_info(fmt::format_string<Args...> format, Args&&... args) {
  log_line(LogLevel::kInfo, fmt::format(format, std::forward<Args>(args)...));
}
template <class... Args>
void log_warning(fmt::format_string<Args...> format, Args&&... args) {
  log_line(LogLevel::kWarning, fmt::format(format, std::forward<Args>(args)...));
}

/// A warning of what no other rank has seen.
void log_own_warning(std::string_view text);

}  // namespace lockstep
