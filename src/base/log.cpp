// SPDX-License-Identifier: Apache-2.0
#include "base/log.h"

#include <atomic>
#include <utility>

#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

#include "base/log_scope.h"

namespace lockstep {
namespace {

std::atomic<LogLevel> least_level{LogLevel::kInfo};
std::atomic<bool> repeats_others{false};
LogHook log_hook;
std::string scope;

spdlog::logger& logger() {
  static const auto instance = [] {
    auto made = std::make_shared<spdlog::logger>("lockstep",
                                                 std::make_shared<spdlog::sinks::stderr_sink_mt>());
    made->set_pattern("%v");
    made->set_level(spdlog::level::trace);
    made->flush_on(spdlog::level::trace);
    return made;
  }();
  return *instance;
}

}  // namespace

void set_log_level(LogLevel level) { least_level = level; }
LogLevel log_level() { return least_level; }

void set_log_repeats(bool repeats) { repeats_others = repeats; }

void set_log_hook(const LogHook& hook) { log_hook = hook; }

LogScope::LogScope(std::string_view name) : outer_(scope) {
  if (!name.empty()) scope += fmt::format("[{}] ", name);
}
LogScope::~LogScope() { scope = std::move(outer_); }

std::string_view log_scope() { return scope; }

namespace {

void print_line(LogLevel level, std::string_view text) {
  if (level < least_level) return;
  const LogHook hook = log_hook;
  if (hook.before) hook.before(hook.data);
  const char* prefix = level == LogLevel::kWarning ? "warning: "
                       : level == LogLevel::kError ? "error: "
                                                   : "";
  logger().log(spdlog::level::info, "{}{}{}", scope, prefix, text);
  if (hook.after) hook.after(hook.data);
}

}  // namespace

void log_line(LogLevel level, std::string_view text) {
  if (!repeats_others || level >= LogLevel::kError) print_line(level, text);
}

void log_own_warning(std::string_view text) { print_line(LogLevel::kWarning, text); }

}  // namespace lockstep
