// Every kind of exception becomes one line and the right exit code.
// SPDX-License-Identifier: Apache-2.0
#include "cli/run_error.h"

#include <filesystem>
#include <new>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <c10/util/Exception.h>

#include "base/check.h"

namespace lockstep::cli {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

TEST(RunError, KindsOfErrorsHaveTheirExitCodes) {
  const auto code = [](const std::exception& error, bool started) {
    return static_cast<int>(describe_error(error, started).exit_code);
  };
  for (const bool started : {false, true}) {
    // 2 says that nothing was written.
    EXPECT_EQ(code(ConfigError("c", "w", "m"), started), started ? 1 : 2);
    EXPECT_EQ(code(FormatError("c", "w", "m"), started), started ? 1 : 2);
    EXPECT_EQ(code(PeerError("c", "w", "m"), started), 3);
    EXPECT_EQ(code(InterruptedError("c", "w", "m"), started), 130);
    EXPECT_EQ(code(InternalError("c", "w", "m"), started), 1);
    EXPECT_EQ(code(ShapeError("c", "w", "m"), started), 1);
    EXPECT_EQ(code(std::bad_alloc(), started), 1);
    EXPECT_EQ(code(std::runtime_error("m"), started), 1);
    EXPECT_EQ(code(IoError("c", "w", "m"), started), started ? 1 : 2);
    EXPECT_EQ(code(std::filesystem::filesystem_error(
                       "m", "path", std::make_error_code(std::errc::no_space_on_device)),
                   started),
              started ? 1 : 2);
  }
}

TEST(RunError, TheLineHasCodePlaceAndMessage) {
  EXPECT_EQ(
      describe_error(ConfigError("bad-flag", "--beta", "expected a number, got 'x'"), false).line,
      "lockstep: error[bad-flag]: --beta: expected a number, got 'x'");
}

TEST(RunError, AMessageOfSeveralLinesIsFolded) {
  EXPECT_EQ(
      describe_error(FormatError("bad-row", "a:1", "expected\n  one\tline\x1b[31m\r\n"), false)
          .line,
      "lockstep: error[bad-row]: a:1: expected   one line [31m");
}

TEST(RunError, LibtorchsErrorsComeWithoutTheirBacktrace) {
  try {
    TORCH_CHECK(false, "sizes do not match");
  } catch (const std::exception& error) {
    const RunError shown = describe_error(error, true);
    EXPECT_EQ(shown.exit_code, ExitCode::kFailed);
    EXPECT_EQ(shown.line, "lockstep: error[internal]: libtorch: sizes do not match");
    EXPECT_THAT(shown.backtrace, Not(::testing::IsEmpty()));
  }
}

TEST(RunError, MemoryIsNamedWhoeverRanOutOfIt) {
  EXPECT_THAT(describe_error(std::bad_alloc(), true).line, HasSubstr("error[out-of-memory]: "));
  try {
    TORCH_CHECK(false,
                "DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes.");
  } catch (const std::exception& error) {
    EXPECT_THAT(describe_error(error, true).line, HasSubstr("error[out-of-memory]: libtorch: "));
  }
}

}  // namespace
}  // namespace lockstep::cli
