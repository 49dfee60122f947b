// SPDX-License-Identifier: Apache-2.0
#include "grpo/memory_plan.h"

#include <cstdlib>
#include <fstream>
#include <string_view>

#include "base/check.h"
#include "base/log.h"

namespace lockstep::grpo {
namespace {

/// A line "NAME: N kB" of a file of /proc, in GiB; 0 where there is none.
double proc_gib(const char* path, std::string_view name) {
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);)
    if (line.starts_with(name))
      return static_cast<double>(std::strtoll(line.c_str() + name.size(), nullptr, 10)) /
             (1024.0 * 1024);
  return 0;
}

}  // namespace

void say_memory(const MemoryPlan& memory,
                int64_t sequences_at_once,
                int64_t kept_layers,
                int64_t num_layers) {
  std::string always = fmt::format("program {}, weights {}, packed weights {}, optimizer {}",
                                   size_text(memory.program), size_text(memory.weights),
                                   size_text(memory.packed), size_text(memory.optimizer));
  if (memory.reference > 0)
    always += fmt::format(", reference model {}", size_text(memory.reference));
  log_info("memory plan: {} at most", size_text(memory.most()));
  log_info("memory plan: {} all the time: {}", size_text(memory.present()), always);
  if (sequences_at_once)
    log_info(
        "memory plan: {} more {}: the caches of {} sequences at once", size_text(memory.caches),
        memory.caches_stay ? "from the first sampling on" : "while sampling", sequences_at_once);
  if (memory.sampling > 0)
    log_info("memory plan: {} more while sampling: logits and activations",
             size_text(memory.sampling));
  log_info(
      "memory plan: {} more in a training step: gradients and kept activations {}, the work of one "
      "layer about {}",
      size_text(memory.kept + memory.work), size_text(memory.kept), size_text(memory.work));
  if (memory.from_sampling > 0)
    log_info("memory plan: {} more for what sampling keeps for training",
             size_text(memory.from_sampling));
  log_info("memory plan: {} more for the holes that freed blocks leave",
           size_text(memory.coming() * (kPlanSlack - 1)));
  log_info("memory plan: {} of {} layers keep their activations in a step", kept_layers,
           num_layers);
  if (memory.reference > 0)
    log_info(
        "memory plan: --beta 0 trains without a KL term and saves the reference model ({}) and its "
        "pass over every completion",
        size_text(memory.reference));
}

double available_memory_gib() { return proc_gib("/proc/meminfo", "MemAvailable:"); }
double resident_memory_gib() { return proc_gib("/proc/self/status", "VmRSS:"); }
double peak_memory_gib() { return proc_gib("/proc/self/status", "VmHWM:"); }

std::string size_text(double size_gib) {
  const double size_mib = size_gib * 1024;
  if (size_gib >= 1) return fmt::format("{:.2f} GiB", size_gib);
  return size_mib >= 100 ? fmt::format("{:.0f} MiB", size_mib)
                         : fmt::format("{:.3g} MiB", size_mib);
}

}  // namespace lockstep::grpo
