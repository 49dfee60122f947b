// The path stands here alone: it is the one file that differs between checkouts.
// SPDX-License-Identifier: Apache-2.0
#include "tests/support/source_dir.h"

namespace lockstep::testing {

std::filesystem::path source_dir() { return LOCKSTEP_SOURCE_DIR; }

std::string built_program() { return LOCKSTEP_PROGRAM; }

}  // namespace lockstep::testing
