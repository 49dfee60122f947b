// Answers of each kind that people met in the field, and of our own, with the right reward.
// SPDX-License-Identifier: Apache-2.0
#include <filesystem>
#include <map>
#include <string>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "base/json.h"
#include "reward/reward_options.h"
#include "tests/support/json_lines.h"
#include "tests/support/source_dir.h"

namespace lockstep::reward {
namespace {

const std::filesystem::path kData = testing::source_dir() / "tests" / "data";

double accuracy_of(const std::string& completion, const Json& columns) {
  static const auto accuracy = make_reward("accuracy", {}, {});
  const RewardInput input{.completion = completion, .columns = &columns, .where = "test"};
  return accuracy->score({&input, 1}, {}).at(0).value();
}

/// How many rows of each kind there are in a file; each must get its score, or what the file says
/// that we give it wrongly.
std::map<std::string, int> expect_right_scores(const std::filesystem::path& path) {
  std::map<std::string, int> kinds;
  for_each_json_line(path, [&](int64_t line, Json&& row) {
    ++kinds[row.at("kind")];
    const double right = row.at("score");
    EXPECT_EQ(accuracy_of(row.at("completion"), {{"solution", row.at("solution")}}),
              row.value("ours", right))
        << path.filename() << ":" << line << ": " << row.dump();
    // What is listed as a difference is one.
    if (row.contains("math_verify")) {
      EXPECT_NE(row["math_verify"], right) << line;
    }
    if (row.contains("ours")) {
      EXPECT_NE(row["ours"], right) << line;
      EXPECT_FALSE(row.at("note").get<std::string>().empty()) << line;
    }
  });
  return kinds;
}

TEST(JudgedCases, FieldCasesGetTheRightReward) {
  EXPECT_EQ(expect_right_scores(kData / "field_cases" / "rewards.jsonl").size(), 9u);
}

TEST(JudgedCases, OtherCasesOfEachKindGetTheRightReward) {
  const auto kinds = expect_right_scores(kData / "reward" / "kinds.jsonl");
  for_each_json_line(kData / "field_cases" / "rewards.jsonl", [&](int64_t, Json&& row) {
    const std::string kind = row.at("kind");
    ASSERT_TRUE(kinds.contains(kind)) << kind;
    EXPECT_GE(kinds.at(kind), 30) << kind;
  });
}

TEST(JudgedCases, NeighboursOfThemGetTheRightReward) {
  int64_t count = 0;
  for (const auto& [kind, rows] : expect_right_scores(kData / "reward" / "neighbours.jsonl"))
    count += rows;
  EXPECT_GE(count, 1300);
}

/// The columns of a row as a dataset reads them.
Json columns_of(const std::string& text) {
  return parse_json(text, "test", "bad-row", {.keep_digits = true});
}

TEST(JudgedCases, FieldCasesOfNumbersAsSolutionsGetTheRightReward) {
  int64_t count = 0;
  const auto judge = [&](int64_t, const std::string& line) {
    const Json row = columns_of(line);
    EXPECT_EQ(accuracy_of(row.at("completion"), row.at("row")), row.at("score").get<double>())
        << line;
    ++count;
  };
  for_each_line(kData / "field_cases" / "number_solutions.jsonl", judge);
  EXPECT_EQ(count, 2);
}

TEST(JudgedCases, NumbersAsSolutionsKeepTheirDigits) {
  const struct {
    const char *solution, *completion;
    double score;
  } cases[] = {
      {"2e-05", "\\boxed{0.00002}", 1},
      {"2e-05", "\\boxed{2\\times 10^{-5}}", 1},
      {"2e-05", "\\boxed{\\frac{1}{50000}}", 1},
      {"2e-05", "<answer>2e-05</answer>", 1},
      {"2e-05", "\\boxed{0.00003}", 0},
      {"2e-05", "\\boxed{2}", 0},
      {"2e-05", "\\boxed{0}", 0},
      {"0.00002", "\\boxed{0.00002}", 1},
      {"1e3", "\\boxed{1000}", 1},
      {"1E+3", "<answer>1,000</answer>", 1},
      {"5.0", "\\boxed{5}", 1},
      {"5", "\\boxed{5.0}", 1},
      {"-3", "\\boxed{-3}", 1},
      {"-0.5", "\\boxed{-\\frac{1}{2}}", 1},
      {"0.1", "\\boxed{\\frac{1}{10}}", 1},
      {"987654321098765432109876543210", "\\boxed{987654321098765432109876543210}", 1},
      {"987654321098765432109876543210", "\\boxed{987654321098765432109876543211}", 0},
      {"987654321098765432109876543210",
       "\\boxed{987{,}654{,}321{,}098{,}765{,}432{,}109{,}876{,}543{,}210}", 1},
      {"9007199254740993", "\\boxed{9007199254740992}", 0},
      {"18446744073709551616", "\\boxed{2^{64}}", 1},
      {"18446744073709551616", "\\boxed{2^{64}+1}", 0},
      {"3.14159265358979323846264338327950288", "\\boxed{3.14159265358979323846264338327950288}",
       1},
      {"1e-400", "\\boxed{0}", 0},
      {"1e-400", "\\boxed{10^{-400}}", 1},
      {"0", "\\boxed{0}", 1},
      {"1e400", "\\boxed{10^{400}}", 1},
      {"1e400", "\\boxed{10^{401}}", 0},
      {"1e400", "\\boxed{\\infty}", 0},
      {"1e308", "\\boxed{10^{308}}", 1},
      {"2.5E+2", "<answer>250</answer>", 1},
      {"2.5E+2", "<answer>2.5e2</answer>", 1},
      {"2.5E+2", "<answer>2.5</answer>", 0},
      {"-0", "\\boxed{0}", 1},
      {"-0.0", "<answer>0</answer>", 1},
      {"1.10", "\\boxed{\\frac{11}{10}}", 1},
      {"100", "<answer>100 apples</answer>", 1},
      {"100", "<answer>100%</answer>", 1},
      {"9007199254740993", "<answer>9,007,199,254,740,993</answer>", 1},
      {"9007199254740993.5", "<answer>9007199254740993.5</answer>", 1},
      {"9007199254740993.5", "<answer>9007199254740994</answer>", 0},
      {"0.3333333333333333", "\\boxed{\\frac{1}{3}}", 1},
      {"1e-7", "<answer>0.0000001</answer>", 1},
      {"1e-7", "<answer>0.0000002</answer>", 0},
      {"12345678901234567890.125", "<answer>12345678901234567890.126</answer>", 0},
  };
  for (const auto& [solution, completion, score] : cases) {
    EXPECT_EQ(accuracy_of(completion, columns_of("{\"solution\": " + std::string(solution) + "}")),
              score)
        << solution << " and " << completion;
  }
}

}  // namespace
}  // namespace lockstep::reward
