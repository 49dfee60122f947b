// The last calls of each rank as files, and what they say of a run that stood still.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "parallel/recorder.h"

namespace lockstep::parallel {

/// What a rank has done last.
struct RankRecord {
  int64_t rank = 0, size = 1;
  /// What it did when this was written, and the seconds since 1970 at which that was.
  std::string phase;
  int64_t step = 0;
  double written = 0;
  /// The oldest first.
  std::vector<RecordedCall> calls;
};

/// Writes `rank-N.jsonl` into a folder, which is made where it is missing: a line of the rank, then
/// one of each call. Throws IoError.
void write_rank_record(const std::filesystem::path& folder,
                       int64_t rank,
                       int64_t size,
                       const Recorder& recorder);

/// Reads all `rank-N.jsonl` of a folder, by rank. Throws FormatError "bad-record" at a line that is
/// none, or in a folder without any; IoError.
std::vector<RankRecord> read_rank_records(const std::filesystem::path& folder);

/// Says what the ranks' records mean together, in lines: first which rank was missing in which
/// call, or made another one than the others; then where each rank stood.
///
/// Example: rank 3 never entered all-gather #812 "gradients of layer 17", which ranks 0 1 2 wait
/// for
std::string explain_hang(const std::vector<RankRecord>& records);

}  // namespace lockstep::parallel
