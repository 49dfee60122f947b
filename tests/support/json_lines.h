// The lines of a file of test data, and the rows of a JSON-lines file.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <sstream>
#include <string>

#include <fmt/format.h>

#include "base/file.h"
#include "base/json.h"

namespace lockstep {

/// Calls visit(line_number, line) for each line of the file that is not empty; the first line has
/// number 1. Throws IoError.
template <class Visit>
void for_each_line(const std::filesystem::path& path, const Visit& visit) {
  std::istringstream lines(read_file(path));
  std::string line;
  for (int64_t number = 1; std::getline(lines, line); ++number)
    if (!line.empty()) visit(number, line);
}

/// The same with each line's JSON value. Throws FormatError, too.
template <class Visit>
void for_each_json_line(const std::filesystem::path& path, const Visit& visit) {
  for_each_line(path, [&](int64_t number, const std::string& line) {
    visit(number, parse_json(line, fmt::format("{}:{}", path.string(), number)));
  });
}

}  // namespace lockstep
