// lockstep doctor: what the machine offers and what will be used.
// SPDX-License-Identifier: Apache-2.0
#include <cstdio>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <ATen/Parallel.h>

#include "cli/commands.h"
#include "cli/machine.h"

namespace lockstep::cli {
namespace {

struct DoctorOptions {
  std::string model;

  template <class Visitor>
  void for_each_field(Visitor&& visit) {
    visit("model", model, "A checkpoint whose matrix products are probed too.");
  }
};

void print_line(std::string_view name, const std::string& text) {
  const std::string line = fmt::format("{:<12} {}\n", name, text);
  std::fwrite(line.data(), 1, line.size(), stdout);
}

void print_machine() {
  constexpr double kGiB = 1024.0 * 1024.0 * 1024.0;
  const Processor cpu = processor();
  const Memory ram = memory();
  print_line("processor",
             fmt::format("{} ({} processors, {} usable)", cpu.model.empty() ? "unknown" : cpu.model,
                         cpu.num_logical, cpu.num_usable));
  print_line("features", fmt::format("{}", fmt::join(cpu.features, " ")));
  print_line("threads", fmt::format("{}", at::get_num_threads()));
  print_line("memory",
             fmt::format("{:.1f} GiB, {:.1f} GiB available", double(ram.total_bytes) / kGiB,
                         double(ram.available_bytes) / kGiB));
  print_line("libtorch", fmt::format("{} ({})", libtorch_version(), libtorch_path()));
  print_line("devices", device_backends() + " (cuda, npu: not built)");
  print_line("transports", "none (NCCL, Gloo, HCCL: not built; one process)");
}

}  // namespace

void run_doctor(CommandContext& context, std::span<const std::string> arguments) {
  DoctorOptions options;
  FlagSet flags("doctor", "Shows what this machine offers and tests it for two seconds.");
  flags.add_group("doctor", options);
  if (!begin_command(context, flags, arguments)) return;
  print_machine();
}

}  // namespace lockstep::cli
