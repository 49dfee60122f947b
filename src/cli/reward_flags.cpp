// SPDX-License-Identifier: Apache-2.0
#include "cli/reward_flags.h"

#include <cstdlib>
#include <filesystem>

namespace lockstep::cli {
namespace {

/// The script that runs plugins: share/lockstep/plugin_host beside the program's folder, in a build
/// as where it is installed.
std::string plugin_host_script() {
  namespace fs = std::filesystem;
  return fs::canonical("/proc/self/exe").parent_path().parent_path() /
         "share/lockstep/plugin_host/host.py";
}

}  // namespace

void complete_reward_options(reward::RewardOptions& options) {
  options.plugins.host_script = plugin_host_script();
  std::string& key = options.external.reward_api_key;
  if (!key.empty()) return;
  if (const char* const named = std::getenv("LOCKSTEP_REWARD_API_KEY")) key = named;
}

}  // namespace lockstep::cli
