// The flags of a command: looking names up, the order of values, --help and args.json.
// SPDX-License-Identifier: Apache-2.0
#include "cli/flags.h"

#include <algorithm>
#include <unordered_set>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "base/check.h"
#include "base/json.h"
#include "cli/config_file.h"
#include "cli/flag_classes.h"
#include "cli/flag_field.h"
#include "cli/suggestion.h"

namespace lockstep::cli {
namespace {

/// A value as people type it: text without quotes, lists with spaces.
std::string plain_text(const Json& value) {
  if (value.is_null()) return "unset";
  if (value.is_string())
    return value.get<std::string>().empty() ? "unset" : value.get<std::string>();
  if (!value.is_array()) return dump_json(value);
  std::vector<std::string> parts;
  for (const Json& element : value) parts.push_back(plain_text(element));
  return parts.empty() ? "none" : fmt::format("{}", fmt::join(parts, " "));
}

std::string underscored(std::string name) {
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
}

}  // namespace

std::vector<Assignment> split_arguments(std::span<const std::string> arguments) {
  std::vector<Assignment> assignments;
  for (const std::string& argument : arguments) {
    if (argument.starts_with("--") && argument.size() > 2) {
      const size_t equals = argument.find('=');
      Assignment assignment;
      assignment.name = argument.substr(2, equals == std::string::npos ? equals : equals - 2);
      assignment.where = "--" + assignment.name;
      if (equals != std::string::npos) assignment.values.push_back(argument.substr(equals + 1));
      assignments.push_back(std::move(assignment));
    } else if (assignments.empty()) {
      fail<ConfigError>(
          "unexpected-argument", argument,
          "expected --flag value (a configuration file ends in .yaml or .json and comes first)");
    } else {
      assignments.back().values.push_back(argument);
    }
  }
  return assignments;
}

FlagSet::FlagSet(std::string command, std::string summary)
    : command_(std::move(command)), summary_(std::move(summary)) {}
FlagSet::~FlagSet() = default;

void FlagSet::check_unique() const {
  std::unordered_set<std::string_view> names;
  for (const auto& field : fields_)
    LOCKSTEP_CHECK(names.insert(field->name()).second, "the flag {} is registered twice",
                   field->name());
}

FlagField* FlagSet::find(std::string_view name) const {
  for (const auto& field : fields_)
    if (field->name() == name) return field.get();
  return nullptr;
}

void FlagSet::require(std::string_view name, std::string_view other) {
  for (const std::string_view one : {name, other})
    LOCKSTEP_CHECK(one.empty() || has(one), "the required flag {} is not registered", one);
  required_.emplace_back(name, other);
}

std::string FlagSet::where_of(std::string_view name) const {
  const FlagField* const field = find(name);
  LOCKSTEP_CHECK(field, "the flag {} is not registered", name);
  return field->where();
}

void FlagSet::fail_unknown(const Assignment& assignment) const {
  std::vector<std::string> names;
  for (const auto& field : fields_) names.push_back(field->name());
  if (classes_)
    for (const std::span<const FlagRule> table : classes_->tables)
      for (const FlagRule& rule : table)
        if (rule.name.find('*') == std::string_view::npos) names.emplace_back(rule.name);
  std::string hint = fmt::format("see lockstep {} --help", command_);
  const std::string joined = underscored(assignment.name);
  const FlagRule* const elsewhere = find_rule(grpo_flag_classes(), joined);
  if (elsewhere && elsewhere->name == joined && same_meaning(joined, names).empty())
    hint = "lockstep grpo has it";
  else if (const std::string meant = suggest_name(assignment.name, names); !meant.empty())
    hint = fmt::format("did you mean --{}?", meant);
  fail<ConfigError>("unknown-flag", assignment.where, "expected a flag of lockstep {}, got {} ({})",
                    command_, assignment.name, hint);
}

void FlagSet::join_words(Assignment& assignment) const {
  std::string name = underscored(assignment.name);
  if (has(name) || (classes_ && find_rule(*classes_, name))) assignment.name = std::move(name);
}

void FlagSet::assign(const Assignment& assignment) {
  FlagField* const field = find(assignment.name);
  if (!field) fail_unknown(assignment);
  field->assign(assignment);
}

ParseResult FlagSet::parse(std::span<const std::string> arguments) {
  ParseResult result;
  for (const std::string& argument : arguments)
    if (argument == "--help" || argument == "-h") result.help = true;
  if (result.help) return result;

  std::vector<Assignment> assignments;
  if (!arguments.empty() && is_config_name(arguments[0])) {
    result.inputs.push_back({"the configuration", arguments[0]});
    assignments = read_config_file(arguments[0], result.notices);
    arguments = arguments.subspan(1);
  }
  std::vector<Assignment> typed = split_arguments(arguments);
  for (Assignment& assignment : typed) join_words(assignment);
  assignments.insert(assignments.end(), std::make_move_iterator(typed.begin()),
                     std::make_move_iterator(typed.end()));
  if (classes_) {
    ClassNotes notes;
    assignments = apply_flag_classes(
        *classes_, [this](std::string_view name) { return has(name); }, assignments, notes);
    result.notices.insert(result.notices.end(), notes.notices.begin(), notes.notices.end());
    result.accepted = std::move(notes.accepted);
    result.inputs.insert(result.inputs.end(), notes.inputs.begin(), notes.inputs.end());
  }
  for (const Assignment& assignment : assignments) assign(assignment);
  for (const auto& [name, other] : required_)
    if (find(name)->where().empty() && (other.empty() || find(other)->where().empty()))
      fail<ConfigError>(
          "missing-flag", "--" + name, "expected {}, got nothing (lockstep {} needs --{}{})",
          find(name)->expectation(), command_, name, other.empty() ? "" : " or --" + other);
  return result;
}

std::string FlagSet::help() const {
  std::string text = fmt::format(
      "{}\n\nusage: lockstep {} [config.yaml|config.json] --flag value …\n", summary_, command_);
  std::string group;
  for (const auto& field : fields_) {
    if (field->group() != group) text += fmt::format("\n{}\n", group = field->group());
    const auto required = std::find_if(required_.begin(), required_.end(), [&](const auto& names) {
      return names.first == field->name();
    });
    std::string facts = "default " + plain_text(field->default_value());
    if (required != required_.end())
      facts = required->second.empty() ? "required" : "required unless --" + required->second;
    if (!field->limits().empty() && field->limits() != field->placeholder())
      facts += ", " + field->limits();
    const std::string flag = fmt::format("--{} {}", field->name(), field->placeholder());
    text += fmt::format("  {:<34}  {} [{}]\n", flag, field->help(), facts);
  }
  return text;
}

Json FlagSet::to_json() const {
  Json result = Json::object();
  for (const auto& field : fields_) result[field->name()] = field->get();
  return result;
}

std::vector<std::pair<std::string, OnResume>> FlagSet::resume_rules() const {
  std::vector<std::pair<std::string, OnResume>> rules;
  for (const auto& field : fields_) rules.emplace_back(field->name(), field->on_resume());
  return rules;
}

std::string FlagSet::changed() const {
  std::string text;
  for (const auto& field : fields_)
    if (field->get() != field->default_value())
      text +=
          fmt::format("{}{}={}", text.empty() ? "" : " ", field->name(), plain_text(field->get()));
  return text;
}

}  // namespace lockstep::cli
