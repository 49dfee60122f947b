// Configuration files of flags: YAML and JSON.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "cli/flags.h"

namespace lockstep::cli {

/// Whether a name ends in .yaml, .yml or .json.
bool is_config_name(std::string_view argument);

/// The keys of a configuration file as flags, in the file's order.
///
/// A list becomes values, a dictionary becomes JSON text. The dictionaries `train` and `rollout`
/// are read as flags themselves; `ENV` is ignored, which adds a notice. Throws ConfigError
/// "bad-config" at "path:line" for what is not a mapping of flags, FormatError "bad-config" for a
/// JSON syntax error, IoError.
std::vector<Assignment> read_config_file(const std::filesystem::path& path,
                                         std::vector<std::string>& notices);

}  // namespace lockstep::cli
