// How the C library's heap treats large blocks.
// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace lockstep {

/// From now on freed blocks of any size stay with the process for the next one that asks, in place
/// of going back to the system: an op's results are as large as the last layer's, and fresh pages,
/// which the kernel clears, cost up to a fifth of a training step. Called once, at the start of a
/// program. Without glibc neither of the two does anything.
void keep_freed_memory();
/// Hands back what is free now, holes between blocks too: where blocks so large were freed that no
/// later one may fit.
void release_freed_memory();

}  // namespace lockstep
