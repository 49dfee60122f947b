// The commands that train, as parameters of tests.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <ostream>
#include <string>

#include "tests/e2e/program_files.h"

namespace lockstep::testing {

/// A way to train, by the flags that differ.
struct Training {
  const char* name;
  const char* command;
  Arguments flags;
};

/// Flags of grpo for completions that end at common letters, so that lengths and rewards differ.
inline Arguments short_completions() {
  return {"--reward_funcs",
          "soft_overlong",
          "--soft_max_length",
          "12",
          "--soft_cache_length",
          "11",
          "--max_completion_length",
          "12",
          "--num_generations",
          "4",
          "--stop_words",
          "e",
          "a"};
}

inline void PrintTo(const Training& training, std::ostream* out) { *out << training.name; }

/// The flags of a run that learns something in a few steps, on one thread of each process.
inline Arguments short_run(int64_t steps, int64_t save_steps) {
  return {"--learning_rate", "1e-3",
          "--max_steps",     std::to_string(steps),
          "--save_steps",    std::to_string(save_steps),
          "--logging_steps", "1",
          "--report_to",     "none",
          "--threads",       "1"};
}

}  // namespace lockstep::testing
