// The program: finds the command, runs it, and turns errors into one line and an exit code.
// SPDX-License-Identifier: Apache-2.0
#include <cstdio>
#include <string>
#include <vector>

#include <fmt/format.h>

#include "base/check.h"
#include "base/heap.h"
#include "base/interrupt.h"
#include "cli/commands.h"
#include "cli/machine.h"
#include "cli/ranks.h"
#include "cli/row_file.h"  // fail_stdout
#include "cli/run_error.h"
#include "cli/suggestion.h"

namespace lockstep::cli {
namespace {

void print(const std::string& text) { std::fwrite(text.data(), 1, text.size(), stdout); }

std::string overview() {
  std::string text =
      "Lockstep trains language models with GRPO: trainer and sampler in one program.\n\n"
      "usage: lockstep COMMAND [config.yaml|config.json] --flag value …\n\ncommands\n";
  for (const Command& command : kCommands)
    text += fmt::format("  {:<10} {}\n", command.name, command.summary);
  return text +
         "\nlockstep COMMAND --help shows the flags of a command; lockstep --version the "
         "version.\n";
}

std::string version() {
  return fmt::format("lockstep {}\nlibtorch {}\ndevices  {}\n", LOCKSTEP_VERSION,
                     libtorch_version(), device_backends());
}

const Command& find_command(const std::string& name) {
  std::vector<std::string> names;
  for (const Command& command : kCommands) {
    if (command.name == name) return command;
    names.emplace_back(command.name);
  }
  const std::string meant = suggest_name(name, names);
  fail<ConfigError>("unknown-command", name, "expected a command, got {} ({})", name,
                    meant.empty() ? "see lockstep --help" : "did you mean " + meant + "?");
}

/// Fails if results did not reach stdout, since they are lost.
void flush_results() {
  if (std::fflush(stdout) != 0 || std::ferror(stdout)) fail_stdout("all results");
}

void run(CommandContext& context, const std::vector<std::string>& arguments) {
  const std::string first = arguments.empty() ? "--help" : arguments[0];
  if (first == "--help" || first == "-h" || first == "help") {
    print(overview());
  } else if (first == "--version" || first == "version") {
    print(version());
  } else {
    const Command& command = find_command(first);
    context.command = command.name;
    command.run(context, std::span(arguments).subspan(1));
  }
  flush_results();
}

int run_guarded(const std::vector<std::string>& arguments) {
  CommandContext context;
  try {
    install_interrupt_handlers();
    run(context, arguments);
    leave_ranks(context);
    return static_cast<int>(ExitCode::kDone);
  } catch (const std::exception& error) {
    const RunError shown = describe_error(error, context.phase.started());
    if (const std::string line = tell_failure(context, shown); !line.empty())
      std::fprintf(stderr, "%s\n", line.c_str());
    if (context.common.log_level == LogLevel::kDebug && !shown.backtrace.empty())
      std::fprintf(stderr, "%s\n", shown.backtrace.c_str());
    return static_cast<int>(shown.exit_code);
  }
}

}  // namespace
}  // namespace lockstep::cli

int main(int argc, char** argv) {
  lockstep::keep_freed_memory();
  return lockstep::cli::run_guarded(
      std::vector<std::string>(argv + (argc > 0 ? 1 : 0), argv + argc));
}
