// SPDX-License-Identifier: Apache-2.0
#include "reward/answer_text.h"

#include <gtest/gtest.h>

namespace lockstep::reward {
namespace {

TEST(AnswerText, LosesWhatOnlySetsIt) {
  const struct {
    const char *text, *trimmed;
  } cases[] = {
      {" C ", "C"},
      {"$C$", "C"},
      {"$$C$$", "C"},
      {"\\(C\\)", "C"},
      {"\\[C\\]", "C"},
      {"\\boxed{C}", "C"},
      {"$\\boxed{C}$", "C"},
      {"\\text{C}", "C"},
      {"\\textbf{(C)}", "C"},
      {"**C**", "C"},
      {"__C__", "C"},
      {"`C`", "C"},
      {"(C)", "C"},
      {"C)", "C"},
      {"C.", "C"},
      {"**(C).**", "C"},
      {"\"C\"", "C"},
      {"(CD)", "(CD)"},
      {"(1)", "(1)"},
      {"f(x)", "f(x)"},
      {"a   b", "a b"},
      {"( 1 , 2 )", "(1,2)"},
      {"7\\text{ kg}", "7\\text{kg}"},
      {"7 \\text{ kg}", "7\\text{kg}"},
      {"\\dfrac{1}{2}", "\\frac{1}{2}"},
      {"\\left( 1 \\right)", "(1)"},
      {"\\leftarrow", "\\leftarrow"},
      {"$1$ and $2$", "$1$and$2$"},
      {"\\text{a} or \\text{b}", "\\text{a}or\\text{b}"},
      {"...", "..."},
      {"", ""},
      {"$", "$"},
      {"\\boxed{", "\\boxed{"},
      {"2*3*4", "2*3*4"},
  };
  for (const auto& [text, trimmed] : cases) EXPECT_EQ(trimmed_answer(text), trimmed) << text;
}

TEST(AnswerText, KeepsPowersAndLosesEmphasis) {
  EXPECT_EQ(without_emphasis("**41**"), "41");
  EXPECT_EQ(without_emphasis("It is **41**, **not** 42."), "It is 41, not 42.");
  EXPECT_EQ(without_emphasis("2**10"), "2**10");
  EXPECT_EQ(without_emphasis("2**3**2"), "2**3**2");
  EXPECT_EQ(without_emphasis("(1+1)**2 ** 3"), "(1+1)**2 ** 3");
  EXPECT_EQ(without_emphasis("**a"), "**a");
  EXPECT_EQ(without_emphasis("****"), "****");
  EXPECT_EQ(without_emphasis("**"), "**");
  EXPECT_EQ(without_emphasis(""), "");
}

TEST(AnswerText, TellsFormulasFromWords) {
  for (const char* text : {"2\\sqrt{3}", "x^2+2x+1", "\\frac{1}{2}", "sin x", "\\text{east}", "ab"})
    EXPECT_TRUE(may_be_formula(text)) << text;
  for (const char* text : {"7/8 of the cake", "", "line\nline"})
    EXPECT_FALSE(may_be_formula(text)) << text;
  for (const char* text : {"yes", "no solution", "Saint-Denis", "北京"})
    EXPECT_TRUE(is_phrase(text)) << text;
  for (const char* text : {"", "7", "a + b", "one two three four five six"})
    EXPECT_FALSE(is_phrase(text)) << text;
}

}  // namespace
}  // namespace lockstep::reward
