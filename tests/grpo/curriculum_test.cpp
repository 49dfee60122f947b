// SPDX-License-Identifier: Apache-2.0
#include "grpo/curriculum.h"

#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "grpo/run_data.h"
#include "tests/support/expect_error.h"

namespace lockstep::grpo {
namespace {

using ::testing::ElementsAre;
using ::testing::UnorderedElementsAreArray;

text::Dataset rows_of(const std::vector<Json>& values) {
  text::Dataset dataset;
  for (size_t i = 0; i < values.size(); ++i) {
    text::Row row;
    row.columns = {{"name", i}};
    if (!values[i].is_null()) row.columns["level"] = values[i];
    row.where = "rows.jsonl:" + std::to_string(i + 1);
    dataset.rows.push_back(std::move(row));
  }
  return dataset;
}

std::vector<int> names(const text::Dataset& dataset) {
  std::vector<int> list;
  for (const text::Row& row : dataset.rows) list.push_back(row.columns["name"].get<int>());
  return list;
}

const CurriculumOptions kByLevel{.curriculum_column = "level"};

TEST(Curriculum, SortsByTheColumnAndKeepsTheOrderOfEquals) {
  auto dataset = rows_of({3, 1.5, "2", 1.5, -4});
  sort_by_column(dataset, kByLevel, std::nullopt, true);
  EXPECT_THAT(names(dataset), ElementsAre(4, 1, 3, 2, 0));
  CurriculumOptions down = kByLevel;
  down.curriculum_order = CurriculumOrder::kDescending;
  sort_by_column(dataset, down, std::nullopt, true);
  EXPECT_THAT(names(dataset), ElementsAre(0, 2, 1, 3, 4));
}

TEST(Curriculum, DrawsTheOrderOfEqualsByTheSeed) {
  const auto sorted = [](int64_t seed) {
    auto dataset = rows_of(std::vector<Json>(30, Json(1)));
    dataset.rows[7].columns["level"] = 0;
    sort_by_column(dataset, kByLevel, seed, true);
    return names(dataset);
  };
  EXPECT_EQ(sorted(1), sorted(1));
  EXPECT_NE(sorted(1), sorted(2));
  EXPECT_EQ(sorted(1).front(), 7);
  EXPECT_THAT(sorted(1), UnorderedElementsAreArray(sorted(2)));
}

TEST(Curriculum, EveryRowNeedsANumber) {
  for (const Json& bad : {Json(), Json("hard"), Json(true), Json("1e999"), Json(""), Json("2 ")}) {
    auto dataset = rows_of({1, bad, 0});
    EXPECT_ERROR(sort_by_column(dataset, kByLevel, std::nullopt, true), FormatError, "bad-row",
                 "rows.jsonl:2");
    dataset = rows_of({1, bad, 0});
    sort_by_column(dataset, kByLevel, std::nullopt, false);
    EXPECT_THAT(names(dataset), ElementsAre(2, 0));
    EXPECT_EQ(dataset.dropped, 1);
  }
  auto none = rows_of({"a", "b"});
  EXPECT_ERROR(sort_by_column(none, kByLevel, std::nullopt, false), FormatError, "empty-dataset",
               "level");
}

/// Epochs of the curriculum have the rows as they are sorted, later ones are shuffled, and so is
/// the draw of held-out rows.
TEST(Curriculum, DecidesTheOrderOfItsEpochs) {
  DataOptions options, plain;
  options.curriculum = kByLevel;
  const std::vector<int64_t> sorted{0, 1, 2, 3, 4, 5, 6, 7};
  for (const int64_t epoch : {0, 1, 5}) EXPECT_EQ(epoch_order(8, epoch, options), sorted);
  EXPECT_EQ(epoch_order(8, -1, options), epoch_order(8, -1, plain));
  options.curriculum.curriculum_epochs = 2;
  EXPECT_EQ(epoch_order(8, 1, options), sorted);
  EXPECT_EQ(epoch_order(8, 2, options), epoch_order(8, 2, plain));
  EXPECT_NE(epoch_order(8, 2, options), sorted);
}

TEST(Curriculum, ItsOptionsNeedTheColumn) {
  CurriculumOptions options;
  options.validate();
  options.curriculum_epochs = 1;
  EXPECT_ERROR(options.validate(), ConfigError, "bad-flag", "--curriculum_epochs");
  options = {.curriculum_order = CurriculumOrder::kDescending};
  EXPECT_ERROR(options.validate(), ConfigError, "bad-flag", "--curriculum_order");
}

}  // namespace
}  // namespace lockstep::grpo
