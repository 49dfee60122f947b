// Where a decode step's time goes: its ops, and what lies between them.
// SPDX-License-Identifier: Apache-2.0
//
//   lockstep_op_times [FAMILY SIZE [BATCH …]]    by default qwen3 100m at batch 1, 8 and 64
#include <chrono>
#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

#include <fmt/format.h>

#include "base/heap.h"
#include "base/op_timer.h"
#include "bench/bench_model.h"

namespace lockstep {
namespace {

using Clock = std::chrono::steady_clock;

/// Steps that only warm up: the prompts' own and a few more.
constexpr int64_t kWarmSteps = 4, kSteps = 48;

void report(const model::ModelWeights& weights, std::string_view dtype, int64_t batch) {
  rollout::Engine engine(weights, {.max_num_seqs = batch, .cache_memory = 4});
  rollout::GenerationSettings settings;
  settings.max_new_tokens = kWarmSteps + kSteps + 1;
  settings.ignore_eos = true;
  int64_t steps = 0;
  Clock::time_point begun, ended;
  std::vector<OpTime> times;
  engine.generate(bench::random_requests(batch, 32, weights), settings, [&](int64_t, int64_t) {
    if (++steps == kWarmSteps) {
      OpTimer::start();
      begun = Clock::now();
    }
    if (steps == kWarmSteps + kSteps) {
      ended = Clock::now();
      times = OpTimer::stop();
    }
  });
  const double wall = std::chrono::duration<double>(ended - begun).count(), step_ms = 1e3 / kSteps;
  double in_ops = 0;
  for (const OpTime& time : times) in_ops += time.seconds;
  fmt::print("{}, batch {}: {:.2f} ms a step, {:.1f} % of them outside of the ops\n", dtype, batch,
             wall * step_ms, 100 * (1 - in_ops / wall));
  for (const OpTime& time : times)
    fmt::print("  {:24} {:7.3f} ms {:5.1f} %  {:4} calls\n", time.name, time.seconds * step_ms,
               100 * time.seconds / wall, time.calls / kSteps);
}

template <class Enum>
Enum parse(const std::string& text) {
  if (const auto value = enum_of_name<Enum>(text)) return *value;
  fmt::print(stderr, "unknown: {}\n", text);
  std::exit(2);
}

int run(const std::vector<std::string>& args) {
  const auto family = parse<model::Family>(args.empty() ? "qwen3" : args[0]);
  const auto size = parse<model::ModelSize>(args.size() < 2 ? "100m" : args[1]);
  std::vector<int64_t> batches;
  for (size_t i = 2; i < args.size(); ++i) batches.push_back(std::stoll(args[i]));
  if (batches.empty()) batches = {1, 8, 64};
  for (const auto dtype : {model::WeightDtype::kFloat32, model::WeightDtype::kBFloat16}) {
    const auto weights = bench::random_weights(family, size, dtype);
    for (const int64_t batch : batches) report(*weights, enum_name(dtype), batch);
  }
  return 0;
}

}  // namespace
}  // namespace lockstep

int main(int argc, char** argv) {
  lockstep::keep_freed_memory();
  return lockstep::run({argv + 1, argv + argc});
}
