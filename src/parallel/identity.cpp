// Compares what the ranks of a run are.
// SPDX-License-Identifier: Apache-2.0
#include "parallel/identity.h"

#include <algorithm>
#include <map>
#include <set>
#include <unistd.h>

#include <fmt/ranges.h>

#include "base/check.h"
#include "base/digest.h"
#include "base/json.h"
#include "base/log.h"

namespace lockstep::parallel {
namespace {

constexpr const char* kNothing = "nothing";

/// A text shortened for a message, not within a character of UTF-8.
std::string brief(const std::string& text) {
  constexpr size_t kLongest = 100;
  if (text.size() <= kLongest) return text;
  size_t end = kLongest;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xc0) == 0x80) --end;
  return text.substr(0, end) + "…";
}

/// The ranks that have a value: "ranks 0, 1 and 3 (n01, process 71)", the place that of the first.
std::string ranks_text(std::span<const Identity> identities, const std::vector<size_t>& ranks) {
  constexpr size_t kMostNamed = 8;
  std::string text = ranks.size() == 1 ? "rank " : "ranks ";
  const size_t named = std::min(kMostNamed, ranks.size());
  for (size_t i = 0; i < named; ++i) {
    if (i > 0) text += i + 1 == ranks.size() ? " and " : ", ";
    text += std::to_string(ranks[i]);
  }
  if (ranks.size() > named) text += fmt::format(" and {} more", ranks.size() - named);
  const Identity& first = identities[ranks.front()];
  return text + fmt::format(" ({}, process {})", first.host, first.process);
}

/// Who has which value of one name, the most frequent first, of equal ones that of the lowest rank.
std::string values_text(std::span<const Identity> identities,
                        const std::vector<std::string>& values) {
  std::map<std::string, std::vector<size_t>> ranks_of;
  for (size_t rank = 0; rank < values.size(); ++rank) ranks_of[values[rank]].push_back(rank);
  std::vector<std::pair<std::string, std::vector<size_t>>> groups(ranks_of.begin(), ranks_of.end());
  std::sort(groups.begin(), groups.end(), [](const auto& a, const auto& b) {
    if (a.second.size() != b.second.size()) return a.second.size() > b.second.size();
    return a.second.front() < b.second.front();
  });
  constexpr size_t kMostValues = 6;
  std::vector<std::string> texts;
  for (const auto& [value, ranks] : groups) {
    if (texts.size() == kMostValues) {
      texts.push_back(fmt::format("{} other values", groups.size() - kMostValues));
      break;
    }
    texts.push_back(fmt::format("{} on {}", brief(value), ranks_text(identities, ranks)));
  }
  return fmt::format("{}", fmt::join(texts, "; "));
}

const IdentityPart* part_of(const Identity& identity, const std::string& name) {
  for (const IdentityPart& part : identity.parts)
    if (part.name == name) return &part;
  return nullptr;
}

std::string value_of(const IdentityPart* part, const std::string& name) {
  if (part)
    for (const auto& [own, value] : part->values)
      if (own == name) return value;
  return kNothing;
}

/// The names of all ranks, in the order in which they are met.
template <class NamesOf>
std::vector<std::string> names_in_order(std::span<const Identity> identities, NamesOf&& names_of) {
  std::vector<std::string> names;
  std::set<std::string> known;
  for (const Identity& identity : identities)
    for (std::string& name : names_of(identity))
      if (known.insert(name).second) names.push_back(std::move(name));
  return names;
}

bool is_utf8(const std::string& text) {
  try {
    static_cast<void>(Json(text).dump());
    return true;
  } catch (const Json::exception&) {
    return false;
  }
}

/// The value as one line of UTF-8. File names need not be that; those that are not stay apart from
/// one another.
std::string printable(const std::string& value) {
  const bool keeps_high = is_utf8(value);
  std::string text;
  for (const char c : value) {
    const auto byte = static_cast<unsigned char>(c);
    text += byte < 0x20 || (byte >= 0x80 && !keeps_high) ? fmt::format("\\x{:02x}", byte)
                                                         : std::string(1, c);
  }
  return text;
}

Json json_of(const IdentityPart& part) {
  Json values = Json::array();
  for (const auto& [name, value] : part.values)
    values.push_back({printable(name), printable(value)});
  return {{"name", part.name}, {"values", values}, {"is_rounding", part.is_rounding}};
}

