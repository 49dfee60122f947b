// SPDX-License-Identifier: Apache-2.0
#include "grpo/log_line.h"

#include <cmath>

#include <fmt/format.h>

#include "base/json.h"
#include "grpo/run_monitor.h"  // phase_doing

namespace lockstep::grpo {
namespace {

/// The numbers of a logged object under the prefix of its names.
class Values {
 public:
  explicit Values(const Json& line) : line_(line) {
    for (const auto& [name, value] : line.items()) is_evaluation_ |= name.starts_with("eval_");
  }
  bool is_evaluation() const { return is_evaluation_; }
  /// The value formatted by `format`; "" if there is none.
  std::string field(const char* label, const std::string& name, const char* unit = "") const {
    const Json* value = find(name);
    return value ? fmt::format("{}{}{}", label, number_text(value->get<double>()), unit) : "";
  }
  const Json* find(const std::string& name) const {
    const auto found = line_.find(is_evaluation_ ? "eval_" + name : name);
    return found == line_.end() || !found->is_number() ? nullptr : &*found;
  }

 private:
  const Json& line_;
  bool is_evaluation_ = false;
};

std::string reward_field(const Values& values) {
  const std::string mean = values.field("reward ", "reward");
  return mean.empty() ? "" : mean + values.field(" ± ", "reward_std");
}

std::string clipped_field(const Values& values) {
  const Json* ratio = values.find("completions/clipped_ratio");
  return ratio ? fmt::format("clipped {}%", number_text(100 * ratio->get<double>())) : "";
}

/// The time by phase: "2.1 s a step: sampling 1.2, training 0.7".
std::string time_field(const Values& values) {
  double sum = 0;
  std::string parts;
  for (int i = 0; i < kNumPhases; ++i) {
    const auto phase = static_cast<Phase>(i);
    const Json* value = values.find(std::string("time/") + phase_name(phase));
    if (!value) continue;
    sum += value->get<double>();
    const std::string text = number_text(value->get<double>());
    if (value->get<double>() >= 0.0005)
      parts += fmt::format("{}{} {}", parts.empty() ? ": " : ", ", phase_doing(phase), text);
  }
  return sum > 0 ? fmt::format("{} s a step{}", number_text(sum), parts) : "";
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

std::string number_text(double value) {
  // A NaN's sign says nothing.
  if (std::isnan(value)) return "nan";
  if (std::abs(value) < 1e-12) return "0";
  const bool is_whole = std::abs(value) >= 1000 && std::abs(value) < 1e7;
  return is_whole ? fmt::format("{:.0f}", value) : fmt::format("{:.3g}", value);
}

std::vector<std::string> readable_fields(const Json& line) {
  const Values values(line);
  const std::string step = line.value("global_step/max_steps", "");
  const bool is_sft = !values.find("reward");
  std::vector<std::string> fields;
  const auto add = [&](std::string field) {
    if (!field.empty()) fields.push_back(std::move(field));
  };
  add((values.is_evaluation() ? "evaluation at step " : "step ") + step);
  add(values.field("loss ", "loss"));
  add(reward_field(values));
  add(values.field("length ", "completions/mean_length"));
  add(clipped_field(values));
  add(values.field("kl ", "kl"));
  add(values.field("gradient norm ", "grad_norm"));
  if (is_sft) add(values.field("learning rate ", "learning_rate"));
  add(values.field("", "tokens_per_second", " tokens/s"));
  add(time_field(values));
  add(values.field("", "runtime", " s"));
  if (const auto left = line.find("remaining_time");
      left != line.end() && left->is_string() && *left != "0s")
    add(left->get<std::string>() + " left");
  return fields;
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
