// What every command of the program shares: the common flags, the phase of its work, and the
// notices that are printed at its start.
// SPDX-License-Identifier: Apache-2.0
//
// A command is one file in cli/commands/: an options struct and a run function, and a line in
// commands.h.
//
//   void run_score(CommandContext& context, std::span<const std::string> arguments) {
//     ScoreOptions options;
//     FlagSet flags("score", "Writes the log-probability of every token.");
//     flags.add_group("score", options);
//     flags.require("model");
//     if (!begin_command(context, flags, arguments)) return;   // --help was printed
//     context.reads("--model", options.model);                 // every input, before the outputs
//     …                             // read and check the inputs: an IoError is exit code 2
//     context.phase.start();        // from here on it is 1
//     …
//   }
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/log.h"
#include "base/log_scope.h"
#include "base/on_resume.h"
#include "base/options.h"
#include "base/output_path.h"
#include "cli/flags.h"
#include "model/config.h"  // WeightDtype
#include "parallel/join.h"
#include "parallel/launch_info.h"

namespace lockstep {

std::span<const EnumName<LogLevel>> enum_names(LogLevel);

namespace cli {

/// The flags of every command.
struct CommonOptions {
  LogLevel log_level = LogLevel::kInfo;
  bool quiet = false;
  /// Unset: all processors that this process may use, or its share of them.
  std::optional<int64_t> threads;
  std::string device = "cpu";
  int64_t seed = 42;
  /// Unset: the checkpoint's.
  std::optional<model::WeightDtype> torch_dtype;
  bool exact = true;

  template <class Visitor>
  void for_each_field(Visitor&& visit) {
    visit("log_level", log_level, "Least level that is logged to stderr.", OnResume::kIgnored);
    visit("quiet", quiet, "Logs warnings and errors only, and no progress.", OnResume::kIgnored);
    visit("threads", threads,
          "Threads of a process; unset: all processors, shared by the processes of a host.",
          Range::at_least(1), OnResume::kSaid);
    visit("device", device, "Where to compute: cpu.", OnResume::kSaid);
    visit("seed", seed, "Seed of everything random.", Range::at_least(0));
    visit("torch_dtype", torch_dtype, "Precision of the weights; unset: the checkpoint's.");
    visit("exact", exact, "Same log-probabilities from sampler, scorer and trainer, bit for bit.");
  }
};

/// Whether a command has begun to write or compute. This decides the exit code of an error of the
/// operating system.
class WorkPhase {
 public:
  void start() { started_ = true; }
  bool started() const { return started_; }

 private:
  bool started_ = false;
};

struct CommandContext {
  /// The name of the command: "score".
  std::string command;
  CommonOptions common;
  /// The flags of a command that works in several processes, which registers them itself.
  parallel::LaunchOptions launch_options;
  /// Which of them this one is.
  parallel::LaunchInfo launch;
  /// The others; unset until join_ranks() (cli/ranks.h).
  parallel::Peers peers;
  parallel::Group& ranks() const { return *peers.world; }
  WorkPhase phase;
  /// Foreign flags without effect, for check_declared_family.
  std::vector<Assignment> accepted;
  /// Printed at the start and kept in args.json.
  std::vector<std::string> notices;
  /// What the command reads, including the configuration file; no output may touch it.
  std::vector<InputPath> inputs;
  /// Adds an input that a flag names; "" adds none.
  void reads(std::string flag, const std::filesystem::path& path) {
    if (!path.empty()) inputs.push_back({std::move(flag), path});
  }
  /// Of several processes the first one alone shows what they do.
  bool show_progress() const {
    return launch.rank == 0 && !common.quiet && common.log_level <= LogLevel::kInfo;
  }
  /// Says in front of log lines which rank they are of.
  std::unique_ptr<LogScope> rank_scope;
};

/// Adds the flags of a command that works in several processes; others refuse to be several.
void add_launch_flags(CommandContext& context, FlagSet& flags);

/// Adds the common flags to `flags`, parses, checks them and applies them (log level, threads);
/// reads what a launcher says of this process; prints the notices.
///
/// Returns false when --help was asked for and printed; then the command returns.
/// Throws ConfigError: those of FlagSet::parse and read_launch_info, "unsupported-device",
/// "unsupported-world-size" for a command that works in one process alone.
bool begin_command(CommandContext& context, FlagSet& flags, std::span<const std::string> arguments);

}  // namespace cli
}  // namespace lockstep
