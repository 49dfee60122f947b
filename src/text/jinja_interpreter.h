// Runs the syntax tree of a template.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "text/jinja_ast.h"
#include "text/jinja_value.h"

namespace lockstep::text::jinja {

/// The text of a template for `variables` (a mapping with names as keys).
///
/// Throws JinjaError with a line. Threads: safe; a tree may be rendered by several at once.
std::string render(const Block& block, const Value& variables);

}  // namespace lockstep::text::jinja
