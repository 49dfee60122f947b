// SPDX-License-Identifier: Apache-2.0
#include "cli/ranks.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>
#include <ctime>
#include <fstream>
#include <string_view>
#include <unistd.h>

#include <fmt/ranges.h>

#include "base/digest.h"
#include "base/file.h"
#include "base/json.h"
#include "cli/machine.h"
#include "parallel/identity.h"
#include "train/plan.h"

namespace lockstep::cli {
namespace {

/// What a host or a rank may have of its own, and keys, which errors do not show.
constexpr std::array<std::string_view, 9> kOwnFlags{
    "threads",   "node_rank",      "log_level",       "quiet",         "progress",
    "dashboard", "dashboard_host", "rollout_api_key", "reward_api_key"};

/// What must be alike before anything is computed.
parallel::Identity identity_of(const CommandContext& context, const FlagSet& flags) {
  const std::string program = read_file("/proc/self/exe");
  parallel::Identity own = parallel::this_process();
  own.parts.push_back(
      {.name = "program",
       .values = {{"command", context.command},
                  {"version", LOCKSTEP_VERSION},
                  {"digest of the program", digest_of(program.data(), program.size()).hex()},
                  {"libtorch", libtorch_version()}}});
  parallel::IdentityPart& said = own.parts.emplace_back();
  said.name = "flags";
  const Json values = flags.to_json();
  for (const auto& [name, value] : values.items())
    if (std::find(kOwnFlags.begin(), kOwnFlags.end(), name) == kOwnFlags.end())
      said.values.emplace_back("--" + name, dump_json(value));
  own.parts.push_back(
      {.name = "processor",
       .values = {{"vector instructions", highway_target()},
                  // By these libtorch and oneDNN choose their kernels.
                  {"processor features", fmt::format("{}", fmt::join(processor().features, " "))}},
       .is_rounding = true});
  return own;
}

/// Whether this rank is the one of its host that speaks, since each host may have a log of its own.
bool speaks_for_host(const parallel::LaunchInfo& launch) { return launch.local_rank == 0; }

/// Whether this rank says what another one has failed with. Where the host's first rank is stopped
/// or gone, its second one speaks.
bool says(const parallel::LaunchInfo& launch, const parallel::RankFailure& failure) {
  const bool stands_in = launch.local_rank == 1 && failure.rank == launch.rank - 1 &&
                         parallel::is_of_silent_rank(failure.code);
  return speaks_for_host(launch) || stands_in;
}

/// The process ends right after it.
void say_failure(const parallel::RankFailure& failure) {
  const std::string line = error_line(failure.code, failure.text());
  // A line of progress may stand there.
  std::fprintf(stderr, "%s%s\n", isatty(STDERR_FILENO) ? "\n" : "", line.c_str());
}

/// Where the ranks write their last calls when the run fails: beside the run directory, which is
/// the run's own and may not be there yet.
std::filesystem::path record_folder(const FlagSet& flags) {
  const Json values = flags.to_json();
  std::filesystem::path output = values.value("output_dir", "output");
  if (!output.has_filename()) output = output.parent_path();
  output += ".ranks";
  return output;
}

}  // namespace

void join_ranks(CommandContext& context, const FlagSet& flags) {
  parallel::JoinOptions options;
  options.call_deadline = std::chrono::duration_cast<std::chrono::milliseconds>(
      std::chrono::duration<double>(context.launch_options.ddp_timeout));
  if (!context.launch.is_alone()) {
    options.monitor.record_folder = record_folder(flags);
    options.monitor.last_words = [launch = context.launch](const auto& failure) {
      if (says(launch, failure)) say_failure(failure);
    };
  }
  context.peers = parallel::join(context.launch, options);
  context.peers.recorder->enter("start", 0);
  if (!context.launch.is_alone())
    parallel::check_identity(context.ranks(), identity_of(context, flags), context.common.exact);
  train::check_rank_count(context.launch.size);
}

void leave_ranks(CommandContext& context) {
  if (context.peers.monitor) context.peers.monitor->finish();
}

std::string tell_failure(CommandContext& context, const RunError& error) {
  const parallel::LaunchInfo& launch = context.launch;
  // Once a run has begun, its ranks stop for a signal at the same step. Before that the others may
  // wait for this one.
  if (error.is_interrupt() && (launch.is_alone() || context.phase.started())) {
    leave_ranks(context);
    return speaks_for_host(launch) ? error.line : "";
  }
  std::string line = error.line;
  bool is_own = true;
  if (context.peers.monitor && !launch.is_alone()) {
    const parallel::RankFailure first = context.peers.monitor->fail(error.code, error.message);
    is_own = first.rank == launch.rank;
    // That another rank has failed says that one itself; and what all find alike is said once.
    const bool is_told =
        !is_own && (parallel::is_of_another_rank(error.code) || first.message == error.message);
    if (is_told && !says(launch, first)) return "";
    // What is wrong with flags and files is so wherever it was seen.
    if (is_told || (is_own && error.exit_code != ExitCode::kBadInput))
      line = error_line(first.code,
                        is_told && first.message == error.message ? first.message : first.text());
  }
  if (is_own && !launch.error_file.empty()) write_error_file(launch.error_file, line);
  return line;
}

void write_error_file(const std::filesystem::path& file, const std::string& message) {
  const Json told{
      {"message",
       {{"message", message}, {"extraInfo", {{"timestamp", std::to_string(std::time(nullptr))}}}}}};
  // Whether it can be written or not, the error has been said.
  std::ofstream(file) << dump_json(told) << '\n';
}

}  // namespace lockstep::cli
