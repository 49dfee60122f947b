// SPDX-License-Identifier: Apache-2.0
#include "report/curves.h"

#include <algorithm>
#include <cmath>
#include <random>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/json.h"
#include "tests/support/test_seed.h"

namespace lockstep::report {
namespace {

using ::testing::ElementsAre;

Json rows_of(const Curves& curves, size_t first = 0) {
  return parse_json(curves.json(first), "curves");
}

TEST(Curves, AFewRowsAreTheLoggedLines) {
  Curves curves;
  curves.add(1, {{"reward", 0.25}, {"text", "x"}, {"kl", 0.1}});
  curves.add(2, {{"reward", 0.5}});
  curves.add(3, {{"reward", 0.75}, {"kl", 0.3}});
  const Json rows = rows_of(curves);
  EXPECT_EQ(rows["steps"], Json({1, 2, 3}));
  EXPECT_EQ(rows["stride"], 1);
  EXPECT_EQ(rows["columns"]["reward"]["mean"], Json({0.25, 0.5, 0.75}));
  EXPECT_EQ(rows["columns"]["kl"]["mean"], Json({0.1, nullptr, 0.3}));
  EXPECT_FALSE(rows["columns"]["kl"].contains("low"));
  EXPECT_THAT(curves.names(), ElementsAre("kl", "reward"));
  EXPECT_EQ(rows_of(curves, 2)["columns"]["reward"]["mean"], Json::array({0.75}));
}

TEST(Curves, EvaluationsLoseTheirPrefix) {
  Curves curves;
  curves.add(5, {{"eval_reward", 0.5}, {"epoch", 1}}, "eval_");
  EXPECT_THAT(curves.names(), ElementsAre("reward"));
}

TEST(Curves, WhatIsNoFiniteNumberIsCounted) {
  Curves curves;
  curves.add(1, {{"loss", "nan"}, {"kl", "inf"}});
  curves.add(2, {{"loss", "nan"}, {"kl", 1.5}});
  EXPECT_EQ(rows_of(curves)["odd"], Json({{"kl", 1}, {"loss", 2}}));
}

TEST(Curves, TwoLinesOfAStepAreOneRow) {
  Curves curves;
  curves.add(1, {{"loss", 1}});
  curves.add(1, {{"reward", 2}});
  EXPECT_EQ(curves.num_rows(), 1u);
  EXPECT_EQ(curves.mean("reward", 0), 2);
}

/// A run that goes on from a checkpoint makes the steps behind it again.
TEST(Curves, AStepBackCutsWhatComesAfterIt) {
  Curves curves;
  for (int step = 1; step <= 6; ++step) curves.add(step, {{"loss", step}, {"late", step}});
  const int64_t before = curves.generation();
  curves.add(4, {{"loss", 40}});
  curves.add(5, {{"loss", 50}});
  EXPECT_NE(curves.generation(), before);
  const Json rows = rows_of(curves);
  EXPECT_EQ(rows["steps"], Json({1, 2, 3, 4, 5}));
  EXPECT_EQ(rows["columns"]["loss"]["mean"], Json({1, 2, 3, 40, 50}));
  EXPECT_EQ(rows["columns"]["late"]["mean"], Json({1, 2, 3, nullptr, nullptr}));
}

/// Against the rows worked out from all values at once.
TEST(Curves, ManyLinesBecomeRowsOfEqualNumbersOfLines) {
  std::mt19937_64 random(testing::test_seed(2));
  for (const int lines : {1200, 1201, 2399, 2400, 5000, 20000}) {
    Curves curves;
    std::vector<double> values, sparse;
    for (int i = 0; i < lines; ++i) {
      values.push_back(std::ldexp(static_cast<double>(random() % 4096), -8));
      sparse.push_back(i % 7 == 3 ? values.back() : std::nan(""));
      Json line{{"value", values.back()}};
      if (i % 7 == 3) line["sparse"] = values.back();
      curves.add(10 * (i + 1), line);
    }
    EXPECT_LE(curves.num_rows(), Curves::kMostRows);
    EXPECT_GE(curves.num_rows(), Curves::kMostRows / 2);
    const auto stride = static_cast<size_t>(curves.stride());
    const Json rows = rows_of(curves);
    for (size_t row = 0; row < curves.num_rows(); ++row) {
      const size_t begin = row * stride, end = std::min(begin + stride, values.size());
      const auto first = values.begin() + static_cast<long>(begin),
                 behind = values.begin() + static_cast<long>(end);
      double sum = 0;
      for (auto at = first; at != behind; ++at) sum += *at;
      const double mean = sum / static_cast<double>(end - begin);
      EXPECT_NEAR(rows["columns"]["value"]["mean"][row].get<double>(), mean, 1e-5 * (1 + mean));
      EXPECT_NEAR(rows["steps"][row].get<double>(), 5.0 * static_cast<double>(begin + 1 + end),
                  1e-6);
      double least = *std::min_element(first, behind), most = *std::max_element(first, behind);
      if (stride > 1) {
        EXPECT_NEAR(rows["columns"]["value"]["low"][row].get<double>(), least, 1e-3 * (1 + least));
        EXPECT_NEAR(rows["columns"]["value"]["high"][row].get<double>(), most, 1e-3 * (1 + most));
      }
      double known = 0, count = 0;
      for (size_t i = begin; i < end; ++i)
        if (!std::isnan(sparse[i])) known += sparse[i], ++count;
      const Json& cell = rows["columns"]["sparse"]["mean"][row];
      ASSERT_EQ(cell.is_null(), count == 0);
      if (count > 0) {
        EXPECT_NEAR(cell.get<double>(), known / count, 1e-5 * (1 + known));
      }
    }
  }
}

/// What a live page puts together from what it is sent is what the program has.
TEST(Curves, RowsThatAreKnownStayUntilTheGenerationChanges) {
  std::mt19937_64 random(testing::test_seed(2));
  Curves curves;
  Json known = rows_of(curves);
  int64_t step = 0;
  for (int round = 0; round < 300; ++round) {
    for (size_t i = random() % 20; i > 0; --i) {
      if (random() % 300 == 0) step = std::max<int64_t>(0, step - 40);
      curves.add(++step, {{"value", static_cast<double>(random() % 100)}});
    }
    size_t first = known["generation"] == curves.generation() ? known["steps"].size() : 0;
    // The last row may have been filled further.
    if (first > 0) --first;
    const Json more = rows_of(curves, first);
    Json steps = Json::array(), values = Json::array();
    for (size_t i = 0; i < first; ++i) {
      steps.push_back(known["steps"][i]);
      values.push_back(known["columns"]["value"]["mean"][i]);
    }
    for (const Json& value : more["steps"]) steps.push_back(value);
    if (more["columns"].contains("value"))
      for (const Json& value : more["columns"]["value"]["mean"]) values.push_back(value);
    known = rows_of(curves);
    EXPECT_EQ(steps, known["steps"]);
    if (known["columns"].contains("value")) {
      EXPECT_EQ(values, known["columns"]["value"]["mean"]);
    }
  }
  EXPECT_GT(curves.stride(), 1);
}

TEST(Curves, NumbersAreShortAndKeepTheirSize) {
  const auto text = [](double value) {
    std::string out;
    append_number(out, value);
    return out;
  };
  EXPECT_EQ(text(0.1234567891), "0.123457");
  EXPECT_EQ(text(1e-12), "1e-12");
  EXPECT_EQ(text(3), "3");
  EXPECT_EQ(text(std::nan("")), "null");
}

}  // namespace
}  // namespace lockstep::report
