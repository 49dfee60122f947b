// Schemas of functions, as OpenAI's API and chat templates have them.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "base/json.h"

namespace lockstep::agent {

/// The function in {"type": "function", "function": {…}}, or the object itself where it is one
/// without this cover; null where it names none.
const Json* function_in(const Json& tool);
/// The name of the function; "" where there is none.
std::string name_in(const Json& tool);
/// The list with each function under its cover: what reads calls looks there.
Json covered(const Json& tools);
/// The schemas of a file: a list of functions, covered. Throws ConfigError "bad-tool" naming the
/// file, and IoError.
Json read_tool_schemas(const std::string& path);

/// What is wrong with the arguments of a call, in the words that Python has for a call of a
/// function; nothing where all that are required are there, and none that it does not have.
std::optional<std::string> wrong_arguments(const Json& tool, const Json& arguments);

}  // namespace lockstep::agent
