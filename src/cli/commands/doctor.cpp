// lockstep doctor: says what the machine offers and what will be used.
// SPDX-License-Identifier: Apache-2.0
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <optional>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <ATen/Parallel.h>

#include "base/check.h"
#include "base/interrupt.h"
#include "cli/commands.h"
#include "cli/machine.h"
#include "cli/row_probe.h"
#include "cli/self_test.h"
#include "ops/cpu/panel_product.h"  // has_pair_products
#include "ops/library_product.h"    // has_bfloat16_tiles
#include "parallel/rank_record.h"
#include "train/hf_checkpoint.h"

namespace lockstep::cli {
namespace {

struct DoctorOptions {
  std::string model;
  std::string hang;

  template <class Visitor>
  void for_each_field(Visitor&& visit) {
    visit("model", model, "A checkpoint whose matrix products are probed too.");
    visit("hang", hang,
          "A folder with the rank-N.jsonl of a run that has ended early or stood still: says which "
          "rank was missing in which call, and tests nothing.");
  }
};

void print_text(const std::string& text) {
  std::fwrite(text.data(), 1, text.size(), stdout);
  // Flushed, so that a test that hangs can be told by the last line.
  std::fflush(stdout);
}
void print_line(std::string_view name, const std::string& text) {
  print_text(fmt::format("{:<12} {}\n", name, text));
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
  print_line("transports", "Gloo, of libtorch's c10d (NCCL, HCCL: not built)");
}

void print_kernels() {
  print_line(
      "kernels",
      fmt::format("Highway {}; products: float32 Highway panels, bfloat16 {}; other: libtorch",
                  highway_target(),
                  ops::has_bfloat16_tiles() ? "oneDNN packed (shapes that fail a probe: panels)"
                  : ops::cpu::has_pair_products() ? "panels by pairs (AVX512-BF16)"
                                                  : "Highway panels"));
}

/// Throws InternalError when an op does not agree with its formula.
void print_self_test() {
  throw_if_interrupted();
  constexpr double kSecondsEach = 0.1;
  std::vector<std::string> failed;
  print_text("\nself-test                kernel                   rate            error\n");
  for (const SelfTestResult& result : run_self_test(kSecondsEach)) {
    std::string error;
    if (result.bound > 0)
      error = fmt::format("{:.1e} of {:.1e}{}", result.error, result.bound,
                          result.passed() ? "" : "  FAILED");
    print_text(fmt::format("{:<24} {:<17} {:>9.1f} {:<8} {:>18}\n", result.name, result.kernel,
                           result.rate, result.unit, error));
    if (!result.passed()) failed.push_back(result.name);
  }
  if (!failed.empty())
    fail<InternalError>("self-test", "doctor",
                        "expected every op to agree with its formula, got differences in {}",
                        fmt::join(failed, ", "));
}

std::string verdict(const RowProbe& probe) {
  if (probe.dependent.empty()) return fmt::format("same bits up to {}", probe.rows);
  std::vector<std::string> cases;
  for (const ops::RowCase& found : probe.dependent)
    cases.push_back(fmt::format("{}{}", found.rows, found.is_in_region ? " (one thread)" : ""));
  return fmt::format("DIFFERENT at {}", fmt::join(cases, ", "));
}

/// Throws InternalError if a row depends on other rows: then --exact cannot hold on this machine.
void print_row_probe(const std::filesystem::path& model, std::optional<model::WeightDtype> asked) {
  using Clock = std::chrono::steady_clock;
  const model::WeightDtype dtype = asked.value_or(train::load_config(model).dtype);
  const Clock::time_point begin = Clock::now();
  bool all_equal = true;
  print_text(
      "\nrow independence         inputs  outputs  product         rows, by all threads and by "
      "one\n");
  for (const ProductShape& shape : product_shapes(model)) {
    throw_if_interrupted();
    const RowProbe probe = probe_rows(shape, dtype);
    print_text(fmt::format("{:<24} {:>6} {:>8}  {:<14}  {}\n", shape.example, shape.inputs,
                           shape.outputs, product_kernel(shape, dtype), verdict(probe)));
    all_equal = all_equal && probe.dependent.empty();
  }
  print_text(fmt::format("probed in {:.1f} s\n",
                         std::chrono::duration<double>(Clock::now() - begin).count()));
  if (!all_equal)
    fail<InternalError>("row-dependence", model.string(),
                        "expected rows that do not depend on other rows, got different "
                        "bits (--exact true cannot hold on this machine)");
}

}  // namespace

void run_doctor(CommandContext& context, std::span<const std::string> arguments) {
  DoctorOptions options;
  FlagSet flags("doctor", "Shows what this machine offers and tests it for two seconds.");
  flags.add_group("doctor", options);
  if (!begin_command(context, flags, arguments)) return;
  if (!options.hang.empty()) {
    print_text(parallel::explain_hang(parallel::read_rank_records(options.hang)));
    return;
  }
  // A wrong --model is refused before the tests run.
  if (!options.model.empty()) train::load_config(options.model);
  print_machine();
  print_kernels();
  print_self_test();
  throw_if_interrupted();
  if (!options.model.empty()) print_row_probe(options.model, context.common.torch_dtype);
}

}  // namespace lockstep::cli
