// The reward "toolbench": 1 for the tool call of the column `solution`, as ReAct writes calls.
// SPDX-License-Identifier: Apache-2.0
#include <nlohmann/json.hpp>

#include "base/check.h"
#include "base/json.h"
#include "reward/builtin_rewards.h"
#include "reward/rouge_l.h"
#include "text/jinja/string.h"

namespace lockstep::reward {
namespace {

using text::jinja::strip;

struct Call {
  std::string_view action, input;
};

/// What stands behind the last "Action:" and behind the last "Action Input:".
Call call_in(std::string_view text) {
  constexpr std::string_view kAction = "Action:", kInput = "Action Input:";
  Call call{"none", "{}"};
  if (const size_t at = text.rfind(kInput); at != text.npos)
    call.input = strip(text.substr(at + kInput.size()));
  if (const size_t at = text.rfind(kAction); at != text.npos) {
    const std::string_view rest = text.substr(at + kAction.size());
    call.action = strip(rest.substr(0, rest.find(kInput)));
  }
  return call;
}

/// The value of a JSON text; unset for any other text.
std::optional<Json> json_of(std::string_view text) {
  try {
    return parse_json(text, "Action Input", "bad-json", {.keep_digits = true});
  } catch (const FormatError&) {
    return std::nullopt;
  }
}

/// A number, or a boolean as Python counts it; unset for digits that no double holds.
std::optional<long double> number_of(const Json& value) {
  if (value.is_boolean()) return value.get<bool>() ? 1 : 0;
  if (value.is_number_unsigned()) return static_cast<long double>(value.get<uint64_t>());
  if (value.is_number_integer()) return static_cast<long double>(value.get<int64_t>());
  if (value.is_number()) return value.get<double>();
  return std::nullopt;
}

/// Python's ==.
bool equals(const Json& a, const Json& b) {
  const auto x = number_of(a), y = number_of(b);
  if (x || y) return x && y && *x == *y;
  if (a.type() != b.type()) return false;
  if (!a.is_structured()) return a == b;
  if (a.size() != b.size()) return false;
  if (a.is_array())
    return std::equal(a.begin(), a.end(), b.begin(),
                      [](const Json& one, const Json& other) { return equals(one, other); });
  for (const auto& [key, value] : a.items()) {
    const auto found = b.find(key);
    if (found == b.end() || !equals(value, *found)) return false;
  }
  return true;
}

/// ms-swift's F1 of keys, of which 1 alone counts, is 1 for equal objects; its share for a text
/// alike counts from 0.2.
bool same_input(std::string_view wanted, std::string_view given) {
  const std::optional<Json> a = json_of(wanted), b = json_of(given);
  if (a.has_value() != b.has_value()) return false;
  if (a) return a->is_object() && b->is_object() && equals(*a, *b);
  constexpr double kLeastAlike = 0.2;
  return rouge_l(wanted, given).value_or(0) >= kLeastAlike;
}

class ReactCall final : public CompletionReward {
 public:
  using CompletionReward::CompletionReward;
  std::string_view needed_column() const override { return "solution"; }
  void check(const Json& columns, std::string_view where) const override {
    solution_of(&columns, where);
  }

  std::optional<double> score_one(const RewardInput& input) const override {
    constexpr std::string_view kObservation = "Observation:";
    std::string_view shown = input.completion;
    if (shown.ends_with(kObservation)) shown = shown.substr(0, shown.find(kObservation));
    std::string given(strip(shown));
    for (const char* end : {"<|endoftext|>", "<|im_end|>"})
      given = text::jinja::replace(given, end, "", -1);
    const Call call = call_in(strip(given)),
               wanted = call_in(solution_of(input.columns, input.where));
    return call.action == wanted.action && same_input(wanted.input, call.input) ? 1.0 : 0.0;
  }

 private:
  const std::string& solution_of(const Json* columns, std::string_view where) const {
    const Json* const found = columns && columns->is_object() && columns->contains("solution")
                                  ? &columns->at("solution")
                                  : nullptr;
    if (!found || !found->is_string())
      fail<FormatError>("bad-row", where,
                        "expected text in the column solution for the reward {}, got {}", name(),
                        found ? found->type_name() : "none");
    return found->get_ref<const std::string&>();
  }
};

}  // namespace

std::unique_ptr<RewardFunction> Toolbench::make(const RewardContext&) const {
  return std::make_unique<ReactCall>(kName);
}

}  // namespace lockstep::reward
