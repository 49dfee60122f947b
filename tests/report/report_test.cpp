// SPDX-License-Identifier: Apache-2.0
#include "report/report.h"

#include <fstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "report/page_template.h"
#include "tests/support/temp_dir.h"

namespace lockstep::report {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

TEST(Report, RunsAreCalledByWhatTellsThemApart) {
  const std::filesystem::path paths[] = {"/a/x/run", "/a/y/run/", "/a/other"};
  EXPECT_THAT(run_names(paths), ElementsAre("x/run", "y/run", "a/other"));
  EXPECT_THAT(run_names(std::span(paths).first(1)), ElementsAre("run"));
}

TEST(Report, TheTemplateIsWhole) {
  const std::string_view text = page_template();
  EXPECT_THAT(text, HasSubstr("<!doctype html>"));
  EXPECT_THAT(text, HasSubstr("function smooth("));
  EXPECT_THAT(text, HasSubstr("--c0:"));
  EXPECT_THAT(text, Not(HasSubstr("{{style}}")));
  EXPECT_THAT(text, Not(HasSubstr("{{script}}")));
}

/// One file without links to anywhere.
TEST(Report, ThePageAsksNobodyForAnything) {
  const std::string_view text = page_template();
  for (const char* link : {"http://", "https://", "src=", "url(", "@import", "//cdn"})
    EXPECT_THAT(text, Not(HasSubstr(link)));
}

/// Nothing that a model writes ends the script or begins a comment.
TEST(Report, TextsOfAModelStayTexts) {
  const std::string hostile = R"({"text": "</script><script>alert(1)</script><!-- \"<b>"})";
  const std::string text = page(hostile);
  EXPECT_THAT(text, Not(HasSubstr("alert(1)<")));
  EXPECT_THAT(text, Not(HasSubstr("<!-- \\\"")));
  const size_t begin = text.find(R"({"text")"), end = text.find("</script>", begin);
  EXPECT_EQ(parse_json(text.substr(begin, end - begin), "data"), parse_json(hostile, "hostile"));
}

TEST(Report, ARunsReportIsWrittenWithItsDirectory) {
  const testing::TempDir folder;
  folder.write("logging.jsonl", "{\"loss\": 0.5, \"global_step/max_steps\": \"1/2\"}\n");
  RunReport report(folder.path());
  report.write();
  const std::string text = testing::slurp(folder / kReportFile);
  EXPECT_THAT(text, HasSubstr("\"loss\":{\"mean\":[0.5]}"));
  EXPECT_THAT(folder.names(), ElementsAre("logging.jsonl", kReportFile));
}

/// A run goes on without its picture.
TEST(Report, AReportThatCannotBeWrittenIsNoError) {
  const testing::TempDir folder;
  RunReport report(folder / "missing");
  report.write();
  std::filesystem::create_directory(folder / kReportFile);
  RunReport blocked(folder.path());
  blocked.write();
  EXPECT_TRUE(std::filesystem::is_directory(folder / kReportFile));
}

}  // namespace
}  // namespace lockstep::report
