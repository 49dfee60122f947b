// SPDX-License-Identifier: Apache-2.0
#include "cli/engine_dump.h"

#include "base/check.h"
#include "base/json.h"

namespace lockstep::cli {

std::optional<EngineDump> read_engine_dump(const std::map<std::string, std::string>& metadata,
                                           const std::string& where) {
  constexpr const char* kCode = "bad-dump";
  const auto engine = metadata.find("engine");
  if (engine == metadata.end()) return {};
  EngineDump dump{.engine = engine->second, .not_comparable = {}};
  const auto list = metadata.find("not_comparable");
  if (list == metadata.end()) return dump;
  const Json json = parse_json(list->second, where, kCode);
  if (!json.is_object())
    fail<FormatError>(kCode, where, "expected an object in not_comparable, got {}", json.dump());
  for (const auto& [name, why] : json.items()) {
    if (!why.is_string())
      fail<FormatError>(kCode, where, "expected a text for {} in not_comparable, got {}", name,
                        why.dump());
    dump.not_comparable[name] = why.get<std::string>();
  }
  return dump;
}

}  // namespace lockstep::cli
