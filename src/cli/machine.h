// What this machine and this build offer: libtorch, devices, processors, memory.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace lockstep::cli {

/// The version of libtorch: "2.11.0".
std::string libtorch_version();
/// The path of the libtorch_cpu that was loaded.
std::string libtorch_path();
/// The device back ends that are built in: "cpu".
std::string device_backends();

/// Facts from /proc/cpuinfo and /proc/meminfo.
struct Processor {
  /// The model's name: "AMD EPYC …".
  std::string model;
  /// How many processors the machine has.
  int64_t num_logical = 0;
  /// How many of them this process may use.
  int64_t num_usable = 0;
  /// Those instruction sets that matter for kernels: avx2, avx512f, amx_bf16, …
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
