// The page of runs while they go on: --dashboard PORT.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/on_resume.h"
#include "base/options.h"
#include "cli/progress.h"  // ProgressKind

namespace lockstep::cli {

/// How a person follows a run.
struct FollowOptions {
  /// Unset: no server. 0: a free port, which the log names.
  std::optional<int64_t> dashboard;
  std::string dashboard_host = "127.0.0.1";
  ProgressKind progress = ProgressKind::kAuto;

  template <class Visitor>
  void for_each_field(Visitor&& visit) {
    visit("dashboard", dashboard,
          "Port at which the run's page is served while it goes on; 0: a free one, which the log "
          "names; unset: none.",
          Range::between(0, 65'535), OnResume::kIgnored);
    visit("dashboard_host", dashboard_host,
          "Address at which it is served; 0.0.0.0: all of this machine's, for everybody who "
          "reaches it.",
          OnResume::kIgnored);
    visit("progress", progress,
          "What stderr shows while the run goes on: auto (on a terminal some rows that stay at its "
          "end, elsewhere a line now and then), bar (one row), plain (lines on a terminal too) or "
          "none.",
          OnResume::kIgnored);
  }
};

/// Serves report.html of runs whose directories come into being, read from their logs: it knows
/// nothing of the runs, and they wait for nothing of it. Its own threads do all the work.
///
///   GET /                        the page
///   GET /data.json               what the page of a finished run holds
///   GET /changes.json?known=G.R.V,…   what is new: for each run the generation and the number of
///                                the rows that the page has, and the version of its completions
class Dashboard {
 public:
  /// Listens. Throws ConfigError "bad-address", IoError "address-in-use".
  Dashboard(const std::string& host,
            uint16_t port,
            const std::vector<std::filesystem::path>& directories);
  /// Ends at once.
  ~Dashboard();
  Dashboard(const Dashboard&) = delete;
  Dashboard& operator=(const Dashboard&) = delete;

  uint16_t port() const;
  /// "http://127.0.0.1:8080"
  std::string address() const;
  /// The runs are over: waits until a page that has asked lately has seen their end, at most that
  /// long. Without such a page it does not wait.
  void let_watchers_see_the_end(std::chrono::milliseconds most);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace lockstep::cli
