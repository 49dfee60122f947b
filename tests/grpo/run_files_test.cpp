// The ranks of a run have one directory, which the first of them writes.
// SPDX-License-Identifier: Apache-2.0
#include "grpo/run_files.h"

#include <csignal>
#include <mutex>

#include <gtest/gtest.h>

#include "tests/parallel/run_ranks.h"
#include "tests/support/expect_error.h"
#include "tests/support/temp_dir.h"

namespace lockstep::grpo {
namespace {

namespace fs = std::filesystem;
using testing::TempDir;

RunOptions options_for(const fs::path& path) {
  RunOptions options;
  options.output_dir = path.string();
  options.report_to = {"none"};
  return options;
}

/// A checkpoint of a run that nobody trained.
void make_checkpoint(const fs::path& run, int64_t step) {
  const fs::path folder = run / checkpoint_name(step);
  fs::create_directories(folder);
  write_file(run / "args.json", "{\"output_dir\": \"run\", \"tuner_type\": \"full\"}");
  write_file(folder / "config.json", "{}");
  write_file(folder / kTrainerState,
             dump_json({{"global_step", step},
                        {"lockstep", {{"command", "sft"}, {"x", 0.1}, {"text", "\xc3\xa9"}}}}));
}

TEST(RunFiles, OneRankClaimsAndAllResumeTheSame) {
  const TempDir temp;
  RunOptions options = options_for(temp.path() / "run");
  make_checkpoint(temp.path() / "run", 3);
  make_checkpoint(temp.path() / "run", 7);
  options.resume_from_checkpoint = "last";
  std::mutex mutex;
  int locks = 0;
  run_ranks(3, [&](parallel::Group& ranks) {
    const RunClaim claim = claim_together(options, {}, ranks);
    EXPECT_EQ(claim.path, temp.path() / "run");
    ASSERT_TRUE(claim.resume);
    EXPECT_EQ(claim.resume->directory, fs::canonical(temp.path() / "run/checkpoint-7"));
    EXPECT_EQ(claim.resume->global_step, 7);
    EXPECT_TRUE(claim.resume->is_same_run);
    EXPECT_EQ(claim.resume->state, Json({{"command", "sft"}, {"x", 0.1}, {"text", "\xc3\xa9"}}));
    const std::lock_guard lock(mutex);
    locks += claim.lock != nullptr;
  });
  EXPECT_EQ(locks, 1);
}

TEST(RunFiles, WhatTheFirstRankCannotClaimNobodyCan) {
  const TempDir temp;
  fs::create_directories(temp.path() / "run");
  write_file(temp.path() / "run" / "thesis.tex", "mine");
  const RunOptions options = options_for(temp.path() / "run");
  run_ranks(2, [&](parallel::Group& ranks) {
    if (ranks.is_first())
      EXPECT_ERROR(claim_together(options, {}, ranks), ConfigError, "output-exists", "");
    else
      EXPECT_ERROR(claim_together(options, {}, ranks), PeerError, "rank-failed",
                   "rank 0: --output_dir");
  });
}

TEST(RunFiles, TheFirstRankWritesAndAllKnowWhatIsThere) {
  const TempDir temp;
  RunOptions options = options_for(temp.path() / "run");
  options.add_version = true;
  std::mutex mutex;
  std::vector<fs::path> paths;
  run_ranks(3, [&](parallel::Group& ranks) {
    const RunClaim claim = claim_together(options, {}, ranks);
    RunFiles files(options, {{"seed", 1}}, claim, ranks);
    files.log({{"rank", ranks.rank()}}, 1);
    files.log_completions({{"rank", ranks.rank()}});
    files.keep_split_rows(std::to_string(ranks.rank()));
    EXPECT_EQ(files.settle("edge"), 0);
    EXPECT_FALSE(files.has_checkpoint(2));
    if (ranks.is_first()) fs::create_directory(files.checkpoint(2));
    EXPECT_TRUE(files.has_checkpoint(2));
    const std::lock_guard lock(mutex);
    paths.push_back(files.path());
  });
  EXPECT_EQ(paths, std::vector<fs::path>(3, paths[0]));
  EXPECT_EQ(std::distance(fs::directory_iterator(temp.path() / "run"), {}), 1);
  EXPECT_EQ(read_file(paths[0] / "logging.jsonl"), "{\"rank\": 0}\n");
  EXPECT_EQ(read_file(paths[0] / "completions.jsonl"), "{\"rank\": 0}\n");
  EXPECT_EQ(read_file(paths[0] / "val_dataset.jsonl"), "0");
}

/// The step goes on with a file that cannot be written: at its edge all ranks end.
TEST(RunFiles, AWriteThatFailsEndsAllRanksAtTheEdge) {
  const TempDir temp;
  const RunOptions options = options_for(temp.path() / "run");
  run_ranks(2, [&](parallel::Group& ranks) {
    RunFiles files(options, Json::object(), claim_together(options, {}, ranks), ranks);
    if (ranks.is_first()) fs::create_directory(temp.path() / "run" / "val_dataset.jsonl");
    EXPECT_NO_THROW(files.keep_split_rows("rows"));
    // It was not written, so nothing that comes after it is.
    files.log({{"a", 1}}, 1);
    if (ranks.is_first())
      EXPECT_ERROR(files.settle("edge"), IoError, "unwritable-output", "val_dataset.jsonl");
    else
      EXPECT_ERROR(files.settle("edge"), PeerError, "rank-failed", "got of rank 0: ");
    // An error is said once.
    EXPECT_EQ(files.settle("edge"), 0);
    EXPECT_EQ(read_file(temp.path() / "run" / "logging.jsonl"), "");
  });
}

}  // namespace
}  // namespace lockstep::grpo
