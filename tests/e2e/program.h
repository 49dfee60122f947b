// Runs the built program as a user would: arguments in, exit code, stdout and stderr out.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdlib>
#include <string>
#include <sys/wait.h>
#include <vector>

#include "tests/support/temp_dir.h"

namespace lockstep::testing {

struct ProgramResult {
  int exit_code = -1;  ///< 128 + signal for a program that a signal ended.
  std::string out, err;
};

/// `text` as one word of a shell.
inline std::string shell_word(const std::string& text) {
  std::string word = "'";
  for (const char c : text) word += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return word + "'";
}

/// Runs LOCKSTEP_PROGRAM with these arguments and waits for its end. Tiny models gain nothing from a
/// second thread, and tests that share a machine lose by it: the callers of this ask for one.
inline ProgramResult run_program(const std::vector<std::string>& arguments) {
  const TempDir folder;
  std::string line = shell_word(LOCKSTEP_PROGRAM);
  for (const auto& argument : arguments) line.append(" ").append(shell_word(argument));
  const auto out = folder / "out", err = folder / "err";
  line.append(" </dev/null >").append(shell_word(out)).append(" 2>").append(shell_word(err));
  const int status = std::system(line.c_str());
  ProgramResult result;
  result.exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  result.out = slurp(out);
  result.err = slurp(err);
  return result;
}

}  // namespace lockstep::testing
