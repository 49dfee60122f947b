// SPDX-License-Identifier: Apache-2.0
#include "base/heap.h"

#include <cstdlib>  // defines __GLIBC__

#ifdef __GLIBC__
#include <malloc.h>
#endif

namespace lockstep {

#ifdef __GLIBC__
void keep_freed_memory() {
  mallopt(M_MMAP_MAX, 0);
  // Never gives the end of the heap back.
  mallopt(M_TRIM_THRESHOLD, -1);
  mallopt(M_TOP_PAD, 16 << 20);
}
void release_freed_memory() { malloc_trim(0); }
#else
void keep_freed_memory() {}
void release_freed_memory() {}
#endif

}  // namespace lockstep
