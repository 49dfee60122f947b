// SPDX-License-Identifier: Apache-2.0
#include "cli/ranks.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <string_view>

#include "base/digest.h"
#include "base/file.h"
#include "base/json.h"
#include "cli/machine.h"
#include "parallel/identity.h"

namespace lockstep::cli {
namespace {

/// What a host or a rank may have of its own, and keys, which errors do not show.
constexpr std::array<std::string_view, 6> kOwnFlags{"threads", "node_rank",       "log_level",
                                                    "quiet",   "rollout_api_key", "reward_api_key"};

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
  own.parts.push_back({.name = "processor",
                       .values = {{"vector instructions", highway_target()}},
                       .is_rounding = true});
  return own;
}

}  // namespace

void join_ranks(CommandContext& context, const FlagSet& flags) {
  const auto longest = std::chrono::duration_cast<std::chrono::milliseconds>(
      std::chrono::duration<double>(context.launch_options.ddp_timeout));
  context.peers = parallel::join(context.launch, {.call_deadline = longest});
  if (!context.launch.is_alone())
    parallel::check_identity(context.ranks(), identity_of(context, flags), context.common.exact);
}

}  // namespace lockstep::cli
