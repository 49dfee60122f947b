// The flags of rewards in Python.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/on_resume.h"
#include "base/options.h"

namespace lockstep::reward {

struct PluginOptions {
  std::vector<std::string> external_plugins;
  std::string plugin_python = "python3";
  int64_t plugin_workers = 1;
  /// The script that runs plugins; no flag: it is installed with the program.
  std::string host_script;

  template <class Visitor>
  void for_each_field(Visitor&& visit) {
    using enum OnResume;
    visit("external_plugins", external_plugins,
          "Files in Python that register rewards in ms-swift's orms; a process runs them.",
          kByContent);
    visit("plugin_python", plugin_python, "The Python that runs plugins, with what they import.",
          kSaid);
    visit("plugin_workers", plugin_workers, "Processes that run plugins.", Range::between(1, 256),
          kSaid);
  }
};

}  // namespace lockstep::reward
