// Checks where results may go: not over existing files, and not over what the command reads.
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
/// holds one, since writing it could destroy what is read.
///
/// All links are followed: those of parent folders, dangling ones, and those that an input folder
/// holds (a hub's cache keeps the files of a model elsewhere). Two names of one file count as one.
/// Neither side needs to exist. Devices and pipes are allowed.
void check_output_apart(const std::filesystem::path& output,
                        std::string_view where,
                        std::span<const InputPath> inputs);

/// The path without links, "." and "..", as the system would resolve it; parts that do not exist
/// stay as they are spelled.
std::filesystem::path resolve_links(const std::filesystem::path& path);

}  // namespace lockstep
