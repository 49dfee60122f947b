// SPDX-License-Identifier: Apache-2.0
#include "reward/notes.h"

#include <utility>

#include <nlohmann/json.hpp>

namespace lockstep::reward {

void PlacedNotes::add_extra(const std::string& column,
                            size_t first,
                            size_t count,
                            const Json& values) {
  std::vector<Json>& all = extra[column];
  all.resize(count);
  for (size_t i = 0; i < values.size() && first + i < count; ++i) all[first + i] = values[i];
}

void PlacedNotes::take(PlacedNotes&& other, std::span<const size_t> places, size_t count) {
  for (auto& [name, numbers] : other.metrics)
    for (const auto& [completion, number] : numbers)
      metrics[name].emplace(places[completion], number);
  for (auto& [column, values] : other.extra) {
    std::vector<Json>& all = extra[column];
    all.resize(count);
    for (size_t i = 0; i < values.size(); ++i) all[places[i]] = std::move(values[i]);
  }
}

void PlacedNotes::move_to(Notes& notes) {
  for (const auto& [name, numbers] : metrics)
    for (const auto& [completion, number] : numbers) notes.metrics[name].push_back(number);
  for (auto& [column, values] : extra) notes.extra.try_emplace(column, std::move(values));
}

}  // namespace lockstep::reward
