// Facts from /proc, the dynamic loader, Highway and libtorch's own version header.
// SPDX-License-Identifier: Apache-2.0
#include "cli/machine.h"

#include <algorithm>
#include <array>
#include <dlfcn.h>
#include <fstream>
#include <sched.h>
#include <sstream>
#include <string_view>
#include <thread>

#include <fmt/format.h>

#include <ATen/Parallel.h>
#include <torch/headeronly/version.h>

#include "ops/cpu/targets.h"

namespace lockstep::cli {
namespace {

/// The text behind "key :" in a /proc file; "" if there is none.
std::string proc_value(const char* path, std::string_view key) {
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    if (!line.starts_with(key)) continue;
    const size_t colon = line.find(':');
    if (colon == std::string::npos) continue;
    const size_t first = line.find_first_not_of(" \t", colon + 1);
    return first == std::string::npos ? "" : line.substr(first);
  }
  return "";
}

int64_t memory_bytes(std::string_view key) {
  int64_t kibibytes = 0;
  std::istringstream(proc_value("/proc/meminfo", key)) >> kibibytes;
  return kibibytes * 1024;
}

}  // namespace

std::string libtorch_version() { return TORCH_VERSION; }

std::string libtorch_path() {
  Dl_info info{};
  // The address of any function of libtorch_cpu says where the library lies.
  const auto address = reinterpret_cast<const void*>(&at::get_num_threads);
  return dladdr(address, &info) && info.dli_fname ? info.dli_fname : "unknown";
}

std::string device_backends() { return "cpu"; }

Processor processor() {
  constexpr std::array<std::string_view, 12> kFeatures = {
      "sse4_2",   "avx",         "avx2",        "fma",      "f16c",     "avx512f",
      "avx512bw", "avx512_vnni", "avx512_bf16", "amx_tile", "amx_bf16", "asimd"};
  Processor result;
  result.model = proc_value("/proc/cpuinfo", "model name");
  result.num_logical = std::thread::hardware_concurrency();
  cpu_set_t set;
  result.num_usable = sched_getaffinity(0, sizeof(set), &set) == 0 ? CPU_COUNT(&set) : 1;
  std::string flags = proc_value("/proc/cpuinfo", "flags");
  // Arm calls them so.
  if (flags.empty()) flags = proc_value("/proc/cpuinfo", "Features");
  std::istringstream words(flags);
  for (std::string word; words >> word;)
    if (std::find(kFeatures.begin(), kFeatures.end(), word) != kFeatures.end())
      result.features.push_back(word);
  return result;
}

Memory memory() {
  return {.total_bytes = memory_bytes("MemTotal"), .available_bytes = memory_bytes("MemAvailable")};
}

std::string highway_target() { return ops::cpu::usable_targets().front().name; }

}  // namespace lockstep::cli
