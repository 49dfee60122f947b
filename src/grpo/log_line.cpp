// SPDX-License-Identifier: Apache-2.0
#include "grpo/log_line.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <optional>

#include <fmt/format.h>

#include "base/json.h"
#include "grpo/run_monitor.h"  // phase_doing
#include "text/unicode.h"      // terminal_columns

namespace lockstep::grpo {
namespace {

/// The number of significant digits of a short form.
constexpr int kFewDigits = 2;

std::string digits_text(double value, int digits) {
  // A NaN's sign says nothing.
  if (std::isnan(value)) return "nan";
  if (std::abs(value) < 1e-12) return "0";
  const bool is_whole = std::abs(value) >= std::pow(10, digits) && std::abs(value) < 1e7;
  return is_whole ? fmt::format("{:.0f}", value) : fmt::format("{:.{}g}", value, digits);
}
std::string few_digits(double value) { return digits_text(value, kFewDigits); }

using Forms = std::vector<std::string>;

/// The numbers of a logged object under the prefix of its names.
class Values {
 public:
  explicit Values(const Json& line) : line_(line) {
    for (const auto& [name, value] : line.items()) is_evaluation_ |= name.starts_with("eval_");
  }
  bool is_evaluation() const { return is_evaluation_; }
  std::optional<double> number(const std::string& name) const {
    const auto found = line_.find(is_evaluation_ ? "eval_" + name : name);
    if (found == line_.end() || !found->is_number()) return {};
    return found->get<double>();
  }
  /// The value behind `label`, then with few digits behind `brief`; nothing if there is none.
  Forms field(const char* label, const char* brief, const std::string& name) const {
    const auto value = number(name);
    if (!value) return {};
    return {label + number_text(*value), brief + few_digits(*value)};
  }

