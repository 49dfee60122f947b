// Reads configurations of DeepSpeed and FSDP: which entries would change the training, and which
// have no effect.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <string_view>

#include "cli/flags.h"

namespace lockstep::cli {

/// The text of a flag as it was given, under its own name or an alias; unset if it was not given.
using ValueOf = std::function<std::optional<std::string>(std::string_view name)>;

/// The entries of a DeepSpeed or FSDP configuration (a name such as zero2, a file, or JSON text)
/// that have no effect, comma separated; "" for a name.
///
/// Entries that touch optimizer, clipping or precision must be "auto" or agree with the flags.
/// Throws ConfigError "refused-flag", FormatError "bad-config", IoError.
std::string check_framework_config(const Assignment& assignment, const ValueOf& value_of);

}  // namespace lockstep::cli
