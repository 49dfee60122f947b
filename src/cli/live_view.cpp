// SPDX-License-Identifier: Apache-2.0
#include "cli/live_view.h"

#include <algorithm>
#include <cmath>

#include <fmt/format.h>

#include "base/json.h"
#include "text/unicode.h"

namespace lockstep::cli {
namespace {

constexpr const char* kBlocks[] = {"▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"};
constexpr size_t kSparkWidth = 20, kShortSparkWidth = 8;
/// Values of a history that are kept: more than any row shows.
constexpr size_t kMostHistory = 4096;
/// Bytes of a sample that are kept.
constexpr size_t kMostSample = 600;

const double* number_in(const Json& line, const char* name) {
  const auto found = line.find(name);
  return found != line.end() && found->is_number_float() ? found->get_ptr<const double*>()
                                                         : nullptr;
}

/// The columns of a code point at most: what is not Latin, Greek or Cyrillic, box or block may be
/// wide.
int most_columns(char32_t code_point) {
  return code_point < 0x1100 || (code_point >= 0x2010 && code_point < 0x2600) ? 1 : 2;
}

}  // namespace

std::string sparkline(const std::vector<double>& values, size_t width) {
  std::vector<double> shown;
  const size_t count = std::min(values.size(), width);
  for (size_t i = 0; i < count; ++i) {
    const size_t begin = i * values.size() / count, end = (i + 1) * values.size() / count;
    double sum = 0;
    for (size_t k = begin; k < end; ++k) sum += values[k];
    shown.push_back(sum / static_cast<double>(end - begin));
  }
  if (shown.size() < 2) return "";
  const auto [low, high] = std::minmax_element(shown.begin(), shown.end());
  const double least = *low, span = *high - least;
  std::string text;
  for (const double value : shown) {
    const double height = span > 0 ? (value - least) / span : 0;
    text += kBlocks[static_cast<size_t>(std::clamp(std::lround(height * 7), 0L, 7L))];
  }
  return text;
}

std::string one_row(std::string_view text, int width) {
  std::string shown = grpo::shown_text(text, "", kMostSample);
  for (size_t at; (at = shown.find('\n')) != std::string::npos;) shown.replace(at, 1, "⏎");
  std::replace(shown.begin(), shown.end(), '\t', ' ');
  // Cut bytes of a character are no character.
  std::string clean;
  text::append_lossy(shown, /*more_follows=*/false, clean);
  // Where the row ends if a mark must follow, which takes a column.
  size_t cut = 0;
  int columns = 0;
  for (size_t at = 0; at < clean.size();) {
    const text::DecodedChar one = text::decode_char(clean, at);
    columns += most_columns(one.code_point);
    if (columns > width) return width > 0 ? clean.substr(0, cut) + "…" : "";
    at += one.size;
    if (columns < width) cut = at;
  }
  return clean;
}

void LiveView::take_line(const std::string& name, const Json& line) {
  const bool is_reward = line.contains("reward");
  const char* const key = is_reward ? "reward" : "loss";
  const double* const value = number_in(line, key);
  // Evaluations and the summary have neither.
  if (!value) return;
  const std::lock_guard lock(mutex_);
  if (name != name_ || label_ != key) history_.clear();
  name_ = name;
  label_ = key;
  history_.push_back(*value);
  if (history_.size() > kMostHistory)
    history_.erase(history_.begin(), history_.begin() + kMostHistory / 2);
  fields_.clear();
  const auto add = [&](const char* text, const char* brief, const char* metric, int importance) {
    if (const double* const number = number_in(line, metric))
      fields_.push_back({{fmt::format("{} {}", text, grpo::number_text(*number)),
                          fmt::format("{} {:.2g}", brief, *number)},
                         importance});
  };
  std::string spread;
  if (const double* const std = number_in(line, "reward_std"))
    spread = " ± " + grpo::number_text(*std);
  const std::string before = (name.empty() ? "" : name + ": ") + label_,
                    now = grpo::number_text(*value);
  const auto with = [&](size_t width) {
    const std::string curve = sparkline(history_, width);
    return before + " " + (curve.empty() ? "" : curve + " ") + now;
  };
  fields_.push_back({{with(kSparkWidth) + spread, with(kShortSparkWidth), before + " " + now}, 9});
  add("length", "len", "completions/mean_length", 7);
  add("kl", "kl", "kl", 6);
  add("entropy", "ent", "entropy", 5);
  if (!is_reward) add("learning rate", "lr", "learning_rate", 4);
  add("gradient norm", "grad", "grad_norm", 3);
  if (const double* const memory = number_in(line, "memory(GiB)"))
    fields_.push_back(
        {{fmt::format("memory {:.3g} GiB", *memory), fmt::format("{:.2g} GiB", *memory)}, 4});
}

void LiveView::take_sample(const grpo::ShownSample& sample) {
  const std::lock_guard lock(mutex_);
  sample_ = sample;
  // A row shows its beginning.
  sample_.text.resize(std::min(sample_.text.size(), kMostSample));
}

std::vector<std::string> LiveView::rows(int width) const {
  const std::lock_guard lock(mutex_);
  std::vector<std::string> rows;
  if (!fields_.empty()) rows.push_back(one_row(grpo::fitted_line(fields_, width), width));
  if (sample_.tokens > 0)
    rows.push_back(
        one_row(fmt::format("sample  reward {}, {} tokens{}: {}", grpo::number_text(sample_.reward),
                            sample_.tokens, sample_.is_cut ? ", cut" : "", sample_.text),
                width));
  return rows;
}

}  // namespace lockstep::cli