 private:
  const Json& line_;
  bool is_evaluation_ = false;
};

Forms reward_field(const Values& values) {
  Forms forms = values.field("reward ", "reward ", "reward");
  if (const auto spread = values.number("reward_std"); spread && !forms.empty()) {
    forms[0] += " ± " + number_text(*spread);
    forms[1] += "±" + few_digits(*spread);
  }
  return forms;
}

Forms clipped_field(const Values& values) {
  const auto share = values.number("completions/clipped_ratio");
  if (!share) return {};
  return {fmt::format("clipped {}%", number_text(100 * *share)),
          fmt::format("clip {}%", few_digits(100 * *share))};
}

Forms rate_field(const Values& values) {
  const auto rate = values.number("tokens_per_second");
  if (!rate) return {};
  return {number_text(*rate) + " tokens/s", number_text(*rate) + " tok/s"};
}

/// The time by phase: "2.1 s a step: sampling 1.2, training 0.7", "2.1 s: sample 1.2 train 0.7",
/// "2.1 s".
Forms time_field(const Values& values) {
  double sum = 0;
  std::string parts, brief;
  for (int i = 0; i < kNumPhases; ++i) {
    const auto phase = static_cast<Phase>(i);
    const auto seconds = values.number(std::string("time/") + phase_name(phase));
    if (!seconds) continue;
    sum += *seconds;
    if (*seconds < 0.0005) continue;
    const bool is_first = parts.empty();
    parts +=
        fmt::format("{}{} {}", is_first ? ": " : ", ", phase_doing(phase), number_text(*seconds));
    brief +=
        fmt::format("{}{} {}", is_first ? ": " : " ", phase_brief(phase), few_digits(*seconds));
  }
  if (sum <= 0) return {};
  return {fmt::format("{} s a step{}", number_text(sum), parts),
          fmt::format("{} s{}", few_digits(sum), brief), fmt::format("{} s", few_digits(sum))};
}

/// The length of the UTF-8 character that begins with `byte`.
size_t character_bytes(unsigned char byte) {
  return byte < 0x80 ? 1 : byte >= 0xF0 ? 4 : byte >= 0xE0 ? 3 : 2;
}

/// The last position at or before `position` where a character begins.
size_t character_start(std::string_view text, size_t position) {
  while (position > 0 && position < text.size() &&
         (static_cast<unsigned char>(text[position]) & 0xC0) == 0x80)
    --position;
  return position;
}

}  // namespace

std::string number_text(double value) { return digits_text(value, 3); }

std::vector<LogField> readable_fields(const Json& line) {
  const Values values(line);
  const std::string step = line.value("global_step/max_steps", "");
  const bool is_sft = !values.number("reward");
  std::vector<LogField> fields;
  const auto add = [&](int importance, Forms forms) {
    if (!forms.empty()) fields.push_back({std::move(forms), importance});
  };
  if (values.is_evaluation())
    add(9, {"evaluation at step " + step, "eval " + step});
  else
    add(9, {"step " + step, "step " + step, step});
  Forms loss = values.field("loss ", "loss ", "loss");
  // That of grpo says little.
  if (!is_sft && !loss.empty()) loss.push_back("");
  add(is_sft ? 8 : 1, std::move(loss));
  add(8, reward_field(values));
  add(7, values.field("length ", "len ", "completions/mean_length"));
  add(6, clipped_field(values));
  add(5, values.field("kl ", "kl ", "kl"));
  add(4, values.field("gradient norm ", "grad ", "grad_norm"));
  if (is_sft) add(3, values.field("learning rate ", "lr ", "learning_rate"));
  add(3, rate_field(values));
  add(2, time_field(values));
  if (const auto runtime = values.number("runtime")) add(2, {number_text(*runtime) + " s"});
  // The progress line says it too.
  if (const auto left = line.find("remaining_time");
      left != line.end() && left->is_string() && *left != "0s")
    add(0, {left->get<std::string>() + " left", ""});
  return fields;
}

std::string fitted_line(const std::vector<LogField>& fields, int width) {
  std::vector<size_t> order(fields.size()), chosen(fields.size(), 0);
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return fields[a].importance < fields[b].importance; });
  std::string gap = "  ", text;
  const auto fits = [&] {
    text.clear();
    for (size_t i = 0; i < fields.size(); ++i) {
      if (chosen[i] == fields[i].forms.size() || fields[i].forms[chosen[i]].empty()) continue;
      text += (text.empty() ? "" : gap) + fields[i].forms[chosen[i]];
    }
    return width <= 0 || text::terminal_columns(text) <= width;
  };
  // Takes the next form of one field after another, as long as the line is too long.
  const auto shorten = [&] {
    for (const size_t i : order)
      if (!fits() && chosen[i] + 1 < fields[i].forms.size()) ++chosen[i];
  };
  shorten();
  if (!fits()) gap = " ";
  shorten();
  for (size_t i = 0; !fits() && i + 1 < order.size(); ++i)
    chosen[order[i]] = fields[order[i]].forms.size();
  return text;
}

std::string shown_text(std::string_view text, std::string_view indent, size_t most) {
  std::string cut;
  if (text.size() > most) {
    const size_t head = character_start(text, most / 2),
                 tail = character_start(text, text.size() - most / 2);
    cut = fmt::format("{} … {} bytes … {}", text.substr(0, head), tail - head, text.substr(tail));
    text = cut;
  }
  std::string shown;
  for (size_t i = 0; i < text.size();) {
    const auto byte = static_cast<unsigned char>(text[i]);
    const size_t length = std::min(character_bytes(byte), text.size() - i);
    // C1 controls are two bytes: 0xC2 and 0x80 to 0x9F.
    const bool is_control =
        (byte < 0x20 && byte != '\t') || byte == 0x7F ||
        (byte == 0xC2 && length == 2 && static_cast<unsigned char>(text[i + 1]) < 0xA0);
    if (byte == '\n')
      shown += fmt::format("\n{}", indent);
    else if (is_control)
      shown +=
          fmt::format("\\x{:02x}", length == 2 ? static_cast<unsigned char>(text[i + 1]) : byte);
    else
      shown += text.substr(i, length);
    i += length;
  }
  return shown;
}

}  // namespace lockstep::grpo
