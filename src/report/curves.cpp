// SPDX-License-Identifier: Apache-2.0
#include "report/curves.h"

#include <algorithm>
#include <cmath>

#include <fmt/format.h>

#include "base/json.h"

namespace lockstep::report {

void append_number(std::string& out, double value, int digits) {
  if (!std::isfinite(value)) {
    out += "null";
    return;
  }
  fmt::format_to(std::back_inserter(out), "{:.{}g}", value, digits);
}

void Curves::Cell::add(const Cell& other) {
  sum += other.sum;
  low = std::min(low, other.low);
  high = std::max(high, other.high);
  count += other.count;
}

void Curves::clear() {
  rows_.clear();
  columns_.clear();
  odd_.clear();
  stride_ = 1;
  ++generation_;
}

void Curves::cut_back(int64_t step) {
  while (!rows_.empty() && rows_.back().last_step >= step) rows_.pop_back();
  for (auto& [name, cells] : columns_)
    if (cells.size() > rows_.size()) cells.resize(rows_.size());
  ++generation_;
}

void Curves::merge() {
  for (size_t i = 0; 2 * i < rows_.size(); ++i) {
    Row row = rows_[2 * i];
    if (2 * i + 1 < rows_.size()) {
      row.last_step = rows_[2 * i + 1].last_step;
      row.lines += rows_[2 * i + 1].lines;
    }
    rows_[i] = row;
  }
  rows_.resize((rows_.size() + 1) / 2);
  for (auto& [name, cells] : columns_) {
    for (size_t i = 0; 2 * i < cells.size(); ++i) {
      Cell cell = cells[2 * i];
      if (2 * i + 1 < cells.size()) cell.add(cells[2 * i + 1]);
      cells[i] = cell;
    }
    cells.resize((cells.size() + 1) / 2);
  }
  stride_ *= 2;
  ++generation_;
}

void Curves::add(int64_t step, const Json& line, std::string_view prefix) {
  if (!rows_.empty() && step < rows_.back().last_step) cut_back(step);
  // Two lines of one step are one: some trainers log in parts.
  const bool is_same = !rows_.empty() && rows_.back().last_step == step;
  if (!is_same) {
    if (rows_.size() == kMostRows && rows_.back().lines >= stride_) merge();
    if (rows_.empty() || rows_.back().lines >= stride_)
      rows_.push_back({.first_step = step, .last_step = step, .lines = 0});
    rows_.back().last_step = step;
    ++rows_.back().lines;
  }
  for (const auto& [name, value] : line.items()) {
    if (!std::string_view(name).starts_with(prefix)) continue;
    const std::string own = name.substr(prefix.size());
    // RunDirectory::log writes them so, Python's json.dump without quotation marks.
    if (value.is_string() && (value == "nan" || value == "inf" || value == "-inf")) ++odd_[own];
    if (!value.is_number()) continue;
    const auto number = value.get<double>();
    auto& cells = columns_[own];
    cells.resize(rows_.size());
    cells.back().add({.sum = number, .low = number, .high = number, .count = 1});
  }
}

std::vector<std::string> Curves::names() const {
  std::vector<std::string> names;
  for (const auto& [name, cells] : columns_) names.push_back(name);
  return names;
}

double Curves::mean(const std::string& name, size_t row) const {
  const auto found = columns_.find(name);
  if (found == columns_.end() || row >= found->second.size() || !found->second[row].count)
    return std::numeric_limits<double>::quiet_NaN();
  return found->second[row].mean();
}

std::string Curves::json(size_t first) const {
  first = std::min(first, rows_.size());
  std::string out = fmt::format(R"({{"generation":{},"first":{},"rows":{},"stride":{},"steps":[)",
                                generation_, first, rows_.size(), stride_);
  for (size_t i = first; i < rows_.size(); ++i) {
    if (i > first) out += ',';
    // The middle of a row of several steps is where its mean belongs.
    append_number(out, static_cast<double>(rows_[i].first_step + rows_[i].last_step) / 2, 12);
  }
  out += "],\"columns\":{";
  bool is_next = false;
  for (const auto& [name, cells] : columns_) {
    if (is_next) out += ',';
    is_next = true;
    out += dump_json(name) + ":{\"mean\":[";
    const auto write = [&, &cells = cells](const auto& value_of, int digits) {
      for (size_t i = first; i < rows_.size(); ++i) {
        if (i > first) out += ',';
        if (i < cells.size() && cells[i].count)
          append_number(out, value_of(cells[i]), digits);
        else
          out += "null";
      }
    };
    write([](const Cell& cell) { return cell.mean(); }, 6);
    const bool is_spread = std::any_of(cells.begin(), cells.end(), [](const Cell& cell) {
      return cell.count && cell.low < cell.high;
    });
    if (is_spread) {
      out += "],\"low\":[";
      write([](const Cell& cell) { return cell.low; }, 4);
      out += "],\"high\":[";
      write([](const Cell& cell) { return cell.high; }, 4);
    }
    out += "]}";
  }
  return out + "},\"odd\":" + dump_json(Json(odd_)) + "}";
}

}  // namespace lockstep::report
