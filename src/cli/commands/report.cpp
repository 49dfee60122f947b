// lockstep report: the page of runs that have been made or are on their way.
// SPDX-License-Identifier: Apache-2.0
#include "report/report.h"

#include <filesystem>

#include "base/check.h"
#include "base/file.h"
#include "base/log.h"
#include "cli/commands.h"

namespace lockstep::cli {
namespace {

namespace fs = std::filesystem;

struct ReportOptions {
  std::string output;
  bool overwrite = false;

  template <class Visitor>
  void for_each_field(Visitor&& visit) {
    visit(
        "output", output,
        "The file to write; unset: report.html in the run's folder, of several runs in this one.");
    visit("overwrite", overwrite, "Replaces an existing file that --output names.");
  }
};

/// Where the page goes. A run's own report.html may be replaced: it is made from its logs again and
/// again.
fs::path output_of(const ReportOptions& options,
                   std::span<const std::string> paths,
                   std::span<const report::RunReader> runs,
                   std::span<const InputPath> inputs) {
  const bool is_own = options.output.empty() && paths.size() == 1;
  const fs::path output = !options.output.empty() ? fs::path(options.output)
                          : is_own                ? runs[0].directory() / report::kReportFile
                                                  : fs::path(report::kReportFile);
  check_output_apart(output, "--output", inputs);
  if (!is_own) check_output_path(output, options.overwrite, "--output");
  return output;
}

}  // namespace

void run_report(CommandContext& context, std::span<const std::string> arguments) {
  ReportOptions options;
  FlagSet flags("report",
                "Draws runs as a page: lockstep report RUN… (folders, or files of logged lines).");
  flags.add_group("report", options);
  std::vector<std::string> paths;
  while (!arguments.empty() && !arguments[0].starts_with("-")) {
    paths.push_back(arguments[0]);
    arguments = arguments.subspan(1);
  }
  if (!begin_command(context, flags, arguments)) return;
  if (paths.empty())
    fail<ConfigError>("missing-argument", "report", "expected a run directory, got none");
  std::vector<report::RunReader> runs;
  for (const std::string& path : paths) {
    report::RunReader& run = runs.emplace_back(path);
    for (const fs::path& file : run.files()) context.reads("report", file);
  }
  const fs::path output = output_of(options, paths, runs, context.inputs);
  for (report::RunReader& run : runs) {
    run.read();
    if (run.num_bad_lines())
      log_warning("{}: {} lines are no logged steps, and are left out", run.directory().string(),
                  run.num_bad_lines());
  }
  const std::string page = report::page(report::page_data(runs));
  context.phase.start();
  write_file(output, page);
  log_info("{}: {} of {} runs, {:.2f} MB", output.string(),
           runs.size() == 1 ? "the page" : "a page", runs.size(),
           static_cast<double>(page.size()) / 1e6);
}

}  // namespace lockstep::cli
