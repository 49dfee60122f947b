// The start of every command: common flags, refusals of what is not built, log level, threads.
// SPDX-License-Identifier: Apache-2.0
#include "cli/command.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <sched.h>
#include <unistd.h>

#include <ATen/Parallel.h>

#include "base/check.h"
#include "cli/flag_classes.h"

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

std::optional<std::string> environment(const std::string& name) {
  const char* const value = std::getenv(name.c_str());
  return value ? std::optional<std::string>(value) : std::nullopt;
}

/// The flag of add_launch_flags by which a command that has them is known.
constexpr const char* kLaunchFlag = "ddp_timeout";

void read_launch(CommandContext& context, const FlagSet& flags) {
  context.launch = parallel::read_launch_info(environment, context.launch_options);
  const parallel::LaunchInfo& launch = context.launch;
  if (launch.is_alone()) return;
  if (!flags.has(kLaunchFlag))
    fail<ConfigError>("unsupported-world-size", context.command,
                      "expected one process, got {} (hint: only lockstep grpo and sft work in "
                      "several; here each would do the same)",
                      describe(launch));
}

void check_device(const CommonOptions& common, const FlagSet& flags) {
  if (common.device == "cpu") return;
  const std::string where = flags.is_set("device") ? flags.where_of("device") : "--device";
  fail<ConfigError>("unsupported-device", where,
                    "expected cpu, got {} (no other device is built yet)", common.device);
}

int64_t usable_processors() {
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof(set), &set) != 0) return 1;
  return CPU_COUNT(&set);
}

/// The flag goes before OMP_NUM_THREADS, which is libtorch's own way to say the same. torchrun sets
/// that to 1 for each of several processes of a host when nobody has set it, which is too few.
void set_threads(const CommandContext& context) {
  const std::optional<int64_t>& threads = context.common.threads;
  const int64_t usable = usable_processors(), most = std::max<int64_t>(256, 4 * usable);
  if (threads && *threads > most)
    fail<ConfigError>("bad-flag", "--threads", "expected at most {}, got {}", most, *threads);
  const std::string said = environment("OMP_NUM_THREADS").value_or("");
  const bool is_forced = context.launch.local_size > 1 && said == "1";
  if (threads)
    at::set_num_threads(static_cast<int>(*threads));
  else if (said.empty() || is_forced)
    at::set_num_threads(static_cast<int>(parallel::fair_threads(
        context.launch, environment, {.usable = usable, .online = sysconf(_SC_NPROCESSORS_ONLN)})));
}

void set_logging(CommandContext& context) {
  LogLevel level = context.common.log_level;
  if (context.common.quiet && level < LogLevel::kWarning) level = LogLevel::kWarning;
  set_log_level(level);
  // What the first of several processes logs, the others would only repeat.
  set_log_repeats(context.launch.rank > 0 && level > LogLevel::kDebug);
  if (context.launch.is_alone()) return;
  context.rank_scope = std::make_unique<LogScope>(fmt::format("rank {}", context.launch.rank));
  log_info("{}; {} threads each", describe(context.launch), at::get_num_threads());
}

}  // namespace

void add_launch_flags(CommandContext& context, FlagSet& flags) {
  flags.add_group("several processes", context.launch_options);
}

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
  read_launch(context, flags);
  set_threads(context);
  set_logging(context);
  check_device(context.common, flags);
  context.inputs = std::move(parsed.inputs);
  context.accepted = std::move(parsed.accepted);
  if (!context.launch.is_alone())
    check_unserved_degrees(context.accepted,
                           [&](std::string_view name) { return flags.has(name); });
  context.notices = std::move(parsed.notices);
  for (const std::string& notice : context.notices) log_info("notice: {}", notice);
  return true;
}

}  // namespace cli
}  // namespace lockstep
