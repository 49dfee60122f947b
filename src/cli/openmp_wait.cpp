// How OpenMP's threads wait at the end of a region: they spin for microseconds, then sleep.
// SPDX-License-Identifier: Apache-2.0
//
// Our own loops have threads of their own (tensor/parallel.h); these are libtorch's and oneDNN's.
// By default libgomp's threads spin for milliseconds. While another program runs, that loses nearly
// everything: the thread that spins keeps a processor from the one for which it waits. libgomp
// reads GOMP_SPINCOUNT when it is loaded, before main() and before any constructor of ours, so the
// program starts itself once more with the variable set. This happens before the constructors of
// libtorch, which are most of its start. A GOMP_SPINCOUNT or OMP_WAIT_POLICY that the user set
// stays as it is.
#include <cstddef>
#include <unistd.h>

namespace {

// Measured alone and beside a busy process (docs/performance.md): 0 to 1,000 are soon enough.
char spin_count[] = "GOMP_SPINCOUNT=200";

constexpr size_t kMostVariables = 4096;

bool is_set(char** environment, const char* name) {
  for (; *environment; ++environment) {
    size_t i = 0;
    while (name[i] && (*environment)[i] == name[i]) ++i;
    if (!name[i] && (*environment)[i] == '=') return true;
  }
  return false;
}

/// Runs before the C library is ready: calls nothing but execve and readlink, allocates nothing.
/// Returns where there is nothing to do or the program cannot be started again.
void start_with_spin_count(int, char** arguments, char** environment) {
  if (is_set(environment, "GOMP_SPINCOUNT") || is_set(environment, "OMP_WAIT_POLICY")) return;
  static char* variables[kMostVariables];
  size_t count = 0;
  for (; environment[count]; ++count) {
    if (count + 2 >= kMostVariables) return;
    variables[count] = environment[count];
  }
  variables[count] = spin_count;
  static char path[4096];
  const ssize_t length = readlink("/proc/self/exe", path, sizeof(path) - 1);
  if (length > 0) execve(path, arguments, variables);
}

__attribute__((used, section(".preinit_array"))) void (*const start)(int, char**, char**) =
    start_with_spin_count;

}  // namespace
