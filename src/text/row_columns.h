// The columns of a row by name: nested ones with dots, new names, and what to say where one is
// missing.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"

namespace lockstep::text {

/// The value of a column: of the very name, else along its dots ("reward_model.ground_truth",
/// "answers.0"); an object or list on the way may be written as a string of JSON. Null pointer
/// where there is none; `parsed` holds what had to be parsed.
const Json* find_column(const Json& row, std::string_view name, Json& parsed);

/// Gives columns new names ({"old": "new"}), in their order. A nested column is copied out, and
/// what it is part of stays. Throws ConfigError "bad-config" where a row would have a new name
/// twice.
Json renamed_columns(Json row, const Json& columns, std::string_view where);

/// The names of a row's columns; those of objects with a dot for each level.
std::vector<std::string> column_names(const Json& row);

/// "question, answer"; "none" for an empty list.
std::string names_of(const std::vector<std::string>& names);

/// "question, answer (hint: --columns '{"answer": "solution"}' …)": the columns that there are, and
/// how one of them is named `wanted`: the likeliest one if there is one.
std::string columns_and_hint(const std::vector<std::string>& names, std::string_view wanted);

}  // namespace lockstep::text
