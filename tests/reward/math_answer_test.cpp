// The reward "accuracy" against math_verify.
// SPDX-License-Identifier: Apache-2.0
#include "reward/math_answer.h"

#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "base/json.h"

namespace lockstep::reward {
namespace {

const std::filesystem::path kCases =
    std::filesystem::path(LOCKSTEP_SOURCE_DIR) / "tests" / "data" / "reward" / "math_answers.jsonl";

struct Counts {
  int64_t all = 0, known_differences = 0;
};

Counts expect_scores(const std::filesystem::path& path) {
  Counts counts;
  for_each_json_line(path, [&](int64_t line, Json&& row) {
    ++counts.all;
    if (row.contains("ours")) ++counts.known_differences;
    const double expected = row.value("ours", row.at("score").get<double>());
    EXPECT_EQ(is_correct_answer(row.at("completion").get<std::string>(),
                                row.at("solution").get<std::string>()),
              expected == 1.0)
        << "line " << line << ": " << row.dump();
  });
  return counts;
}

TEST(MathAnswer, EqualsMathVerifyButForKnownDifferences) {
  const Counts counts = expect_scores(kCases);
  EXPECT_GE(counts.all, 2500);
  EXPECT_LE(counts.known_differences, counts.all / 50);
}

// For a one-off comparison: see tools/parity/math_answer.py --random.
TEST(MathAnswer, EqualsMathVerifyOnCasesOfAFile) {
  const char* path = std::getenv("LOCKSTEP_MATH_ANSWERS");
  if (path == nullptr) GTEST_SKIP() << "LOCKSTEP_MATH_ANSWERS names no file";
  EXPECT_GT(expect_scores(path).all, 0);
}

TEST(MathAnswer, ComparesIntegersBeyondDoubleExactly) {
  EXPECT_TRUE(is_correct_answer("\\boxed{9007199254740993}", "9007199254740993"));
  EXPECT_FALSE(is_correct_answer("\\boxed{9007199254740992}", "9007199254740993"));
  EXPECT_FALSE(is_correct_answer("\\boxed{100000000000000000000000000000000000001}",
                                 "$100000000000000000000000000000000000002$"));
  const std::string digits(60, '7');
  EXPECT_TRUE(is_correct_answer("\\boxed{" + digits + "}", digits));
  EXPECT_FALSE(is_correct_answer("\\boxed{" + digits + "}", digits.substr(1) + "8"));
}

std::string repeated(std::string_view part, int count) {
  std::string text;
  for (int i = 0; i < count; ++i) text += part;
  return text;
}

// What a model may write must never end the run, nor hold it up.
TEST(MathAnswer, EndsOnHostileCompletions) {
  const std::vector<std::string> completions = {
      "\\boxed{" + repeated("(", 20'000) + "}",
      "\\boxed{" + repeated("\\frac{", 2'000) + "}",
      repeated("$ \\boxed{ ", 2'000),
      "\\boxed{2" + repeated("^2", 2'000) + "}",
      "\\boxed{2^{2^{2^{2^{2}}}}}",
      "\\boxed{10^{999999999999}}",
      "\\boxed{(1/3)^{99999999}}",
      "\\boxed{99999999!}",
      "\\boxed{\\binom{100000}{50000}}",
      "\\boxed{\\sqrt[0]{2}}",
      "\\boxed{1/0}",
      "\\boxed{\xff\xfe}",
      "\\boxed{\\",
      "\\boxed{\\}",
      "answer " + repeated("$", 50'000),
      "answer " + repeated("[", 50'000),
      "<answer>" + repeated("1", 50'000) + "</answer>",
      "<answer>1" + repeated("+", 50'000) + "</answer>",
      std::string("\\boxed{a\0b}", 12),
  };
  for (const std::string& completion : completions)
    EXPECT_FALSE(is_correct_answer(completion, "$\\frac{17}{23}$")) << completion.substr(0, 60);
}

}  // namespace
}  // namespace lockstep::reward
