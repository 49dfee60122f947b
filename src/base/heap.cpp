// SPDX-License-Identifier: Apache-2.0
#include "base/heap.h"

#include <cstdlib>  // defines __GLIBC__

#ifdef __GLIBC__
#include <malloc.h>
#endif
#ifdef __linux__
#include <cstdint>
#include <sys/mman.h>
#include <unistd.h>
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

#ifdef __linux__
void drop_pages(void* begin, std::size_t bytes) {
  static const auto page = static_cast<std::uintptr_t>(::sysconf(_SC_PAGESIZE));
  const auto first = (reinterpret_cast<std::uintptr_t>(begin) + page - 1) / page * page,
             last = (reinterpret_cast<std::uintptr_t>(begin) + bytes) / page * page;
  if (first < last) ::madvise(reinterpret_cast<void*>(first), last - first, MADV_DONTNEED);
}
#else
void drop_pages(void*, std::size_t) {}
#endif

}  // namespace lockstep
