// SPDX-License-Identifier: Apache-2.0
#include "grpo/run_directory.h"

#include <filesystem>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include <gtest/gtest.h>

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

TEST(RunDirectory, RefusesAnExistingRunUnlessItIsOverwritten) {
  const TempDir temp;
  RunOptions options = options_for(temp.path() / "run");
  { RunDirectory(options, Json::object(), claim_run(options, {})).log({{"loss", 1}}, 1); }
  EXPECT_ERROR(RunDirectory(options, Json::object(), claim_run(options, {})), ConfigError,
               "output-exists", "--overwrite");
  options.overwrite = true;
  RunDirectory fresh(options, Json::object(), claim_run(options, {}));
  EXPECT_EQ(read_file(temp.path() / "run" / "logging.jsonl"), "");
}

TEST(RunDirectory, OverwritingLeavesForeignFilesAlone) {
  const TempDir temp;
  fs::create_directories(temp.path() / "run");
  write_file(temp.path() / "run" / "notes.txt", "mine");
  write_file(temp.path() / "run" / "logging.jsonl", "old\n");
  RunOptions options = options_for(temp.path() / "run");
  options.overwrite = true;
  RunDirectory run(options, Json::object(), claim_run(options, {}));
  EXPECT_EQ(read_file(temp.path() / "run" / "notes.txt"), "mine");
}

TEST(RunDirectory, ResumingCutsTheLogsBackToTheCheckpoint) {
  const TempDir temp;
  RunOptions options = options_for(temp.path() / "run");
  int64_t kept = 0;
  {
    RunDirectory run(options, Json::object(), claim_run(options, {}));
    run.log({{"loss", 1}}, 1);
    kept = static_cast<int64_t>(fs::file_size(temp.path() / "run" / "logging.jsonl"));
    run.log({{"loss", 2}}, 2);
  }
  // What an interrupted save leaves is swept away; what another program is writing is not.
  fs::create_directories(temp.path() / "run" / ".checkpoint-2.tmp-1-1");
  fs::create_directories(temp.path() / "run" / ".exported.tmp-1-1");
  options.resume_from_checkpoint = "last";
  const ResumePoint point{.directory = temp.path() / "run" / "checkpoint-1",
                          .global_step = 1,
                          .is_same_run = true,
                          .state = {{"logging_bytes", kept}, {"completions_bytes", 0}}};
  RunDirectory run(options, Json::object(),
                   {.path = options.output_dir,
                    .resume = point,
                    .lock = std::make_shared<DirectoryLock>(options.output_dir, "--output_dir")});
  EXPECT_EQ(read_file(temp.path() / "run" / "logging.jsonl"), "{\"loss\": 1}\n");
  EXPECT_FALSE(fs::exists(temp.path() / "run" / ".checkpoint-2.tmp-1-1"));
  EXPECT_TRUE(fs::exists(temp.path() / "run" / ".exported.tmp-1-1"));
}

TEST(ClaimRun, ARunThatIsBeingWrittenIsNobodyElses) {
  const TempDir temp;
  RunOptions options = options_for(temp.path() / "run");
  const RunDirectory first(options, Json::object(), claim_run(options, {}));
  const auto names = [&] {
    std::set<std::string> found;
    for (const auto& entry : fs::directory_iterator(temp.path() / "run"))
      found.insert(entry.path().filename().string());
    return found;
  };
  const auto before = names();
  const auto refused = [&] {
    EXPECT_ERROR(claim_run(options, {}), ConfigError, "output-locked", "process ");
  };
  refused();
  options.overwrite = true;
  refused();
  options.overwrite = false;
  options.resume_from_checkpoint = "last";
  refused();
  EXPECT_EQ(names(), before);
}

TEST(ClaimRun, OfTwoThatBeginTogetherOneIsRefused) {
  const TempDir temp;
  const RunOptions options = options_for(temp.path() / "run");
  const RunClaim one = claim_run(options, {}), other = claim_run(options, {});
  {
    const RunDirectory first(options, Json::object(), one);
    EXPECT_ERROR(RunDirectory(options, Json::object(), other), ConfigError, "output-locked", "");
  }
  EXPECT_ERROR(RunDirectory(options, Json::object(), other), ConfigError, "output-exists", "");
}

TEST(ClaimRun, VersionsOfOneMomentAreTwo) {
  const TempDir temp;
  RunOptions options = options_for(temp.path() / "runs");
  options.add_version = true;
  const RunClaim one = claim_run(options, {}), other = claim_run(options, {});
  const RunDirectory first(options, Json::object(), one), second(options, Json::object(), other);
  EXPECT_NE(first.path(), second.path());
}

TEST(ClaimRun, WhatAKilledStartLeavesIsNoRun) {
  const TempDir temp;
  const fs::path run = temp.path() / "run";
  fs::create_directories(run / ".checkpoint-1.tmp-1-7");
  write_file(run / ".lock", "process 1 on nowhere\n");
  write_file(run / ".args.json.tmp-1-0", "{");
  const RunOptions options = options_for(run);
  const RunDirectory fresh(options, Json::object(), claim_run(options, {}));
  EXPECT_FALSE(fs::exists(run / ".checkpoint-1.tmp-1-7"));
  EXPECT_FALSE(fs::exists(run / ".args.json.tmp-1-0"));
}

/// `sft … --output_dir run`, then `grpo --model run/last … --output_dir run --overwrite`.
TEST(ClaimRun, ARunThatHoldsAnInputIsNotOverwritten) {
  const TempDir temp;
  const fs::path run = temp.path() / "run";
  fs::create_directories(run / "checkpoint-1");
  fs::create_directory_symlink("checkpoint-1", run / "last");
  write_file(run / "args.json", "{}");
  RunOptions options = options_for(run);
  options.overwrite = true;
  const std::vector<InputPath> inputs{{"--model", run / "last"}};
  EXPECT_ERROR(claim_run(options, inputs), ConfigError, "output-is-input", "holds --model");
  EXPECT_TRUE(fs::exists(run / "args.json"));
  EXPECT_FALSE(fs::exists(run / ".lock"));
  // A version of its own beside it is no danger.
  options.add_version = true;
  EXPECT_EQ(claim_run(options, inputs).path.parent_path(), run);
}

TEST(FindResumePoint, LastWithoutACheckpointStartsAnew) {
  const TempDir temp;
  RunOptions options = options_for(temp.path() / "run");
  EXPECT_FALSE(find_resume_point(options));
  options.resume_from_checkpoint = "last";
  EXPECT_FALSE(find_resume_point(options));
}

TEST(FindResumePoint, AFolderThatIsNoCheckpointIsAnError) {
  const TempDir temp;
  RunOptions options = options_for(temp.path() / "run");
  options.resume_from_checkpoint = temp.path().string();
  EXPECT_ERROR(find_resume_point(options), ConfigError, "bad-resume", "trainer_state.json");
}

}  // namespace
}  // namespace lockstep::grpo
