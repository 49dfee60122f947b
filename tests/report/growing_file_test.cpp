// SPDX-License-Identifier: Apache-2.0
#include "report/growing_file.h"

#include <fstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/temp_dir.h"

namespace lockstep::report {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

class GrowingFileTest : public ::testing::Test {
 protected:
  void append(const std::string& text) { std::ofstream(path_, std::ios::app) << text; }
  void write(const std::string& text) { std::ofstream(path_) << text; }
  /// The lines that are new; "restart" where what was read before is void.
  std::vector<std::string> read() {
    std::vector<std::string> seen;
    file_.read([&] { seen.push_back("restart"); },
               [&](std::string_view line, int64_t offset) {
                 seen.emplace_back(line);
                 offsets_.push_back(offset);
               });
    return seen;
  }

  testing::TempDir folder_;
  std::filesystem::path path_ = folder_ / "log.jsonl";
  GrowingFile file_{path_};
  std::vector<int64_t> offsets_;
};

TEST_F(GrowingFileTest, EachLineComesOnceAndWhole) {
  EXPECT_THAT(read(), IsEmpty());
  append("one\ntw");
  EXPECT_THAT(read(), ElementsAre("one"));
  EXPECT_THAT(read(), IsEmpty());
  append("o\n\nthree\n");
  EXPECT_THAT(read(), ElementsAre("two", "", "three"));
  EXPECT_THAT(offsets_, ElementsAre(0, 4, 8, 9));
}

TEST_F(GrowingFileTest, ALineMayBeLongerThanWhatIsReadAtOnce) {
  const std::string line(3 << 20, 'x');
  append("a\n" + line + "\nb\n");
  EXPECT_THAT(read(), ElementsAre("a", line, "b"));
  append("c\n");
  EXPECT_THAT(read(), ElementsAre("c"));
}

TEST_F(GrowingFileTest, WhatIsCutBackIsReadAgain) {
  append("one\ntwo\nthree\n");
  read();
  write("one\n");
  EXPECT_THAT(read(), ElementsAre("restart", "one"));
  append("other\n");
  EXPECT_THAT(read(), ElementsAre("other"));
}

/// A run that is resumed cuts its log back and writes on: nobody may have looked in between.
TEST_F(GrowingFileTest, WhatIsCutBackAndHasGrownAgainIsReadAgain) {
  append("one\ntwo\nthree\n");
  read();
  write("one\nTWO\nTHREE\nFOUR\n");
  EXPECT_THAT(read(), ElementsAre("restart", "one", "TWO", "THREE", "FOUR"));
}

TEST_F(GrowingFileTest, AFileThatIsGoneHasNoLines) {
  append("one\n");
  read();
  std::filesystem::remove(path_);
  EXPECT_THAT(read(), ElementsAre("restart"));
  append("new\n");
  EXPECT_THAT(read(), ElementsAre("new"));
}

}  // namespace
}  // namespace lockstep::report
