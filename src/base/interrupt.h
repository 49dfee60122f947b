// Ctrl-C and SIGTERM as a flag that is read where stopping is safe.
// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace lockstep {

/// Makes the first SIGINT or SIGTERM set a flag and the second end the process at once with status
/// 130.
///
/// What the second one leaves behind under temporary names is removed by the next run
/// (base/file.h).
void install_interrupt_handlers();

/// True once a signal has come. Threads: any.
bool interrupt_requested() noexcept;

/// Throws InterruptedError "interrupted" once a signal has come. Call at the edges of steps and
/// rows.
void throw_if_interrupted();

}  // namespace lockstep
