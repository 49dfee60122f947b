// How much memory a run takes: what the plan adds up before the first step, and what /proc says.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>

namespace lockstep::grpo {

/// What comes takes more than its tensors by this factor, since freed blocks leave holes in the
/// heap: 1.11 to 1.19 were measured.
inline constexpr double kPlanSlack = 1.2;

/// What becomes resident of the program and its libraries when sampling, training and saving begin,
/// with the threads' stacks, in GiB: 10 to 15 MiB were measured.
inline constexpr double kWorkingPages = 16.0 / 1024;

/// How much memory a run takes, in GiB.
struct MemoryPlan {
  /// All the time: the program with its libraries and rows, and its tensors.
  double program = 0, weights = 0, packed = 0, optimizer = 0, reference = 0;
  /// While sampling, or all the time.
  double caches = 0;
  bool caches_stay = false;
  /// While sampling.
  double sampling = 0;
  /// In a training step: gradients and kept activations, and one layer's work.
  double kept = 0, work = 0;
  /// What is kept from sampling until training.
  double from_sampling = 0;

  double tensors() const { return weights + packed + optimizer + reference; }
  double present() const { return program + tensors(); }
  /// Caches that do not stay are freed before a step begins.
  double coming() const {
    const double step = kept + work;
    return (caches_stay ? caches + std::max(sampling, step) : std::max(caches + sampling, step)) +
           from_sampling;
  }
  /// At most, with the holes.
  double most() const { return present() + coming() * kPlanSlack; }
};

/// Logs the plan.
void say_memory(const MemoryPlan& memory,
                int64_t sequences_at_once,
                int64_t kept_layers,
                int64_t num_layers);

/// How much memory the machine could give this process now, in GiB; 0 if it does not say.
double available_memory_gib();
/// How much memory of this process is resident now, and at most so far, in GiB.
double resident_memory_gib();
double peak_memory_gib();

/// An amount of memory as text: "1.42 GiB", "113 MiB".
std::string size_text(double size_gib);

}  // namespace lockstep::grpo
