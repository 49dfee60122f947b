// SPDX-License-Identifier: Apache-2.0
#include "grpo/run_directory.h"

#include <filesystem>

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
  { RunDirectory(options, Json::object(), {}).log({{"loss", 1}}, 1); }
  EXPECT_ERROR(RunDirectory(options, Json::object(), {}), ConfigError, "output-exists",
               "--overwrite");
  options.overwrite = true;
  RunDirectory fresh(options, Json::object(), {});
  EXPECT_EQ(read_file(temp.path() / "run" / "logging.jsonl"), "");
}

TEST(RunDirectory, OverwritingLeavesForeignFilesAlone) {
  const TempDir temp;
  fs::create_directories(temp.path() / "run");
  write_file(temp.path() / "run" / "notes.txt", "mine");
  write_file(temp.path() / "run" / "logging.jsonl", "old\n");
  RunOptions options = options_for(temp.path() / "run");
  options.overwrite = true;
  RunDirectory run(options, Json::object(), {});
  EXPECT_EQ(read_file(temp.path() / "run" / "notes.txt"), "mine");
}

TEST(RunDirectory, ResumingCutsTheLogsBackToTheCheckpoint) {
  const TempDir temp;
  RunOptions options = options_for(temp.path() / "run");
  int64_t kept = 0;
  {
    RunDirectory run(options, Json::object(), {});
    run.log({{"loss", 1}}, 1);
    kept = static_cast<int64_t>(fs::file_size(temp.path() / "run" / "logging.jsonl"));
    run.log({{"loss", 2}}, 2);
  }
  // What an interrupted save leaves is swept away.
  fs::create_directories(temp.path() / "run" / ".checkpoint-2.tmp-1-1");
  options.resume_from_checkpoint = "last";
  const ResumePoint point{.directory = temp.path() / "run" / "checkpoint-1",
                          .global_step = 1,
                          .is_same_run = true,
                          .state = {{"logging_bytes", kept}, {"completions_bytes", 0}}};
  RunDirectory run(options, Json::object(), point);
  EXPECT_EQ(read_file(temp.path() / "run" / "logging.jsonl"), "{\"loss\": 1}\n");
  EXPECT_FALSE(fs::exists(temp.path() / "run" / ".checkpoint-2.tmp-1-1"));
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
