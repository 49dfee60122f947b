// SPDX-License-Identifier: Apache-2.0
#include "reward/process_log.h"

#include <algorithm>
#include <sstream>
#include <vector>

#include "base/log.h"
#include "text/unicode.h"

namespace lockstep::reward {

void log_stderr(LineProcess& process) {
  constexpr size_t kMostLines = 20;
  std::string valid;
  text::append_lossy(process.take_stderr(), false, valid);
  std::vector<std::string> lines;
  std::istringstream stream(valid);
  for (std::string line; std::getline(stream, line);)
    if (!line.empty()) lines.push_back(std::move(line));
  if (lines.size() > kMostLines)
    log_info("{}: … {} lines …", process.name(), lines.size() - kMostLines);
  for (size_t i = lines.size() - std::min(lines.size(), kMostLines); i < lines.size(); ++i)
    log_info("{}: {}", process.name(), lines[i]);
}

}  // namespace lockstep::reward
