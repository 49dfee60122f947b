// Reads the short forms in which Slurm names hosts and counts tasks.
// SPDX-License-Identifier: Apache-2.0
#include "parallel/slurm_lists.h"

#include <algorithm>
#include <charconv>
#include <optional>

#include "base/check.h"

namespace lockstep::parallel {
namespace {

/// More than any cluster has; a list that is longer is a mistake, and would fill the memory.
constexpr int64_t kMostHosts = 1'000'000;

bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_name_character(char c) {
  return is_digit(c) || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '-' || c == '.' ||
         c == '_';
}

/// A name with brackets: texts[0] values[0] texts[1] values[1] … texts[n].
struct Pattern {
  std::vector<std::string> texts{""};
  std::vector<std::vector<std::string>> values;
};

/// Reads a list from the left. Not thread-safe.
class Reader {
 public:
  Reader(std::string_view variable, std::string_view list, std::string_view expected)
      : variable_(variable), list_(list), expected_(expected) {}

  bool at_end() const { return at_ == list_.size(); }
  char peek() const { return at_end() ? '\0' : list_[at_]; }
  bool take(char c) {
    if (peek() != c || at_end()) return false;
    ++at_;
    return true;
  }
  void expect(char c) {
    if (!take(c)) refuse();
  }
  std::string_view take_digits() {
    const size_t begin = at_;
    while (is_digit(peek())) ++at_;
    // More digits than 18 do not fit a number.
    if (at_ == begin || at_ - begin > 18) refuse();
    return list_.substr(begin, at_ - begin);
  }
  std::string_view take_name() {
    const size_t begin = at_;
    while (is_name_character(peek())) ++at_;
    return list_.substr(begin, at_ - begin);
  }
  [[noreturn]] void refuse() const {
    lockstep::fail<ConfigError>(
        "bad-launch", variable_, "expected {}, got {} at character {} of {}", expected_,
        at_end() ? std::string("the end") : std::string(1, peek()), at_ + 1, list_.substr(0, 200));
  }
  [[noreturn]] void refuse_length() const {
    lockstep::fail<ConfigError>("bad-launch", variable_,
                                "expected at most {} hosts, got more in {}", kMostHosts,
                                list_.substr(0, 200));
  }

 private:
  std::string_view variable_, list_, expected_;
  size_t at_ = 0;
};

int64_t number_of(std::string_view digits) {
  int64_t value = 0;
  std::from_chars(digits.data(), digits.data() + digits.size(), value);
  return value;
}

/// Reads "01-04,7" up to the bracket's end. A number is at least as wide as the range's first.
std::vector<std::string> read_values(Reader& reader) {
  std::vector<std::string> values;
  do {
    const std::string_view first = reader.take_digits();
    const int64_t low = number_of(first);
    const int64_t high = reader.take('-') ? number_of(reader.take_digits()) : low;
    if (high < low) reader.refuse();
    if (high - low >= kMostHosts - static_cast<int64_t>(values.size())) reader.refuse_length();
    for (int64_t number = low; number <= high; ++number)
      values.push_back(fmt::format("{:0{}}", number, first.size()));
  } while (reader.take(','));
  reader.expect(']');
  return values;
}

Pattern read_pattern(Reader& reader) {
  Pattern pattern;
  pattern.texts.back() = reader.take_name();
  while (reader.take('[')) {
    pattern.values.push_back(read_values(reader));
    pattern.texts.emplace_back(reader.take_name());
  }
  if (pattern.values.empty() && pattern.texts.front().empty()) reader.refuse();
  return pattern;
}

void append_hosts(const Reader& reader, const Pattern& pattern, std::vector<std::string>& hosts) {
  const int64_t room = kMostHosts - static_cast<int64_t>(hosts.size());
  int64_t count = 1;
  // Step by step, since a product of many brackets does not fit a number.
  for (const auto& values : pattern.values)
    count = std::min(room + 1, count * static_cast<int64_t>(values.size()));
  if (count > room) reader.refuse_length();
  const size_t num_brackets = pattern.values.size();
  std::vector<size_t> chosen(num_brackets);
  for (int64_t host = 0; host < count; ++host) {
    auto rest = static_cast<size_t>(host);
    const auto choose = [&](size_t bracket) {
      chosen[bracket] = rest % pattern.values[bracket].size();
      rest /= pattern.values[bracket].size();
    };
    if (num_brackets > 0) choose(num_brackets - 1);
    for (size_t bracket = 0; bracket + 1 < num_brackets; ++bracket) choose(bracket);
    std::string name = pattern.texts[0];
    for (size_t bracket = 0; bracket < num_brackets; ++bracket)
      name += pattern.values[bracket][chosen[bracket]] + pattern.texts[bracket + 1];
    hosts.push_back(std::move(name));
  }
}

}  // namespace

std::vector<std::string> expand_node_list(std::string_view variable, std::string_view list) {
  Reader reader(variable, list, "a list of hosts such as n[01-04,7],gpu1");
  std::vector<std::string> hosts;
  do append_hosts(reader, read_pattern(reader), hosts);
  while (reader.take(','));
  if (!reader.at_end()) reader.refuse();
  return hosts;
}

std::vector<int64_t> expand_task_counts(std::string_view variable, std::string_view list) {
  Reader reader(variable, list, "counts of tasks such as 2(x3),1");
  std::vector<int64_t> counts;
  do {
    const int64_t tasks = number_of(reader.take_digits());
    int64_t times = 1;
    if (reader.take('(')) {
      reader.expect('x');
      times = number_of(reader.take_digits());
      reader.expect(')');
    }
    if (times > kMostHosts - static_cast<int64_t>(counts.size())) reader.refuse_length();
    counts.insert(counts.end(), static_cast<size_t>(times), tasks);
  } while (reader.take(','));
  if (!reader.at_end()) reader.refuse();
  return counts;
}

}  // namespace lockstep::parallel
