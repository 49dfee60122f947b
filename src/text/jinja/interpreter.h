// Runs the syntax tree of a template.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>
#include <string>

#include "text/jinja/ast.h"
#include "text/jinja/output.h"
#include "text/jinja/value.h"

namespace lockstep::text::jinja {

struct Rendering {
  std::string text;
  Parts parts;
};

/// The text of a template for `variables` (a mapping with names as keys), and which of it was
/// written while a loop stood at an element of `watched`: mappings that are part of `variables`.
///
/// Throws JinjaError with a line. Threads: safe; a tree may be rendered by several at once.
Rendering render(const Template& source,
                 const Value& variables,
                 std::span<const Value> watched = {});

}  // namespace lockstep::text::jinja
