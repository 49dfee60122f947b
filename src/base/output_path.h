// Where results may go: not over what is there, and not over what is read.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <span>
#include <string>
#include <string_view>

namespace lockstep {

/// A file or folder that a command reads, and the flag that names it.
struct InputPath {
  std::string flag;
  std::filesystem::path path;
};

/// Throws ConfigError "output-exists" at `where` if `path` exists and is not an empty directory,
/// unless `overwrite`; "bad-flag" for an empty path.
void check_output_path(const std::filesystem::path& path, bool overwrite, std::string_view where);

/// Throws ConfigError "output-is-input" at `where` if `output` is one of `inputs`, lies in one or
/// holds one: writing it could destroy what is read.
///
/// Links are followed, those of folders above and dangling ones too; so are the links that an input
/// folder holds (a hub's cache keeps the files of a model elsewhere). Two names of one file are
/// that file. Neither side needs to exist. Devices and pipes pass.
void check_output_apart(const std::filesystem::path& output,
                        std::string_view where,
                        std::span<const InputPath> inputs);

/// The path without links, "." and "..", as the system would walk it; what does not exist stays as
/// it is spelled.
std::filesystem::path resolve_links(const std::filesystem::path& path);

}  // namespace lockstep
