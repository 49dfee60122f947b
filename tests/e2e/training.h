// The commands that train, as parameters of tests.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ostream>

#include "tests/e2e/program_files.h"

namespace lockstep::testing {

/// A way to train, by the flags that differ.
struct Training {
  const char* name;
  const char* command;
  Arguments flags;
};

inline void PrintTo(const Training& training, std::ostream* out) { *out << training.name; }

}  // namespace lockstep::testing
