// The table of objectives is whole, and docs/objectives.md says what it says.
// SPDX-License-Identifier: Apache-2.0
//
// LOCKSTEP_WRITE_DOCS=1 writes the table into the document.
#include "grpo/objective_table.h"

#include <cstdlib>
#include <fstream>
#include <set>
#include <sstream>

#include <gtest/gtest.h>

#include "grpo/objective_options.h"
#include "tests/support/source_dir.h"

namespace lockstep::grpo {
namespace {

std::string read_file(const std::filesystem::path& path) {
  std::ostringstream text;
  text << std::ifstream(path).rdbuf();
  return text.str();
}

template <class Enum>
std::set<std::string_view> names_of() {
  std::set<std::string_view> names;
  for (const auto& entry : enum_names(Enum{})) names.insert(entry.name);
  return names;
}

std::set<std::string_view> listed(std::string_view flag) {
  std::set<std::string_view> values;
  for (const Objective& entry : objective_table()) {
    if (entry.flag != flag) continue;
    EXPECT_TRUE(values.insert(entry.value).second) << entry.value;
  }
  return values;
}

TEST(ObjectiveTable, HasEveryValueOfEveryChoice) {
  EXPECT_EQ(listed("loss_type"), names_of<LossType>());
  EXPECT_EQ(listed("importance_sampling_level"), names_of<RatioLevel>());
  EXPECT_EQ(listed("kl_estimator"), names_of<KlEstimator>());
  EXPECT_EQ(listed("advantage_estimator"), names_of<AdvantageEstimator>());
  EXPECT_EQ(listed("rollout_importance_sampling_mode"), names_of<CorrectionMode>());
  EXPECT_EQ(listed("rollout_importance_sampling_sequence_ratio"), names_of<SequenceRatio>());
  auto scales = names_of<ScaleRewards>();
  scales.erase("gdpo");  // the estimator under ms-swift's flag
  EXPECT_EQ(listed("scale_rewards"), scales);
}

TEST(ObjectiveTable, NamesTestsThatThereAre) {
  std::string tests = read_file(testing::source_dir() / "tests/train/trainer_test.cpp");
  for (const auto& file : std::filesystem::directory_iterator(testing::source_dir() / "tests/grpo"))
    if (file.path().extension() == ".cpp") tests += read_file(file.path());
  for (const Objective& entry : objective_table()) {
    const size_t dot = entry.test.find('.');
    ASSERT_NE(dot, std::string_view::npos) << entry.test;
    const std::string declaration = "TEST(" + std::string(entry.test.substr(0, dot)) + ", " +
                                    std::string(entry.test.substr(dot + 1)) + ")";
    EXPECT_NE(tests.find(declaration), std::string::npos) << declaration;
  }
}

TEST(ObjectiveTable, IsThatOfTheDocument) {
  constexpr std::string_view kBegin = "<!-- objectives: written by objective_table_test -->\n",
                             kEnd = "<!-- end -->";
  const auto path = testing::source_dir() / "docs/objectives.md";
  std::string document = read_file(path);
  const size_t begin = document.find(kBegin), end = document.find(kEnd);
  ASSERT_NE(begin, std::string::npos);
  ASSERT_NE(end, std::string::npos);
  const size_t first = begin + kBegin.size();
  if (std::getenv("LOCKSTEP_WRITE_DOCS")) {
    document.replace(first, end - first, objective_markdown());
    std::ofstream(path) << document;
    return;
  }
  EXPECT_EQ(document.substr(first, end - first), objective_markdown())
      << "LOCKSTEP_WRITE_DOCS=1 and this test write it";
}

}  // namespace
}  // namespace lockstep::grpo
