// How the C library's heap treats large blocks.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>

namespace lockstep {

/// Makes the heap keep freed blocks of any size for later use, instead of giving them back to the
/// system. An op's results are as large as those of the last layer, and fresh pages, which the
/// kernel clears, cost up to a fifth of a training step. Called once, at the start of a program.
/// Without glibc neither function does anything.
void keep_freed_memory();
/// Gives all free memory back to the system now, holes between blocks too. Called after blocks were
/// freed that are larger than any that will be asked for.
void release_freed_memory();
/// Gives the memory of whole pages within a block back to the system, while the block keeps its
/// address. What it holds is undefined then; writing takes memory again. On systems other than
/// Linux it does nothing.
void drop_pages(void* begin, std::size_t bytes);

}  // namespace lockstep
