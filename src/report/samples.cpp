// SPDX-License-Identifier: Apache-2.0
#include "report/samples.h"

#include <algorithm>
#include <fstream>
#include <map>
#include <set>

#include "base/check.h"
#include "base/digest.h"
#include "base/json.h"
#include "report/curves.h"  // append_number
#include "text/unicode.h"

namespace lockstep::report {
namespace {

/// `count` of the indices below `size`, evenly spread, the first and the last among them.
std::vector<size_t> spread(size_t size, size_t count) {
  std::vector<size_t> indices;
  if (size <= count) {
    for (size_t i = 0; i < size; ++i) indices.push_back(i);
    return indices;
  }
  for (size_t i = 0; i < count; ++i) indices.push_back(i * (size - 1) / (count - 1));
  return indices;
}

/// The beginning and the end of a long text, and how many bytes are left out between them.
std::string clipped(const std::string& text, size_t most) {
  if (text.size() <= most) return text;
  const size_t head = most * 2 / 3, tail = most - head;
  size_t end = text.size() - tail;
  while (end < text.size() && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80) ++end;
  const size_t begin = text::valid_prefix(std::string_view(text).substr(0, head));
  return fmt::format("{} […{} bytes…] {}", text.substr(0, begin), end - begin, text.substr(end));
}

double number_of(std::string_view value) {
  const std::string text = text_of(value);
  char* end = nullptr;
  const double number = std::strtod(text.c_str(), &end);
  return end == text.c_str() ? std::numeric_limits<double>::quiet_NaN() : number;
}

/// A line of completions.jsonl by columns.
class Round {
 public:
  explicit Round(std::string line) : line_(std::move(line)) {
    const auto members = members_of(line_);
    if (!members) return;
    for (const auto& [name, value] : *members) {
      auto items = items_of(value);
      if (name == "token_ids") {
        for (const std::string_view item : items) lengths_.push_back(count_items(item));
        continue;
      }
      if (is_reward(name, items)) rewards_.push_back(name);
      columns_[name] = std::move(items);
    }
  }
  const std::vector<std::string>& rewards() const { return rewards_; }
  std::string_view item(const std::string& column, size_t row) const {
    const auto found = columns_.find(column);
    if (found == columns_.end() || row >= found->second.size()) return "null";
    return found->second[row];
  }
  double advantage(size_t row) const {
    return number_of(item(columns_.contains("advantages") ? "advantages" : "advantage", row));
  }
  /// The completion as JSON: see Samples::json().
  std::string completion(size_t row, const std::vector<std::string>& names) const {
    const std::string text = text_of(item("completion", row));
    std::string out =
        "{\"text\":" + dump_json(clipped(text, Samples::kMostCompletionBytes)) + ",\"rewards\":[";
    for (size_t i = 0; i < names.size(); ++i) {
      if (i) out += ',';
      append_number(out, number_of(item(names[i], row)));
    }
    out += "],\"advantage\":";
    append_number(out, advantage(row), 4);
    if (row < lengths_.size()) out += fmt::format(",\"length\":{}", lengths_[row]);
    const std::string reason = text_of(item("finish_reason", row));
    return out + ",\"reason\":" + dump_json(reason) + "}";
  }

 private:
  /// What is neither a text nor one of the columns that every trainer writes, but a number for each
  /// completion or null.
  static bool is_reward(const std::string& name, const std::vector<std::string_view>& items) {
    static const std::set<std::string> others{"step",       "prompt",    "completion",
                                              "advantages", "advantage", "solution",
                                              "num_turns",  "entropy",   "finish_reason"};
    return !others.contains(name) && !items.empty() &&
           std::all_of(items.begin(), items.end(), [](std::string_view item) {
             return item == "null" || item == "NaN" || item[0] == '-' ||
                    (item[0] >= '0' && item[0] <= '9');
           });
  }

