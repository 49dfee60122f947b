// What this machine and this build offer: libtorch, devices, processors, memory.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace lockstep::cli {

/// "2.11.0"
std::string libtorch_version();
/// Where libtorch was loaded from: the path of libtorch_cpu.
std::string libtorch_path();
/// The device back ends that are built: "cpu".
std::string device_backends();

/// One line a fact of /proc/cpuinfo and /proc/meminfo.
struct Processor {
  /// "AMD EPYC …"
  std::string model;
  /// Processors of the machine.
  int64_t num_logical = 0;
  /// Of these, what this process may use.
  int64_t num_usable = 0;
  /// Those that kernels care about: avx2, avx512f, amx_bf16, …
  std::vector<std::string> features;
};
Processor processor();

struct Memory {
  int64_t total_bytes = 0;
  int64_t available_bytes = 0;
};
Memory memory();

/// The instruction set that Highway's kernels will use: "AVX3_ZEN4".
std::string highway_target();

}  // namespace lockstep::cli
