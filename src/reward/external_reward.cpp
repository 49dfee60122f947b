// SPDX-License-Identifier: Apache-2.0
#include "reward/external_reward.h"

#include <algorithm>
#include <cctype>
#include <filesystem>

#include "base/check.h"
#include "base/interrupt.h"

namespace lockstep::reward {
namespace {

bool is_name_char(char c) {
  return std::isalnum(static_cast<unsigned char>(c)) || c == '_' || c == '-' || c == '.';
}

/// Takes "NAME=" off the front of a text, if it is there.
std::string take_name(std::string_view& text) {
  const size_t end = text.find('=');
  if (end == text.npos || end == 0) return "";
  const std::string_view name = text.substr(0, end);
  if (!std::all_of(name.begin(), name.end(), is_name_char)) return "";
  text.remove_prefix(end + 1);
  return std::string(name);
}

/// The file of the first word of a command that is no interpreter, without its ending:
/// "brevity" of "python3 rewards/brevity.py --limit 3".
std::string name_of_command(const std::string& command) {
  std::string name;
  for (size_t begin = 0; begin < command.size();) {
    size_t end = std::min(command.find(' ', begin), command.size());
    const std::string word = std::filesystem::path(command.substr(begin, end - begin)).stem();
    if (!word.empty() && std::all_of(word.begin(), word.end(), is_name_char)) {
      if (name.empty()) name = word;
      const bool is_interpreter = word.starts_with("python") || word == "sh" || word == "bash" ||
                                  word == "env" || word == "node" || word == "perl" ||
                                  word == "ruby" || word.starts_with("-");
      if (!is_interpreter) return word;
    }
    begin = end + 1;
  }
  return name.empty() ? "program" : name;
}

std::string name_of_url(std::string_view url) {
  while (url.ends_with('/')) url.remove_suffix(1);
  std::string_view rest = url.substr(url.find("://") + 3);
  const size_t slash = rest.rfind('/');
  if (slash != rest.npos) rest.remove_prefix(slash + 1);
  std::string name(rest);
  std::replace_if(
      name.begin(), name.end(), [](char c) { return !is_name_char(c); }, '_');
  return name;
}

}  // namespace

std::optional<ExternalSpec> external_spec(std::string_view text, std::string_view flag) {
  constexpr std::string_view kProgram = "program:";
  std::string_view rest = text;
  ExternalSpec spec{.name = take_name(rest)};
  spec.target = std::string(rest);
  if (rest.starts_with(kProgram)) {
    spec.target = std::string(rest.substr(kProgram.size()));
    if (std::all_of(spec.target.begin(), spec.target.end(), [](char c) { return c == ' '; }))
      fail<ConfigError>("bad-flag", flag, "expected a command behind program:, got none");
    if (spec.name.empty()) spec.name = name_of_command(spec.target);
    return spec;
  }
  if (rest.starts_with("http://") || rest.starts_with("https://")) {
    spec.kind = ExternalSpec::Kind::kUrl;
    if (spec.name.empty()) spec.name = name_of_url(rest);
    return spec;
  }
  return std::nullopt;
}

FailureWords ExternalReward::failure_words(const std::string& name) {
  return {.code = "reward-failed",
          .where = "reward " + name,
          .what = "the reward " + name,
          .consequence = "the completion goes without its value",
          .counted = fmt::format("further failures are counted in rewards/{}/failures", name),
          .things = "completions that it fails at",
          .flag = "--reward_max_failures"};
}

bool is_interrupted() {
  try {
    throw_if_interrupted();
  } catch (const InterruptedError&) {
    return true;
  }
  return false;
}

}  // namespace lockstep::reward
