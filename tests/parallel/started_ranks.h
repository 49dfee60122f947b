// Ranks that are processes and run as the program does, and how tests watch them end.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <cstdlib>
#include <functional>
#include <string>

#include "parallel/join.h"
#include "parallel/rank_record.h"
#include "tests/parallel/rank_processes.h"
#include "tests/support/temp_dir.h"

namespace lockstep::parallel {

/// How long a rank may be silent here; the program's own time would only make the tests longer.
constexpr std::chrono::milliseconds kSilence{1000}, kBeat{100};
/// All ranks end so soon after the first failure is known.
constexpr std::chrono::milliseconds kEnd{2000};

/// This rank's side of the run.
Peers join_run(const LaunchInfo& launch);

/// Runs a rank's part, and ends the process as the program would. Tells the test when it begins.
void run_rank(const LaunchInfo& launch, const std::function<void(Peers&)>& action);

/// A folder that processes started from now on know.
struct RecordFolder {
  RecordFolder();
  testing::TempDir folder;
};

/// The ranks of the current test, all of which have begun.
class StartedRanks : private RecordFolder, public RankProcesses {
 public:
  StartedRanks(int64_t size, Meeting meeting, const Starter& starter = {});
  /// What their records say together.
  std::string explanation() const { return explain_hang(read_rank_records(folder.path())); }
  /// Expects all ranks but one to end within `time`, each with one line that says `text`.
  void expect_end(std::chrono::milliseconds time, int64_t without, const std::string& text);
};

}  // namespace lockstep::parallel
