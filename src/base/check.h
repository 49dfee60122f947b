// The project's errors: one hierarchy, each with a stable code and the place it is about.
// What they look like to a user, and the exit codes, are in cli/main.cpp.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>

#include <fmt/format.h>

namespace lockstep {

/// Root of every error that the project throws. what() is "WHERE: message".
///
/// The message says what was expected and what was found: "expected …, got … (hint)".
class Error : public std::runtime_error {
 public:
  /// `code` is stable kebab-case ("bad-config"); `where` is a flag, a file with byte or line, a
  /// tensor or a peer.
  Error(std::string code, std::string where, const std::string& message)
      : std::runtime_error(where.empty() ? message : where + ": " + message),
        code_(std::move(code)),
        where_(std::move(where)) {}
  const std::string& code() const noexcept { return code_; }
  const std::string& where() const noexcept { return where_; }

 private:
  std::string code_;
  std::string where_;
};

/// A broken invariant of our own. Exit code 1.
struct InternalError : Error {
  using Error::Error;
};
/// A tensor of the caller has the wrong shape or dtype. Exit code 1.
struct ShapeError : Error {
  using Error::Error;
};
/// A flag or an option is wrong. Exit code 2.
struct ConfigError : Error {
  using Error::Error;
};
/// A file or message is malformed or does not fit the model. Exit code 2.
struct FormatError : Error {
  using Error::Error;
};
/// The operating system refused. Exit code 2 before the first step of work, 1 after.
struct IoError : Error {
  using Error::Error;
};
/// A peer failed or a deadline passed. Exit code 3.
struct PeerError : Error {
  using Error::Error;
};
/// A client asked for what cannot be given. The server answers with its HTTP status.
class RequestError : public Error {
 public:
  /// `where` is the field of the request that is wrong, such as "max_tokens"; it may be empty.
  RequestError(int status, std::string code, std::string where, const std::string& message)
      : Error(std::move(code), std::move(where), message), status_(status) {}
  int status() const noexcept { return status_; }

 private:
  int status_;
};
/// Ctrl-C, SIGTERM or SIGHUP, after the step's file writes. Exit code 130, 143 or 129.
struct InterruptedError : Error {
  using Error::Error;
};

/// Throws E(code, where, formatted message). Example: fail<FormatError>("bad-row", at, "expected
/// {}, got {}", a, b).
template <class E, class... Args>
[[noreturn]] void fail(std::string_view code,
                       std::string_view where,
                       fmt::format_string<Args...> format,
                       Args&&... args) {
  throw E(std::string(code), std::string(where), fmt::format(format, std::forward<Args>(args)...));
}

namespace detail {
template <class... Args>
[[noreturn]] void check_failed(const char* condition,
                               const char* file,
                               int line,
                               fmt::format_string<Args...> format,
                               Args&&... args) {
  throw InternalError(
      "internal", fmt::format("{}:{}", file, line),
      fmt::format("expected {}: {}", condition, fmt::format(format, std::forward<Args>(args)...)));
}
}  // namespace detail
}  // namespace lockstep

/// Throws InternalError unless `condition` holds: LOCKSTEP_CHECK(n > 0, "n is {}", n).
#define LOCKSTEP_CHECK(condition, ...)                                                    \
  do {                                                                                    \
    if (!(condition)) [[unlikely]]                                                        \
      ::lockstep::detail::check_failed(#condition, __FILE_NAME__, __LINE__, __VA_ARGS__); \
  } while (false)
