// The one place that knows every kind of exception.
// SPDX-License-Identifier: Apache-2.0
#include "cli/run_error.h"

#include <filesystem>
#include <new>

#include <fmt/format.h>

#include <c10/util/Exception.h>

#include "base/check.h"
#include "base/interrupt.h"

namespace lockstep::cli {
namespace {

/// Makes one line of a text: newlines become spaces, and other control characters are not sent to a
/// terminal.
std::string folded(std::string_view text) {
  std::string result;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte >= 0x20 && byte != 0x7f)
      result += c;
    else if (!result.ends_with(' '))
      result += ' ';
  }
  while (result.ends_with(' ')) result.pop_back();
  return result;
}

RunError make(ExitCode exit_code, std::string_view code, std::string_view text) {
  return {.exit_code = exit_code,
          .code = std::string(code),
          .message = folded(text),
          .line = error_line(code, text),
          .backtrace = {}};
}

ExitCode exit_code_of(const Error& error, bool work_started) {
  // Exit code 2 promises that nothing was written.
  if (dynamic_cast<const ConfigError*>(&error) || dynamic_cast<const FormatError*>(&error) ||
      dynamic_cast<const IoError*>(&error))
    return work_started ? ExitCode::kFailed : ExitCode::kBadInput;
  if (dynamic_cast<const PeerError*>(&error)) return ExitCode::kPeer;
  if (dynamic_cast<const InterruptedError*>(&error))
    return interrupt_signal() ? static_cast<ExitCode>(128 + interrupt_signal())
                              : ExitCode::kInterrupted;
  return ExitCode::kFailed;
}

RunError describe_torch(const c10::Error& error) {
  const std::string text = error.what_without_backtrace();
  const bool is_memory = dynamic_cast<const c10::OutOfMemoryError*>(&error) ||
                         text.find("can't allocate memory") != std::string::npos;
  RunError result =
      make(ExitCode::kFailed, is_memory ? "out-of-memory" : "internal", "libtorch: " + text);
  if (error.backtrace()) result.backtrace = error.backtrace()->get();
  return result;
}

}  // namespace

std::string error_line(std::string_view code, std::string_view text) {
  return fmt::format("lockstep: error[{}]: {}", code, folded(text));
}

RunError describe_error(const std::exception& error, bool work_started) {
  if (const auto* ours = dynamic_cast<const Error*>(&error))
    return make(exit_code_of(*ours, work_started), ours->code(), ours->what());
  if (const auto* torch = dynamic_cast<const c10::Error*>(&error)) return describe_torch(*torch);
  if (dynamic_cast<const std::bad_alloc*>(&error))
    return make(
        ExitCode::kFailed, "out-of-memory",
        "memory: expected an allocation, got none (use smaller batches or a smaller model)");
  if (const auto* files = dynamic_cast<const std::filesystem::filesystem_error*>(&error))
    return make(work_started ? ExitCode::kFailed : ExitCode::kBadInput, "file-error",
                fmt::format("{}: expected access, got: {}", files->path1().string(),
                            files->code().message()));
  return make(ExitCode::kFailed, "internal", error.what());
}

}  // namespace lockstep::cli
