// SPDX-License-Identifier: Apache-2.0
#include "grpo/metrics.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>

#include <fmt/format.h>

#include "base/json.h"

namespace lockstep::grpo {

void Metrics::add(const std::string& name, double value, double weight) {
  Entry& entry = entries_[name];
  entry.value += value * weight;
  entry.weight += weight;
}

void Metrics::replace(const std::string& name, double value) {
  entries_[name] = {Kind::kMean, value, 1};
}

void Metrics::add_max(const std::string& name, double value) {
  Entry& entry = entries_[name];
  entry.value = entry.weight > 0 ? std::max(entry.value, value) : value;
  entry.kind = Kind::kMax;
  entry.weight = 1;
}

void Metrics::add_min(const std::string& name, double value) {
  Entry& entry = entries_[name];
  entry.value = entry.weight > 0 ? std::min(entry.value, value) : value;
  entry.kind = Kind::kMin;
  entry.weight = 1;
}

Json Metrics::values() const {
  Json object = Json::object();
  for (const auto& [name, entry] : entries_) {
    if (!(entry.weight > 0)) continue;
    const double value = entry.kind == Kind::kMean ? entry.value / entry.weight : entry.value;
    // Small values, such as a learning rate of 1e-6, keep their digits.
    object[name] = std::abs(value) >= 1e-4 ? std::round(value * 1e8) / 1e8 : value;
  }
  return object;
}

namespace {

/// JSON knows no infinity, which a difference from what is no number is.
Json number_state(double value) {
  return std::isfinite(value) ? Json(value) : Json(fmt::format("{}", value));
}
double number_of_state(const Json& state) {
  return state.is_string() ? std::strtod(state.get<std::string>().c_str(), nullptr)
                           : state.get<double>();
}

}  // namespace

Json Metrics::state() const {
  Json object = Json::object();
  for (const auto& [name, entry] : entries_)
    object[name] =
        Json::array({static_cast<int>(entry.kind), number_state(entry.value), entry.weight});
  return object;
}

bool Metrics::is_state(const Json& entry) {
  return entry.is_array() && entry.size() == 3 && entry[0].is_number_integer() && entry[0] >= 0 &&
         entry[0] < kNumKinds && (entry[1].is_number() || entry[1].is_string()) &&
         entry[2].is_number();
}

void Metrics::load_state(const Json& state) {
  entries_.clear();
  for (const auto& [name, entry] : state.items())
    entries_[name] = {static_cast<Kind>(entry.at(0).get<int>()), number_of_state(entry.at(1)),
                      entry.at(2).get<double>()};
}

std::string duration_text(double seconds) {
  const auto whole = static_cast<int64_t>(std::llround(std::max(0.0, seconds)));
  std::string text = fmt::format("{}s", whole % 60);
  if (whole >= 60) text = fmt::format("{}m {}", whole / 60 % 60, text);
  if (whole >= 3600) text = fmt::format("{}h {}", whole / 3600, text);
  return text;
}

}  // namespace lockstep::grpo
