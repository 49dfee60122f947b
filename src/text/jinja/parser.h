// From a template's source to its syntax tree.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string_view>

#include "text/jinja/ast.h"

namespace lockstep::text::jinja {

/// Parses a whole template. Known statements: if, for, set, macro, with, filter, generation, break,
/// continue. Throws JinjaError "bad-template" with the line.
Template parse_template(std::string_view source);

}  // namespace lockstep::text::jinja