  std::string line_;
  std::map<std::string, std::vector<std::string_view>> columns_;
  std::vector<size_t> lengths_;
  std::vector<std::string> rewards_;
};

/// The rows that are shown of [first, first + count): the best, the middle and the worst.
std::vector<size_t> shown_rows(const Round& round, size_t first, size_t count) {
  std::vector<size_t> rows(count);
  for (size_t i = 0; i < count; ++i) rows[i] = first + i;
  // What is no number compares with nothing.
  const auto key = [&](size_t row) {
    const double value = round.advantage(row);
    return std::isnan(value) ? -std::numeric_limits<double>::infinity() : value;
  };
  std::stable_sort(rows.begin(), rows.end(), [&](size_t a, size_t b) { return key(a) > key(b); });
  std::vector<size_t> shown;
  for (const size_t i : spread(count, Samples::kMostCompletions)) shown.push_back(rows[i]);
  return shown;
}

std::string read_line(std::ifstream& file, int64_t offset, int64_t size) {
  std::string line(static_cast<size_t>(size), '\0');
  file.clear();
  file.seekg(offset);
  file.read(line.data(), size);
  line.resize(static_cast<size_t>(file.gcount()));
  return line;
}

}  // namespace

void Samples::add(const std::vector<Member>& line, int64_t step, int64_t offset, int64_t size) {
  ++num_rounds_;
  const auto prompt = std::find_if(line.begin(), line.end(),
                                   [](const Member& member) { return member.name == "prompt"; });
  if (prompt == line.end()) return;
  const auto items = items_of(prompt->value);
  for (size_t first = 0; first < items.size();) {
    size_t end = first + 1;
    while (end < items.size() && items[end] == items[first]) ++end;
    const uint64_t hash = digest_of(items[first]).low;
    if (hash <= greatest_hash_ || prompts_.contains(hash)) {
      prompts_[hash].push_back({.offset = offset,
                                .size = size,
                                .step = step,
                                .first = static_cast<uint32_t>(first),
                                .count = static_cast<uint32_t>(end - first)});
      ++num_places_;
    }
    first = end;
  }
  if (num_places_ > kMostPlaces) forget_some();
}

void Samples::forget_some() {
  std::vector<uint64_t> singles;
  for (const auto& [hash, places] : prompts_)
    if (places.size() == 1) singles.push_back(hash);
  if (singles.size() > kMostPlaces / 8) {
    const auto middle = singles.begin() + static_cast<long>(singles.size() / 2);
    std::nth_element(singles.begin(), middle, singles.end());
    greatest_hash_ = *middle;
    std::erase_if(prompts_, [&](const auto& entry) {
      return entry.second.size() == 1 && entry.first > greatest_hash_;
    });
  } else {
    // All have come often: every second place is enough.
    for (auto& [hash, places] : prompts_) {
      for (size_t i = 0; 2 * i < places.size(); ++i) places[i] = places[2 * i];
      places.resize((places.size() + 1) / 2);
    }
  }
  num_places_ = 0;
  for (const auto& [hash, places] : prompts_) num_places_ += places.size();
}

std::vector<Samples::Prompts::const_iterator> Samples::chosen_prompts() const {
  std::vector<Prompts::const_iterator> all;
  for (auto at = prompts_.begin(); at != prompts_.end(); ++at) all.push_back(at);
  const auto by_step = [](const auto& a, const auto& b) {
    const Place &x = a->second.front(), &y = b->second.front();
    return std::tie(x.offset, x.first) < std::tie(y.offset, y.first);
  };
  const auto by_times = [&](const auto& a, const auto& b) {
    const size_t x = a->second.size(), y = b->second.size();
    return x != y ? x > y : by_step(a, b);
  };
  std::sort(all.begin(), all.end(), by_times);
  const bool has_repeats = !all.empty() && all.front()->second.size() > 1;
  if (has_repeats) {
    all.resize(std::min(all.size(), kMostPrompts));
    return all;
  }
  // Each prompt has come once: those that are shown are spread over the steps.
  std::vector<Prompts::const_iterator> chosen;
  for (const size_t i : spread(all.size(), kMostPrompts)) chosen.push_back(all[i]);
  return chosen;
}

std::string Samples::json(const std::filesystem::path& file) const {
  std::ifstream stream(file, std::ios::binary);
  std::map<int64_t, Round> rounds;
  const auto round_of = [&](const Place& place) -> const Round& {
    const auto found = rounds.find(place.offset);
    if (found != rounds.end()) return found->second;
    return rounds.try_emplace(place.offset, read_line(stream, place.offset, place.size))
        .first->second;
  };
  const auto chosen = chosen_prompts();
  std::vector<std::string> names;
  if (!chosen.empty()) names = round_of(chosen.front()->second.front()).rewards();
  std::string out = fmt::format(R"({{"rewards":{},"rounds":{},"distinct":{},"prompts":[)",
                                dump_json(Json(names)), num_rounds_, prompts_.size());
  for (size_t p = 0; p < chosen.size(); ++p) {
    const std::vector<Place>& places = chosen[p]->second;
    const Place& first = places.front();
    const Round& beginning = round_of(first);
    const std::string prompt = text_of(beginning.item("prompt", first.first));
    const std::string_view solution = beginning.item("solution", first.first);
    if (p) out += ',';
    out += "{\"prompt\":" + dump_json(clipped(prompt, kMostPromptBytes)) +
           ",\"solution\":" + dump_json(clipped(text_of(solution), kMostCompletionBytes)) +
           fmt::format(",\"seen\":{},\"rounds\":[", places.size());
    bool is_next = false;
    for (const size_t i : spread(places.size(), kMostRounds)) {
      const Place& place = places[i];
      const Round& round = round_of(place);
      if (is_next) out += ',';
      is_next = true;
      out += fmt::format("{{\"step\":{},\"count\":{},\"completions\":[", place.step, place.count);
      bool is_next_row = false;
      for (const size_t row : shown_rows(round, place.first, place.count)) {
        if (is_next_row) out += ',';
        is_next_row = true;
        out += round.completion(row, names);
      }
      out += "]}";
    }
    out += "]}";
  }
  return out + "]}";
}

}  // namespace lockstep::report
