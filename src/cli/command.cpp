// The start of every command: common flags, refusals of what is not built, log level, threads.
// SPDX-License-Identifier: Apache-2.0
#include "cli/command.h"

#include <algorithm>
#include <charconv>
#include <cstdio>
#include <cstdlib>
#include <sched.h>

#include <ATen/Parallel.h>

#include "base/check.h"

namespace lockstep {

std::span<const EnumName<LogLevel>> enum_names(LogLevel) {
  static constexpr EnumName<LogLevel> kNames[] = {{LogLevel::kDebug, "debug"},
                                                  {LogLevel::kInfo, "info"},
                                                  {LogLevel::kWarning, "warning"},
                                                  {LogLevel::kError, "error"}};
  return kNames;
}

namespace cli {
namespace {

/// How launchers tell a process how many of its kind they started.
constexpr const char* kWorldSizes[] = {
    // torchrun, accelerate, DeepSpeed; and what ms-swift's scripts are told.
    "WORLD_SIZE", "NPROC_PER_NODE", "NNODES",
    // mpirun of Open MPI; of MPICH and Intel, whose Hydra also counts the ranks of a host; of
    // MVAPICH.
    "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MPI_LOCALNRANKS", "MV2_COMM_WORLD_SIZE",
    // srun. SLURM_NTASKS stands in a batch script as well, whose shell is one process; this one is
    // set for the processes of a step alone (Slurm, src/common/env.c: env_array_for_step).
    "SLURM_STEP_NUM_TASKS",
    // horovodrun, jsrun, flux run.
    "HOROVOD_SIZE", "JSM_NAMESPACE_SIZE", "FLUX_JOB_SIZE"};

/// Launchers that tell a process its own number alone (PRRTE's prun, and whatever else speaks
/// PMIx): above 0 it has company.
constexpr const char* kRanks[] = {"PMIX_RANK"};

/// N ranks must never become N separate runs; and a script that counts its batch over N processes
/// must not train with one.
void check_single_process() {
  const auto check = [](const char* variable, int64_t expected) {
    const char* const set = std::getenv(variable);
    if (!set) return;
    std::string_view text = set;
    while (text.starts_with(' ')) text.remove_prefix(1);
    while (text.ends_with(' ')) text.remove_suffix(1);
    if (text.empty() || text == std::to_string(expected)) return;
    fail<ConfigError>(
        "unsupported-world-size", variable,
        "expected {}, got {} (work over several processes is not built yet: each would be a run of "
        "its own; hint: unset it where they are meant to be)",
        expected, text);
  };
  for (const char* variable : kWorldSizes) check(variable, 1);
  for (const char* variable : kRanks) check(variable, 0);
}

void check_device(const CommonOptions& common, const FlagSet& flags) {
  if (common.device == "cpu") return;
  const std::string where = flags.is_set("device") ? flags.where_of("device") : "--device";
  fail<ConfigError>("unsupported-device", where,
                    "expected cpu, got {} (no other device is built yet)", common.device);
}

int usable_processors() {
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof(set), &set) != 0) return 1;
  return CPU_COUNT(&set);
}

void apply_common(const CommonOptions& common) {
  LogLevel level = common.log_level;
  if (common.quiet && level < LogLevel::kWarning) level = LogLevel::kWarning;
  set_log_level(level);
  // OMP_NUM_THREADS is libtorch's own way to say the same; the flag goes before it.
  const int64_t most = std::max(256, 4 * usable_processors());
  if (common.threads && *common.threads > most)
    fail<ConfigError>("bad-flag", "--threads", "expected at most {}, got {}", most,
                      *common.threads);
  if (common.threads)
    at::set_num_threads(static_cast<int>(*common.threads));
  else if (!std::getenv("OMP_NUM_THREADS"))
    at::set_num_threads(usable_processors());
}

}  // namespace

bool begin_command(CommandContext& context,
                   FlagSet& flags,
                   std::span<const std::string> arguments) {
  flags.add_group("every command", context.common);
  ParseResult parsed = flags.parse(arguments);
  if (parsed.help) {
    const std::string text = flags.help();
    std::fwrite(text.data(), 1, text.size(), stdout);
    return false;
  }
  apply_common(context.common);
  check_single_process();
  check_device(context.common, flags);
  context.inputs = std::move(parsed.inputs);
  context.accepted = std::move(parsed.accepted);
  context.notices = std::move(parsed.notices);
  for (const std::string& notice : context.notices) log_info("notice: {}", notice);
  return true;
}

}  // namespace cli
}  // namespace lockstep
