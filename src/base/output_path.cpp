// SPDX-License-Identifier: Apache-2.0
#include "base/output_path.h"

#include <deque>

#include "base/check.h"
#include "base/file.h"

namespace lockstep {
namespace {

namespace fs = std::filesystem;

/// Whether two paths without links lead to one place: by name, or because the system says so (hard
/// links, a folder mounted twice, names whose case does not matter).
bool is_same(const fs::path& a, const fs::path& b) {
  std::error_code ignored;
  return a == b || fs::equivalent(a, b, ignored);
}

/// Whether `path` is `folder` or lies in it. Both without links.
bool lies_in(fs::path path, const fs::path& folder) {
  for (;; path = path.parent_path()) {
    if (is_same(path, folder)) return true;
    if (path == path.parent_path()) return false;
  }
}

bool is_folder(const fs::path& path) {
  std::error_code ignored;
  return fs::is_directory(path, ignored);
}

[[noreturn]] void refuse(const fs::path& output,
                         std::string_view where,
                         std::string_view how,
                         const InputPath& input) {
  fail<ConfigError>("output-is-input", where,
                    "expected an output apart from every input, got {}, which {} {} {}",
                    output.string(), how, input.flag, input.path.string());
}

void check_one(const fs::path& output,
               const fs::path& resolved,
               std::string_view where,
               const InputPath& input) {
  const fs::path from = resolve_links(input.path);
  if (is_same(resolved, from)) refuse(output, where, "is", input);
  if (lies_in(resolved, from)) refuse(output, where, "lies in", input);
  if (lies_in(from, resolved)) refuse(output, where, "holds", input);
  if (!is_folder(from)) return;
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(from, ignored)) {
    if (!entry.is_symlink(ignored)) continue;
    const fs::path target = resolve_links(entry.path());
    if (lies_in(target, resolved) || lies_in(resolved, target))
      refuse(output, where, "is or holds a file of", input);
  }
}

}  // namespace

fs::path resolve_links(const fs::path& path) {
  std::error_code ignored;
  const fs::path whole = fs::absolute(path, ignored);
  std::deque<fs::path> rest(whole.begin(), whole.end());
  fs::path done;
  // The system follows forty links and no more.
  for (int num_links = 0; !rest.empty();) {
    const fs::path part = rest.front();
    rest.pop_front();
    if (part.empty() || part == ".") continue;
    if (part == "..") {
      done = done.parent_path();
      continue;
    }
    const fs::path next = part.is_absolute() ? part : done / part;
    if (fs::is_symlink(next, ignored) && num_links++ < 40) {
      const fs::path target = fs::read_symlink(next, ignored);
      rest.insert(rest.begin(), target.begin(), target.end());
    } else {
      done = next;
    }
  }
  return done;
}

void check_output_path(const fs::path& path, bool overwrite, std::string_view where) {
  std::error_code ignored;
  if (path.empty()) fail<ConfigError>("bad-flag", where, "expected a path, got an empty one");
  if (overwrite || !fs::exists(fs::symlink_status(path, ignored))) return;
  if (fs::is_directory(path, ignored) && fs::is_empty(path, ignored)) return;
  if (is_written_in_place(path)) return;
  fail<ConfigError>("output-exists", where,
                    "expected a path that is not there yet, got {} (hint: --overwrite true)",
                    path.string());
}

void check_output_apart(const fs::path& output,
                        std::string_view where,
                        std::span<const InputPath> inputs) {
  std::error_code ignored;
  const fs::file_status status = fs::status(output, ignored);
  if (fs::is_character_file(status) || fs::is_fifo(status)) return;
  const fs::path resolved = resolve_links(output);
  for (const InputPath& input : inputs)
    if (!input.path.empty()) check_one(output, resolved, where, input);
}

}  // namespace lockstep
