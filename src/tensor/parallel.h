// Loops whose turns are shared out among threads. A decode step has a hundred short ones, so how
// threads wait between them decides its speed, alone and beside other programs.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

namespace lockstep {

namespace internal {
void run_parallel(int64_t begin,
                  int64_t end,
                  int64_t grain,
                  const void* body,
                  void (*call)(const void* body, int64_t begin, int64_t end));
}  // namespace internal

/// As at::parallel_for, on threads of our own: calls body(first, last) for ranges that together are
/// [begin, end), in the same cut as there: at most at::get_num_threads() of them, and no more than
/// pieces of `grain` turns would be. Inside of such a loop, or of one of libtorch's, all turns run
/// on the thread that calls; so they do while another thread's loop is running. Ops of libtorch
/// that `body` calls run on one thread. The first exception that a range throws is thrown again
/// when all have ended.
template <class Body>
void parallel_for(int64_t begin, int64_t end, int64_t grain, const Body& body) {
  internal::run_parallel(begin, end, grain, &body,
                         [](const void* self, int64_t first, int64_t last) {
                           (*static_cast<const Body*>(self))(first, last);
                         });
}

}  // namespace lockstep
