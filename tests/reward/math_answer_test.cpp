// The reward "accuracy" against math_verify.
// SPDX-License-Identifier: Apache-2.0
#include "reward/math_answer.h"

#include <cstdlib>
#include <ctime>
#include <filesystem>
#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "base/json.h"
#include "tests/support/json_lines.h"
#include "tests/support/source_dir.h"

namespace lockstep::reward {
namespace {

const std::filesystem::path kCases =
    testing::source_dir() / "tests" / "data" / "reward" / "math_answers.jsonl";

bool is_correct_answer(std::string_view completion, std::string_view solution) {
  return Solution(solution).is_met_by(completion);
}

struct Counts {
  int64_t all = 0, known_differences = 0;
};

Counts expect_scores(const std::filesystem::path& path) {
  Counts counts;
  for_each_json_line(path, [&](int64_t line, Json&& row) {
    ++counts.all;
    if (row.contains("ours")) {
      ++counts.known_differences;
      EXPECT_NE(row["ours"], row["score"]) << line;
      EXPECT_FALSE(row.at("note").get<std::string>().empty()) << line;
    }
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

std::string repeated(std::string_view part, size_t count) {
  std::string text;
  for (size_t i = 0; i < count; ++i) text += part;
  return text;
}

/// Completions that are made to take long, or much memory: no answer of a person.
// long: a list.
std::vector<std::string> hostile_completions() {
  constexpr size_t kLongest = 100'000, kLong = 25'000;
  std::vector<std::string> completions = {
      "\\boxed{" + repeated("{", kLongest) + repeated("}", kLongest) + "}",
      "\\boxed{" + repeated("(", kLong) + "}",
      "\\boxed{2" + repeated("^2", 2000) + "}",
      "\\boxed{" + repeated("2^{", 190) + "2" + repeated("}", 190) + "}",
      "\\boxed{" + repeated("\\frac{1}{", 400) + "2" + repeated("}", 400) + "}",
      "\\boxed{" + repeated("\\begin{pmatrix}x&1\\\\1&x\\end{pmatrix}", 80) + "}",
      "\\boxed{" + repeated("-", 4000) + "1}",
      "\\boxed{" + repeated("x=", 1000) + "1}",
      "\\boxed{" + repeated("\\sqrt{2+", 150) + "2" + repeated("}", 150) + "}",
      "\\boxed{" + repeated("[0,1]\\cup", 400) + "[2,3]}",
      "<answer>" + repeated("1", kLong) + "</answer>",
      "<answer>1" + repeated("+", kLong) + "</answer>",
      "<answer>" + repeated(" and ", kLong / 5) + "$1$</answer>",
      "<answer>$" + repeated("\\text{", kLong / 6) + "$</answer>",
      "answer " + repeated("$", kLong),
      "final answer " + repeated("$1$ and ", kLong / 8),
      std::string("\\boxed{a\0b}", 12),
  };
  for (const char* part :
       {"\\boxed{", "$ \\boxed{ ", "\\[ ", "\\( ", " [ ", "answer: $", "answer is $x$ and ",
        "final answer is ", "<answer>", "\\text{", "<answer>=1 ", "\\frac", " sqrt(", "\xff"})
    completions.push_back(repeated(part, kLong / std::string(part).size()));
  completions.push_back("<answer>0." + repeated("1", kLong) + "...</answer>");
  completions.push_back("<answer>" + repeated("0.12", 1000) + "...</answer>");
  completions.push_back("\\boxed{0." + repeated("12345678", 500) + "\\ldots}");
  completions.push_back("\\boxed{" + repeated("7", 2'000'000) + "}");
  completions.push_back("<answer>" + repeated("A, ", 60) + "A</answer>");
  completions.push_back("<answer>" + repeated("\\text{", 25) + "</answer>");
  completions.push_back("<answer>1e" + repeated("9", 2000) + "</answer>");
  for (const char* part : {"1 ", "=1 ", "= ", "1,", "1+", "**", "**a", "$1$ and ", "\\frac{1}{2} "})
    completions.push_back("<answer>" + repeated(part, kLong / std::string(part).size()) +
                          "</answer>");
  for (const char* answer : {"2^{2^{2^{2^{2}}}}",
                             "10^{999999999999}",
                             "10^{10^{10}}",
                             "9^{9^{9^{9}}}+1",
                             "(1/3)^{99999999}",
                             "99999999!",
                             "((((100!)!)!)!)!",
                             "\\binom{100000}{50000}",
                             "\\binom{10^{12}}{10^{11}}",
                             "\\sin(10^{10^{10}})",
                             "e^{e^{e^{e^{e}}}}",
                             "\\sqrt[1000000007]{2}",
                             "2^{1/1000000007}",
                             "\\sqrt[0]{2}",
                             "1/0",
                             "\xff\xfe",
                             "\\",
                             "\\}",
                             "\\sum_{j=1}^{9999}\\sum_{k=1}^{9999}\\frac{1}{j+k}",
                             "\\prod_{k=1}^{9999}(x+k)",
                             "\\prod_{k=1}^{9999}k^{k}",
                             "\\begin{pmatrix}x&1\\\\1&x\\end{pmatrix}^{1000000}",
                             "\\begin{pmatrix}2&1\\\\1&3\\end{pmatrix}^{1000000}",
                             "\\gcd(10^{5000}+1,3^{9000}+2)",
                             "1.0000000001^{1000000000000}",
                             "(x+1)^{1000000000}",
                             "(1+i)^{64}\\cdot(2+i)^{10^{10}}",
                             "((((1+i)^{64}+i)^{64}+i)^{64}+i)^{64}",
                             "e^{i e^{i e^{i e^{10^9}}}}",
                             "|i+|i+|i+|i+10^{10^{9}}||||",
                             "\\lfloor 10^{1000}\\pi \\rfloor"})
    completions.push_back("\\boxed{" + std::string(answer) + "}");
  return completions;
}

/// Of this process; what others do to the machine does not count.
double cpu_seconds() { return static_cast<double>(std::clock()) / CLOCKS_PER_SEC; }

// What a model may write must never end the run, nor hold it up.
TEST(MathAnswer, EndsSoonOnHostileCompletions) {
  // Optimised, each ends within a second.
  constexpr double kMostSeconds = 20;
  const std::vector<Solution> solutions = {Solution("$x^2+\\frac{17}{23}$"),
                                           Solution("$\\{17,\\sqrt{2}\\}$")};
  for (const std::string& completion : hostile_completions()) {
    for (const Solution& solution : solutions) {
      const double start = cpu_seconds();
      EXPECT_FALSE(solution.is_met_by(completion)) << completion.substr(0, 60);
      EXPECT_LT(cpu_seconds() - start, kMostSeconds) << completion.substr(0, 60);
    }
  }
}

TEST(MathAnswer, EndsSoonOnHostileSolutions) {
  for (const std::string& text : hostile_completions()) {
    const Solution solution(text);
    solution.is_readable();
    EXPECT_FALSE(solution.is_met_by("\\boxed{\\frac{17}{23}}")) << text.substr(0, 60);
  }
}

TEST(MathAnswer, IsReadableWhereMathematicsOrAWordStands) {
  for (const char* text : {"42",
                           "$\\frac{1}{2}$",
                           "C",
                           "Paris",
                           "yes",
                           "no solution",
                           "2\\sqrt{3}",
                           "$7\\text{ kg}$",
                           "#### 72",
                           "7/8 of the cake",
                           "$x$ so $\\boxed{3}$",
                           "$x^2+1$",
                           "$\\infty$",
                           "$\\mathbb{R}$",
                           "9:00",
                           "10^{10^{10}}",
                           "(C)",
                           "B.",
                           "\\textbf{(D)} 12",
                           "A, B and D",
                           "Paris, France",
                           "John's car",
                           "Mr. Smith",
                           "July 4, 1776",
                           "1776-07-04",
                           "10:30 a.m.",
                           "True",
                           "7 kg",
                           "\\$12.50",
                           "$12.50",
                           "25%",
                           "2 1/3",
                           "(1, 2)",
                           "x > 3",
                           "x = 3 or x = 5",
                           "3 + 4i",
                           "$\\sqrt{-4}$",
                           "def f(x): return x",
                           "5 red, 3 blue",
                           "北京",
                           "C++",
                           "H2O",
                           "$\\begin{pmatrix}1\\\\2\\end{pmatrix}$",
                           "2e-5",
                           "0.333...",
                           "[2, 5)",
                           "<answer>7</answer>",
                           "the answer is 5"})
    EXPECT_TRUE(Solution(text).is_readable()) << text;
  for (const char* text :
       {"", "  ", "$\\frac{1}{0}$", "$\\frac{1}{$", "$0^0$", "$\\ln 0$", "\\frac{1}{", "\\boxed{",
        "$(\\frac{1}{0}, 2)$", "1/0", "\\boxed{\\frac{5}{0}}", "$\\log_1 5$", "<answer></answer>",
        "-", "$\\foo{1}{2}$", "it follows from what was said above", "???"})
    EXPECT_FALSE(Solution(text).is_readable()) << text;
}

// Signs of currency in a solution of GSM8K look like LaTeX.
TEST(MathAnswer, ReadsTheAnswerBehindTheMarkOfASolution) {
  const Solution solution(
      "It is $2.00 * 8 = $<<2*8=16>>16.00.\n$16.00 + $4.00 = $20.00\n#### 1,020");
  EXPECT_TRUE(solution.is_readable());
  EXPECT_TRUE(solution.is_met_by("\\boxed{1020}"));
  EXPECT_TRUE(solution.is_met_by("<answer>1,020</answer>"));
  EXPECT_TRUE(solution.is_met_by("<answer>$1020</answer>"));
  EXPECT_FALSE(solution.is_met_by("\\boxed{20}"));
  EXPECT_FALSE(solution.is_met_by("<answer>16</answer>"));
}

// An answer is found by its place in the text, whatever comes before.
TEST(MathAnswer, FindsTheAnswerOfALongCompletion) {
  const std::string thought = repeated("We know that $a_1 = \\frac{3}{7}$ and go on. ", 3000);
  EXPECT_TRUE(Solution("42").is_met_by(thought + "\\boxed{42}"));
  EXPECT_TRUE(Solution("42").is_met_by(thought + "The answer is $\\boxed{42}$."));
  EXPECT_TRUE(Solution("42").is_met_by(thought + "<answer>42</answer>"));
  EXPECT_FALSE(Solution("42").is_met_by(thought + "\\boxed{43}"));
}

}  // namespace
}  // namespace lockstep::reward