IdentityPart part_of_json(const Json& json) {
  IdentityPart part{.name = json.at("name").get<std::string>(),
                    .values = {},
                    .is_rounding = json.at("is_rounding").get<bool>()};
  for (const Json& value : json.at("values"))
    part.values.emplace_back(value.at(0).get<std::string>(), value.at(1).get<std::string>());
  return part;
}

std::string text_of(const Identity& identity) {
  Json parts = Json::array();
  for (const IdentityPart& part : identity.parts) parts.push_back(json_of(part));
  return dump_json(
      {{"host", printable(identity.host)}, {"process", identity.process}, {"parts", parts}});
}

Identity identity_of(const std::string& text) {
  const Json json = parse_json(text, "another rank");
  Identity identity{.host = json.at("host").get<std::string>(),
                    .process = json.at("process").get<int64_t>(),
                    .parts = {}};
  for (const Json& part : json.at("parts")) identity.parts.push_back(part_of_json(part));
  return identity;
}

std::vector<Identity> gather_identities(Group& group, const Identity& own, const char* name) {
  std::vector<Identity> all;
  for (const std::string& text : group.gather(text_of(own), {name}))
    all.push_back(identity_of(text));
  return all;
}

}  // namespace

Identity this_process() {
  char host[256] = {};
  if (gethostname(host, sizeof(host) - 1) != 0) host[0] = '\0';
  return {.host = host[0] ? host : "unknown host", .process = getpid(), .parts = {}};
}

std::vector<IdentityDifference> compare_identities(std::span<const Identity> ranks) {
  std::vector<IdentityDifference> differences;
  const auto part_names = names_in_order(ranks, [](const Identity& identity) {
    std::vector<std::string> names;
    for (const IdentityPart& part : identity.parts) names.push_back(part.name);
    return names;
  });
  for (const std::string& part_name : part_names) {
    const auto names = names_in_order(ranks, [&](const Identity& identity) {
      std::vector<std::string> own;
      if (const IdentityPart* const part = part_of(identity, part_name))
        for (const auto& [name, value] : part->values) own.push_back(name);
      return own;
    });
    for (const std::string& name : names) {
      std::vector<std::string> values;
      bool is_rounding = true;
      for (const Identity& identity : ranks) {
        const IdentityPart* const part = part_of(identity, part_name);
        values.push_back(value_of(part, name));
        // A rank that does not know the part is another program.
        is_rounding = is_rounding && part && part->is_rounding;
      }
      if (std::adjacent_find(values.begin(), values.end(), std::not_equal_to<>()) != values.end())
        differences.push_back({.name = name.empty() ? part_name : name,
                               .values = values_text(ranks, values),
                               .is_rounding = is_rounding});
    }
  }
  return differences;
}

void check_identity(Group& group, const Identity& own, bool exact) {
  Identity brief_own = own;
  for (IdentityPart& part : brief_own.parts)
    part.values = {{"", digest_of(dump_json(json_of(part).at("values"))).hex()}};
  const std::vector<Identity> brief_all = gather_identities(group, brief_own, "identities");
  std::set<std::string> differing;
  for (const IdentityDifference& difference : compare_identities(brief_all))
    differing.insert(difference.name);
  if (differing.empty()) return;
  // All ranks have compared the same texts, so all of them come here.
  Identity told = own;
  std::erase_if(told.parts, [&](const auto& part) { return !differing.count(part.name); });
  std::vector<std::string> errors, warnings;
  for (const IdentityDifference& difference :
       compare_identities(gather_identities(group, told, "what differs")))
    (difference.is_rounding && !exact ? warnings : errors)
        .push_back(fmt::format("{}: {}", difference.name, difference.values));
  constexpr size_t kMostTold = 5;
  const auto joined = [&](const std::vector<std::string>& texts) {
    return fmt::format(
        "{}{}", fmt::join(std::span(texts).first(std::min(kMostTold, texts.size())), " | "),
        texts.size() > kMostTold ? fmt::format(" | and {} more", texts.size() - kMostTold) : "");
  };
  if (!warnings.empty() && group.is_first())
    log_warning("the ranks differ, so their sums are not those of one process bit for bit: {}",
                joined(warnings));
  if (!errors.empty())
    fail<ConfigError>("rank-differs", "",
                      "expected all ranks to be the same program with the same flags and files, "
                      "got {}",
                      joined(errors));
}

}  // namespace lockstep::parallel
