// The list of the program's commands.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>
#include <string>
#include <string_view>

#include "cli/command.h"

namespace lockstep::cli {

void run_grpo(CommandContext& context, std::span<const std::string> arguments);
void run_sft(CommandContext& context, std::span<const std::string> arguments);
void run_infer(CommandContext& context, std::span<const std::string> arguments);
void run_rollout(CommandContext& context, std::span<const std::string> arguments);
void run_new_model(CommandContext& context, std::span<const std::string> arguments);
void run_grad(CommandContext& context, std::span<const std::string> arguments);
void run_export(CommandContext& context, std::span<const std::string> arguments);
void run_score(CommandContext& context, std::span<const std::string> arguments);
void run_plan(CommandContext& context, std::span<const std::string> arguments);
void run_doctor(CommandContext& context, std::span<const std::string> arguments);
void run_layout(CommandContext& context, std::span<const std::string> arguments);
void run_reward(CommandContext& context, std::span<const std::string> arguments);
void run_report(CommandContext& context, std::span<const std::string> arguments);
void run_tokenize(CommandContext& context, std::span<const std::string> arguments);

struct Command {
  std::string_view name;
  /// One sentence for --help.
  std::string_view summary;
  void (*run)(CommandContext& context, std::span<const std::string> arguments);
};

inline constexpr Command kCommands[] = {
    {"grpo", "Trains a model by group relative policy optimisation.", run_grpo},
    {"sft", "Trains a model on the assistant's turns of conversations.", run_sft},
    {"infer", "Completes the rows of a file, or chats in the terminal.", run_infer},
    {"rollout", "Serves a model over HTTP to OpenAI's clients and to trainers.", run_rollout},
    {"score", "Writes the log-probability of every token of every row.", run_score},
    {"reward", "Says what rewards give to recorded completions.", run_reward},
    {"report", "Draws runs as a page: curves, completions, settings.", run_report},
    {"export", "Writes a checkpoint anew, untouched or in another precision.", run_export},
    {"grad", "Computes one step's loss and gradients on a recorded batch.", run_grad},
    {"layout", "Shows, plans, converts and verifies weight layouts.", run_layout},
    {"new-model", "Makes a random model with tokenizer and chat template.", run_new_model},
    {"tokenize", "Turns text and conversations into ids, and ids into text.", run_tokenize},
    {"plan", "Says what each of many ranks would have in memory and receive.", run_plan},
    {"doctor", "Shows what this machine offers and tests it for two seconds.", run_doctor},
};

}  // namespace lockstep::cli
