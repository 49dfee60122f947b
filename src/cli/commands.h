// The commands of the program: one line each.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>
#include <string>
#include <string_view>

#include "cli/command.h"

namespace lockstep::cli {

void run_export(CommandContext& context, std::span<const std::string> arguments);
void run_score(CommandContext& context, std::span<const std::string> arguments);
void run_doctor(CommandContext& context, std::span<const std::string> arguments);
void run_tokenize(CommandContext& context, std::span<const std::string> arguments);

struct Command {
  std::string_view name;
  std::string_view summary;  ///< One sentence, for --help.
  void (*run)(CommandContext& context, std::span<const std::string> arguments);
};

inline constexpr Command kCommands[] = {
    {"score", "Writes the log-probability of every token of every row.", run_score},
    {"export", "Writes a checkpoint anew, untouched or in another precision.", run_export},
    {"tokenize", "Turns text and conversations into ids, and ids into text.", run_tokenize},
    {"doctor", "Shows what this machine offers and tests it for two seconds.", run_doctor},
};

}  // namespace lockstep::cli
