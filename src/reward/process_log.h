// What programs of the user's write to stderr, in our log.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "base/line_process.h"

namespace lockstep::reward {

/// Logs what the program has written to stderr since the last call, each line behind the program's
/// name; of many lines the last ones.
void log_stderr(LineProcess& process);

}  // namespace lockstep::reward
