// The rows of a JSON-lines file of test data.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <string>

#include <fmt/format.h>

#include "base/file.h"
#include "base/json.h"

namespace lockstep {

/// Calls visit(line_number, row) for each line of the file that is not empty; the first line has
/// number 1.
template <class Visit>
void for_each_json_line(const std::filesystem::path& path, const Visit& visit) {
  LineReader reader(path);
  std::string line;
  while (reader.next(line))
    if (!line.empty())
      visit(reader.line_number(),
            parse_json(line, fmt::format("{}:{}", path.string(), reader.line_number())));
}

}  // namespace lockstep
