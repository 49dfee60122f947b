// Fractions of any size, intervals that hold real numbers, and their comparison.
// SPDX-License-Identifier: Apache-2.0
#include "reward/exact_value.h"

#include <random>

#include <gtest/gtest.h>

#include "reward/math_arithmetic.h"
#include "reward/math_compare.h"
#include "reward/math_parser.h"
#include "reward/real_interval.h"
#include "reward/real_set.h"
#include "reward/real_value.h"
#include "reward/residue.h"
#include "tests/support/test_seed.h"

namespace lockstep::reward {
namespace {

constexpr int64_t kPlenty = 1'000'000'000;

MathPtr parsed(std::string_view latex) {
  const MathPtr value = parse_latex(latex);
  EXPECT_TRUE(value) << latex;
  return value ? value : make_integer(0);
}

std::optional<Rational> exact(std::string_view latex) {
  WorkBudget work(kPlenty);
  return exact_value(*parsed(latex), work);
}

Comparison compared(std::string_view left, std::string_view right) {
  WorkBudget work(kPlenty);
  return compare_values(*parsed(left), *parsed(right), work);
}

TEST(ExactValue, IsAFractionOfAnySize) {
  EXPECT_EQ(exact("\\frac{6}{4}"), Rational(3, 2));
  EXPECT_EQ(exact("2^{-3}"), Rational(1, 8));
  EXPECT_EQ(exact("(-2)^{-3}"), Rational(-1, 8));
  EXPECT_EQ(exact("\\sqrt{\\frac{4}{9}}"), Rational(2, 3));
  EXPECT_EQ(exact("8^{2/3}"), Rational(4));
  EXPECT_EQ(exact("\\sqrt[3]{-8}"), Rational(-2));
  EXPECT_EQ(exact("25!/23!"), Rational(600));
  EXPECT_EQ(exact("\\binom{10}{3}"), Rational(120));
  EXPECT_EQ(exact("\\binom{3}{10}"), Rational(0));
  EXPECT_EQ(exact("\\lfloor -\\frac{7}{2} \\rfloor + \\lceil -3.5 \\rceil"), Rational(-7));
  EXPECT_EQ(exact("-7 \\bmod 5"), Rational(-2));
  EXPECT_EQ(exact("(-7) \\bmod 5"), Rational(3));
  EXPECT_EQ(exact("12.5\\%"), Rational(1, 8));
  EXPECT_EQ(exact("0.1(6)"), Rational(3, 5));  // digits that repeat have an overline
  EXPECT_EQ(exact("0.1\\overline{6}"), Rational(1, 6));
  EXPECT_EQ(exact("2^{1000}")->get_num().get_str(2), "1" + std::string(1000, '0'));
  EXPECT_EQ(exact("10^{100000}")->get_num().get_str().size(), 100'001u);
}

TEST(ExactValue, IsNothingForWhatIsNoFraction) {
  for (const char* latex : {"\\sqrt{2}", "\\pi", "x", "\\sin 1", "2^{x}", "2^{\\frac{1}{65}}",
                            "10^{10^{10}}", "99999999!", "\\sqrt{-1}", "\\infty"})
    EXPECT_FALSE(exact(latex)) << latex;
}

TEST(ExactValue, RefusesWhatHasNoValue) {
  for (const char* latex : {"\\frac{1}{0}", "0^0", "0^{-1}", "\\frac{1}{2-2}", "(-1)!",
                            "5 \\bmod 0", "3:0", "\\frac{0}{0}"})
    EXPECT_THROW(exact(latex), UndefinedValue) << latex;
}

TEST(ExactValue, StopsAtTheBoundOfWork) {
  WorkBudget work(1000);
  EXPECT_THROW(exact_value(*parsed("2^{100000}"), work), TooMuchWork);
}

TEST(Residue, AgreesWithTheExactValue) {
  WorkBudget work(kPlenty);
  for (const char* latex : {"2^{100}", "-3", "\\frac{2}{7}", "5!-3^{40}", "2^{-5}+1"}) {
    const MathPtr value = parsed(latex);
    const Rational fraction = *exact_value(*value, work);
    for (const uint64_t prime : kResiduePrimes) {
      const uint64_t residue = residue_of(*value, prime, work).value();
      const Integer difference =
          fraction.get_den() * static_cast<unsigned long>(residue) - fraction.get_num();
      EXPECT_EQ(difference % static_cast<unsigned long>(prime), 0) << latex;
    }
  }
  EXPECT_NE(residue_of(*parsed("2^{10^{12}}"), kResiduePrimes[0], work),
            residue_of(*parsed("2^{10^{12}}+1"), kResiduePrimes[0], work));
  EXPECT_FALSE(residue_of(*parsed("\\sqrt{2}"), kResiduePrimes[0], work));
}

TEST(RealValue, OrdersNumbers) {
  EXPECT_EQ(compared("\\frac{1}{3}", "0.3333"), Comparison::kGreater);
  EXPECT_EQ(compared("\\sqrt{2}", "1.41421356"), Comparison::kGreater);
  EXPECT_EQ(compared("\\pi", "\\frac{355}{113}"), Comparison::kLess);
  EXPECT_EQ(compared("e^{\\pi}", "\\pi^{e}"), Comparison::kGreater);
  EXPECT_EQ(compared("2^{10^{9}}", "3^{10^{8}}"), Comparison::kGreater);
  EXPECT_EQ(compared("\\ln 2", "\\frac{\\log 2}{\\log e}"), Comparison::kEqual);
  EXPECT_EQ(compared("\\sin 30^\\circ", "\\frac{1}{2}"), Comparison::kEqual);
  EXPECT_EQ(compared("\\arctan 1", "\\frac{\\pi}{4}"), Comparison::kEqual);
  EXPECT_EQ(compared("\\cosh 1", "\\frac{e+e^{-1}}{2}"), Comparison::kEqual);
  EXPECT_EQ(compared("\\tan(\\arctan 3)", "3"), Comparison::kEqual);
  EXPECT_EQ(compared("\\max(\\sqrt{2},\\sqrt{3})", "\\sqrt{3}"), Comparison::kEqual);
  EXPECT_EQ(compared("\\lfloor 100\\pi \\rfloor", "314"), Comparison::kEqual);
}

// Digits far behind those of a double decide.
TEST(RealValue, ComparesWithAsManyDigitsAsTheOperandsNeed) {
  EXPECT_EQ(compared("\\sqrt{10^{400}+1}", "10^{200}"), Comparison::kGreater);
  EXPECT_EQ(compared("\\sqrt{10^{400}+2\\cdot 10^{200}+1}", "10^{200}+1"), Comparison::kEqual);
  EXPECT_EQ(compared("(\\sqrt{3})^{20000}", "3^{10000}"), Comparison::kEqual);
  EXPECT_EQ(compared("(\\sqrt{3})^{20000}", "3^{10000}+1"), Comparison::kLess);
  EXPECT_EQ(compared("e^{-1000}", "0"), Comparison::kGreater);
  EXPECT_EQ(compared("\\sqrt{2}\\cdot\\sqrt{2}-2", "0"), Comparison::kEqual);
  EXPECT_EQ(compared("\\sqrt{2}\\cdot\\sqrt{2}-2", "10^{-100}"), Comparison::kLess);
  EXPECT_EQ(compared("e^{\\pi\\sqrt{163}}", "262537412640768744"), Comparison::kLess);
  EXPECT_EQ(compared("1000000!", "1000000\\cdot 999999!"), Comparison::kEqual);
  EXPECT_EQ(compared("e^{100000}", "e\\cdot e^{99999}"), Comparison::kEqual);
}

TEST(RealValue, KnowsNothingOfWhatItCannotCompute) {
  EXPECT_EQ(compared("\\sin(10^{10^{9}})", "0"), Comparison::kUnknown);
  EXPECT_EQ(compared("\\frac{1}{\\sqrt{2}\\sqrt{2}-2}", "5"), Comparison::kUnknown);
  EXPECT_EQ(compared("\\tan\\frac{\\pi}{2}", "5"), Comparison::kUnknown);
  WorkBudget work(kPlenty);
  EXPECT_THROW(compare_values(*parsed("\\ln(-1)"), *parsed("0"), work), UndefinedValue);
  EXPECT_THROW(compare_values(*parsed("\\arcsin 2"), *parsed("0"), work), UndefinedValue);
}

/// A random formula of integers, and its value. Division only by constants that are not zero.
std::pair<MathPtr, Rational> random_formula(std::mt19937_64& random, int depth) {
  if (depth == 0) {
    const long value = static_cast<long>(random() % 199) - 99;
    return {make_integer(value), Rational(value)};
  }
  const auto [left, a] = random_formula(random, depth - 1);
  const auto [right, b] = random_formula(random, depth - 1);
  switch (random() % 4) {
    case 0:
      return {make_math(MathKind::kAdd, {left, right}), Rational(a + b)};
    case 1:
      return {make_math(MathKind::kMultiply, {left, right}), Rational(a * b)};
    case 2:
      return {make_math(MathKind::kAdd, {left, negate(right)}), Rational(a - b)};
    default:
      if (b == 0) return {left, a};
      return {make_math(MathKind::kMultiply, {left, reciprocal(right)}), Rational(a / b)};
  }
}

// The three evaluations look at the same formulas: fractions, residues, intervals.
TEST(RealValue, AgreesWithFractionsOnRandomFormulas) {
  std::mt19937_64 random(testing::test_seed(7));
  for (int i = 0; i < 300; ++i) {
    const auto [formula, value] = random_formula(random, 1 + i % 5);
    WorkBudget work(kPlenty);
    EXPECT_EQ(exact_value(*formula, work), value);
    // A root that comes to nothing forces intervals.
    const MathPtr root =
        make_math(MathKind::kPower, {make_integer(2), make_number(Rational(1, 2))});
    const MathPtr disguised = make_math(MathKind::kAdd, {formula, root, negate(root)});
    EXPECT_EQ(compare_values(*disguised, *make_number(value), work), Comparison::kEqual);
    const Rational other = value + Rational(1, Integer("1" + std::string(30, '0')));
    EXPECT_EQ(compare_values(*disguised, *make_number(other), work), Comparison::kLess);
  }
}

TEST(RealInterval, HoldsTheValueOfEachFunction) {
  std::mt19937_64 random(testing::test_seed(8));
  for (const char* name : {"sin", "cos", "tan", "cot", "sec", "csc", "arcsin", "arccos", "arctan",
                           "sinh", "cosh", "tanh", "exp", "ln"}) {
    for (int i = 0; i < 50; ++i) {
      const Rational x(static_cast<long>(1 + random() % 998), 1000);
      const RealInterval narrow = elementary(name, RealInterval(x, 200));
      RealInterval wide(x, 60);
      mpfr_nextbelow(wide.low());
      mpfr_nextabove(wide.high());
      const RealInterval outer = elementary(name, wide);
      EXPECT_TRUE(mpfr_lessequal_p(outer.low(), narrow.low())) << name << " of " << x;
      EXPECT_TRUE(mpfr_lessequal_p(narrow.high(), outer.high())) << name << " of " << x;
      EXPECT_LT(narrow.width_exponent(), -180) << name << " of " << x;
    }
  }
}

TEST(RealSet, KnowsUnionsAndComplements) {
  WorkBudget work(kPlenty);
  const auto are_same = [&](const char* left, const char* right) {
    const auto a = real_set_of(*parsed(left), work), b = real_set_of(*parsed(right), work);
    return a && b && is_same_set(*a, *b, work);
  };
  EXPECT_TRUE(are_same("[0,1]\\cup[1,2]", "[0,2]"));
  EXPECT_TRUE(are_same("[0,1)\\cup\\{1\\}", "[0,1]"));
  EXPECT_FALSE(are_same("[0,1)\\cup(1,2]", "[0,2]"));
  EXPECT_TRUE(are_same("[3,4]\\cup[0,1]\\cup(1,2)", "[0,2)\\cup[3,4]"));
  EXPECT_TRUE(are_same("\\mathbb{R}\\setminus(0,1)", "(-\\infty,0]\\cup[1,\\infty)"));
  EXPECT_TRUE(are_same("(0,3)\\cap[1,5]", "[1,3)"));
  EXPECT_TRUE(are_same("[0,2]\\setminus\\{1\\}", "[0,1)\\cup(1,2]"));
  EXPECT_TRUE(are_same("(0,\\sqrt{2})\\cup[\\sqrt{2},2)", "(0,2)"));
  EXPECT_TRUE(are_same("\\{x \\mid x > 1, x \\ne 2\\}", "(1,2)\\cup(2,\\infty)"));
  EXPECT_TRUE(are_same("1 < x \\le 3", "(1,3]"));
  EXPECT_FALSE(real_set_of(*parsed("(2,1)"), work));
  EXPECT_FALSE(real_set_of(*parsed("(a,1)"), work));
  EXPECT_FALSE(real_set_of(*parsed("x < y"), work));
}

TEST(MathArithmetic, MultipliesMatricesAsIntegersDo) {
  std::mt19937_64 random(testing::test_seed(9));
  for (int i = 0; i < 50; ++i) {
    const auto entry = [&] { return std::to_string(static_cast<int>(random() % 19) - 9); };
    const auto matrix = [&] {
      return "\\begin{pmatrix}" + entry() + "&" + entry() + "\\\\" + entry() + "&" + entry() +
             "\\end{pmatrix}";
    };
    const std::string a = matrix(), b = matrix(), c = matrix();
    WorkBudget work(kPlenty);
    const auto are_same = [&](const std::string& left, const std::string& right) {
      return is_same_answer(parsed(left), parsed(right), work);
    };
    EXPECT_TRUE(are_same("(" + a + b + ")" + c, a + "(" + b + c + ")"));
    EXPECT_TRUE(are_same(a + "(" + b + "+" + c + ")", a + b + "+" + a + c));
    EXPECT_TRUE(are_same("(" + a + b + ")^T", b + "^T" + a + "^T"));
    EXPECT_TRUE(are_same("\\det(" + a + b + ")", "\\det " + a + "\\cdot\\det " + b));
    EXPECT_TRUE(are_same(a + "^3", a + a + a));
  }
}

}  // namespace
}  // namespace lockstep::reward
