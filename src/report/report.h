// report.html: the page of one run or of several, one file without links to anywhere.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "report/run_reader.h"

namespace lockstep::report {

inline constexpr const char* kReportFile = "report.html";

/// What the page calls runs of these folders: their own names, with as many of the folders above as
/// it takes to tell them apart.
std::vector<std::string> run_names(std::span<const std::filesystem::path> directories);

/// The page with its data: {"version", "runs": […]}, or {"live": true} for one that asks its server
/// (report/live_page.h).
std::string page(std::string_view data);
/// The data of runs that have been read. Throws IoError.
std::string page_data(std::span<const RunReader> runs);

/// Reads a run and writes its report.html as it grows. A report that cannot be written is a
/// warning: no run ends for want of its picture. Not thread-safe.
class RunReport {
 public:
  explicit RunReport(const std::filesystem::path& directory);
  /// Writes it, unless the last times took more than a hundredth of the time since.
  void update();
  /// Writes it in any case.
  void write();

 private:
  RunReader reader_;
  /// In seconds of the steady clock.
  double written_ = 0, took_ = 0;
};

}  // namespace lockstep::report
