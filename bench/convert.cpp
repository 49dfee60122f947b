// Conversions of weights against memcpy: rates in memory, and the time of a plan of a 397B model
// from shapes alone.
// SPDX-License-Identifier: Apache-2.0
//
//   build-bench/bench/lockstep_convert [GIGABYTES]
//
// Bytes count once; digests are part of a conversion. memcpy moves the same tensors with as many
// threads, in turn with each case. Shares are medians over the rounds, and the middle half of them.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <thread>

#include "layout/execute.h"
#include "layout/plan.h"
#include "model/weight_formats/make_layout.h"
#include "tests/model/published_configs.h"
#include "tests/support/memory_tensors.h"

namespace lockstep {
namespace {

using layout::Layout;
using layout::MemoryTensors;

double seconds_of(const std::function<void()>& work) {
  const auto begin = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

int num_threads() { return static_cast<int>(std::thread::hardware_concurrency()); }

Layout layout_of(const model::LogicalModel& model, const char* name) {
  return make_layout(model, model::published_form(model.config),
                     model::LayoutSpec::parse(name, name));
}

/// Copies all bytes of a layout's tensors, each thread a share of every tensor.
double memcpy_seconds(const Layout& layout, MemoryTensors& from, MemoryTensors& to) {
  return seconds_of([&] {
    std::vector<std::jthread> threads;
    for (int t = 0; t < num_threads(); ++t)
      threads.emplace_back([&, t] {
        for (int64_t r = 0; r < layout.num_ranks(); ++r)
          for (size_t i = 0; i < layout.rank(r).size(); ++i) {
            const auto source = from.tensor(r, static_cast<int64_t>(i));
            const size_t begin = source.size() * static_cast<size_t>(t) /
                                 static_cast<size_t>(num_threads()),
                         end = source.size() * static_cast<size_t>(t + 1) /
                               static_cast<size_t>(num_threads());
            std::memcpy(to.memory(r, static_cast<int64_t>(i)).data() + begin, source.data() + begin,
                        end - begin);
          }
      });
  });
}

void convert(const model::LogicalModel& model,
             const char* from_name,
             const char* to_name,
             double asked) {
  const Layout from = layout_of(model, from_name), to = layout_of(model, to_name);
  MemoryTensors source(from, /*lends_memory=*/true), target(to, true), copy(from, true);
  double bytes = 0;
  for (int64_t r = 0; r < to.num_ranks(); ++r)
    for (const auto& tensor : to.rank(r)) bytes += static_cast<double>(tensor.bytes());
  const layout::Plan plan = make_plan(from, to, int64_t{64} << 20);
  // The machine drifts between rounds: each is compared with the memcpys around it.
  std::vector<double> ours, plain{memcpy_seconds(from, source, copy)}, shares;
  constexpr int kRounds = 11;
  for (int round = 0; round < kRounds; ++round) {
    ours.push_back(seconds_of(
        [&] { execute(from, to, plan, source, target, {.num_threads = num_threads()}); }));
    plain.push_back(memcpy_seconds(from, source, copy));
    shares.push_back(50 * (plain[plain.size() - 2] + plain.back()) / ours.back());
  }
  for (auto* values : {&ours, &plain, &shares}) std::sort(values->begin(), values->end());
  std::printf("%-24s to %-32s %5.2f GB/s, memcpy %5.2f GB/s: %4.0f %% (%.0f to %.0f; asked %.0f)\n",
              from_name, to_name, bytes / ours[kRounds / 2] / 1e9, bytes / plain[kRounds / 2] / 1e9,
              shares[kRounds / 2], shares[kRounds / 4], shares[kRounds - 1 - kRounds / 4], asked);
  std::fflush(stdout);
}

model::LogicalModel expert_model(double gigabytes) {
  model::ModelConfig config;
  config.family = model::Family::kQwen3_5Moe;
  config.vocab_size = 65536;
  config.hidden_size = 2048;
  config.num_hidden_layers = 4;
  config.num_attention_heads = 16;
  config.num_key_value_heads = 2;
  config.head_dim = 256;
  config.mixers = {model::MixerKind::kGatedDelta, model::MixerKind::kGatedDelta,
                   model::MixerKind::kGatedDelta, model::MixerKind::kAttention};
  config.moe_layers.assign(4, true);
  config.linear_num_key_heads = 16;
  config.linear_num_value_heads = 32;
  config.linear_key_head_dim = config.linear_value_head_dim = 128;
  config.linear_conv_kernel_dim = 4;
  config.moe_intermediate_size = config.shared_expert_intermediate_size = 512;
  constexpr double kExpertBytes = 4.0 * 3 * 512 * 2048 * 2, kOtherBytes = 0.85e9;
  config.num_experts = std::max<int64_t>(
      8, static_cast<int64_t>((gigabytes * 1e9 - kOtherBytes) / kExpertBytes) / 8 * 8);
  return logical_model(config, {}, model::published_types(config));
}

void plan_of_397b() {
  const auto& size =
      *std::find_if(std::begin(testing::kQwen35Sizes), std::end(testing::kQwen35Sizes),
                    [](const testing::Qwen35Size& s) { return s.name == "397B-A17B"; });
  const auto config = model::parse_model_config(testing::qwen35_config(size), "397B");
  const double seconds = seconds_of([&] {
    const auto model = logical_model(config, {}, model::published_types(config));
    const Layout from = layout_of(model, "megatron:tp=8,ep=64"),
                 to = layout_of(model, "megatron:tp=4,ep=16");
    const layout::Plan plan = make_plan(from, to, int64_t{64} << 20);
    std::printf("plan of 397B, tp 8 x ep 64 to tp 4 x ep 16: %zu copies, %s\n", plan.copies.size(),
                plan.digest.hex().c_str());
  });
  std::printf("  with both layouts and their proofs %.2f s (asked 2 s)\n", seconds);
}

}  // namespace
}  // namespace lockstep

int main(int argc, char** argv) {
  lockstep::plan_of_397b();
  const auto model = lockstep::expert_model(argc > 1 ? std::stod(argv[1]) : 2.0);
  lockstep::convert(model, "checkpoint", "lockstep:ep=2", 80);
  lockstep::convert(model, "checkpoint", "megatron:tp=2,ep=2", 80);
  lockstep::convert(model, "checkpoint", "vllm-ascend:state=processed", 50);
  lockstep::convert(model, "vllm-ascend:state=processed", "checkpoint", 50);
  return 0;
}
