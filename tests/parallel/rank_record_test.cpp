// What the records of all ranks say together.
// SPDX-License-Identifier: Apache-2.0
#include "parallel/rank_record.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/check.h"
#include "tests/support/expect_error.h"
#include "tests/support/temp_dir.h"

namespace lockstep::parallel {
namespace {

/// A rank that has made calls 1 to `last` of the world, the last of which is done or not.
RankRecord record(int64_t rank, uint64_t last, bool is_done, int64_t size = 4) {
  RankRecord made{.rank = rank, .size = size, .phase = "train", .step = 12, .written = 1000};
  for (uint64_t i = last > 3 ? last - 3 : 1; i <= last; ++i)
    made.calls.push_back({.group = "world",
                          .sequence = i,
                          .operation = "all-gather",
                          .name = fmt::format("gradients of layer {}", i % 20),
                          .begun = 900 + double(i % 20),
                          .is_done = i < last || is_done});
  return made;
}

/// The first line of the explanation.
std::string verdict(const std::vector<RankRecord>& records) {
  const std::string text = explain_hang(records);
  return text.substr(0, text.find('\n'));
}

TEST(RankRecord, ARankThatNeverEnteredACallIsNamed) {
  const std::vector<RankRecord> records{record(0, 817, false), record(1, 817, false),
                                        record(2, 817, false), record(3, 816, true)};
  EXPECT_EQ(explain_hang(records),
            "rank 3 never entered all-gather #817 \"gradients of layer 17\", which ranks 0 1 2 "
            "wait for\n"
            "rank 0, train of step 12: in all-gather #817 \"gradients of layer 17\", begun 83.0 s "
            "before the end\n"
            "rank 1, train of step 12: in all-gather #817 \"gradients of layer 17\", begun 83.0 s "
            "before the end\n"
            "rank 2, train of step 12: in all-gather #817 \"gradients of layer 17\", begun 83.0 s "
            "before the end\n"
            "rank 3, train of step 12: after all-gather #816 \"gradients of layer 16\", begun 84.0 "
            "s before the end\n");
}

TEST(RankRecord, TheFirstCallThatIsMissingCounts) {
  // Calls that were begun ahead wait as well.
  EXPECT_EQ(
      verdict({record(0, 9, false), record(1, 7, true), record(2, 8, false), record(3, 7, true)}),
      "ranks 1 3 never entered all-gather #8 \"gradients of layer 8\", which rank 2 waits "
      "for");
  EXPECT_EQ(verdict({record(0, 1, false, 2), record(1, 0, true, 2)}),
            "rank 1 never entered all-gather #1 \"gradients of layer 1\", which rank 0 waits for");
}

TEST(RankRecord, RanksThatMadeAnotherCallAreNamed) {
  std::vector<RankRecord> records{record(0, 5, false), record(1, 5, false), record(2, 5, false),
                                  record(3, 5, false)};
  records[1].calls.back().name = "scores";
  records[3].calls.back().operation = "all-to-all";
  EXPECT_EQ(verdict(records),
            "ranks 0 2 made all-gather #5 \"gradients of layer 5\", where rank 1 made all-gather "
            "#5 \"scores\", where rank 3 made all-to-all #5 \"gradients of layer 5\"");
}

TEST(RankRecord, RanksWithoutARecordAreNamed) {
  const std::string text = explain_hang({record(0, 5, false), record(2, 5, false)});
  EXPECT_THAT(text, ::testing::StartsWith("ranks 1 3 may not have entered all-gather #5 "
                                          "\"gradients of layer 5\", which ranks 0 2 wait for\n"
                                          "ranks 1 3 left no record"));
}

TEST(RankRecord, ARankWithoutARecordMayHaveAnsweredSomeOfTheOthers) {
  EXPECT_EQ(verdict({record(0, 6, false), record(1, 5, false), record(3, 5, false)}),
            "rank 2 may not have entered all-gather #5 \"gradients of layer 5\", which ranks 1 3 "
            "wait for");
  // Rank 1 has come through the call and not to the next one.
  EXPECT_EQ(
      verdict({record(0, 6, false), record(1, 5, true), record(3, 6, false)}),
      "rank 1 never entered all-gather #6 \"gradients of layer 6\", which ranks 0 3 wait for");
}

TEST(RankRecord, ACallThatAllEnteredIsNamed) {
  EXPECT_EQ(verdict({record(0, 5, true, 2), record(1, 5, false, 2)}),
            "all ranks entered all-gather #5 \"gradients of layer 5\", which rank 1 has not "
            "finished");
  EXPECT_EQ(verdict({record(0, 5, true, 2), record(1, 5, true, 2)}), "no call was under way");
  EXPECT_EQ(verdict({record(0, 0, true, 2), record(1, 0, true, 2)}), "no call was under way");
}

TEST(RankRecord, AGroupOfSomeRanksIsJudgedByItsMembers) {
  std::vector<RankRecord> records{record(0, 5, true), record(1, 5, true), record(2, 5, true),
                                  record(3, 5, true)};
  const auto add = [&](size_t rank, uint64_t sequence) {
    records[rank].calls.push_back(
        {.group = "experts 0", .sequence = sequence, .operation = "all-to-all", .name = "rows"});
  };
  add(0, 7);
  add(1, 7);
  add(0, 8);
  EXPECT_EQ(verdict(records),
            "rank 1 never entered all-to-all #8 \"rows\" of experts 0, which rank 0 waits for");
}

TEST(RankRecord, FilesAreReadBackAsTheyWereWritten) {
  const testing::TempDir folder;
  Recorder recorder;
  recorder.enter("rewards", 3);
  recorder.end(recorder.begin({.group = "world",
                               .sequence = 1,
                               .operation = "all-to-all",
                               .name = "a \"name\"\n\xff",
                               .bytes = int64_t{1} << 40}));
  recorder.begin({.group = "world", .sequence = 2, .operation = "all-gather", .name = "b"});
  for (const int64_t rank : {10, 2}) write_rank_record(folder / "hang", rank, 11, recorder);
  const std::vector<RankRecord> records = read_rank_records(folder / "hang");
  ASSERT_EQ(records.size(), 2u);
  EXPECT_EQ(records[0].rank, 2);
  EXPECT_EQ(records[1].rank, 10);
  EXPECT_EQ(records[1].size, 11);
  EXPECT_EQ(records[1].phase, "rewards");
  EXPECT_EQ(records[1].step, 3);
  EXPECT_GT(records[1].written, 1.6e9);
  ASSERT_EQ(records[1].calls.size(), 2u);
  EXPECT_EQ(records[1].calls[0].name, "a \"name\"\n\uFFFD");
  EXPECT_EQ(records[1].calls[0].bytes, int64_t{1} << 40);
  EXPECT_TRUE(records[1].calls[0].is_done);
  EXPECT_FALSE(records[1].calls[1].is_done);
  EXPECT_EQ(records[1].calls[1].text(), "all-gather #2 \"b\"");
}

TEST(RankRecord, AFileThatIsNoneIsAnErrorWithItsLine) {
  const testing::TempDir folder;
  EXPECT_THROW(read_rank_records(folder.path()), FormatError);
  EXPECT_THROW(read_rank_records(folder / "missing"), FormatError);
  folder.write("rank-0.jsonl",
               "{\"rank\":0,\"size\":1,\"phase\":\"\",\"step\":0,\"written\":1}\n"
               "{\"group\":\"world\"}\n");
  try {
    read_rank_records(folder.path());
    FAIL();
  } catch (const FormatError& error) {
    EXPECT_EQ(error.code(), "bad-record");
    EXPECT_THAT(error.where(), ::testing::EndsWith("rank-0.jsonl:2"));
  }
}

}  // namespace
}  // namespace lockstep::parallel
