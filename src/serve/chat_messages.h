// The messages and tools of a chat request: checked, and as chat templates want them.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <string_view>

#include "base/json.h"

namespace lockstep::serve {

/// Messages with roles system, user, assistant and tool. "developer" is system, parts of text are
/// joined, `reasoning` is `reasoning_content` too, and members that are null are left out.
///
/// Throws RequestError 400 at "messages[0].content" and the like for what is no message of OpenAI's
/// API, and by name for images, sound, video and files.
Json checked_messages(const Json& messages);

/// Throws RequestError 400 at "tools[0]…" for what is no list of functions.
void check_tools(const Json& tools);

/// Whether `tools` has a function of this name.
bool has_tool(const Json& tools, std::string_view name);

}  // namespace lockstep::serve
