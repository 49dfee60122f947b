// SPDX-License-Identifier: Apache-2.0
#include "reward/notes.h"

#include <nlohmann/json.hpp>

namespace lockstep::reward {

void Notes::add_extra(const std::string& column, size_t first, size_t count, const Json& values) {
  std::vector<Json>& all = extra[column];
  all.resize(count);
  for (size_t i = 0; i < values.size() && first + i < count; ++i) all[first + i] = values[i];
}

}  // namespace lockstep::reward
