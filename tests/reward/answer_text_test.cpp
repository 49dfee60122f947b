// SPDX-License-Identifier: Apache-2.0
#include "reward/answer_text.h"

#include <utility>

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
      {"7\\text{ kg}", "7 kg"},
      {"7 \\text{ kg}", "7 kg"},
      {"\\dfrac{1}{2}", "\\frac{1}{2}"},
      {"\\left( 1 \\right)", "(1)"},
      {"\\leftarrow", "\\leftarrow"},
      {"$1$ and $2$", "$1$and$2$"},
      {"\\text{a} or \\text{b}", "a or b"},
      {"...", "..."},
      {"", ""},
      {"$", "$"},
      {"\\boxed{", "\\boxed{"},
      {"2*3*4", "2*3*4"},
  };
  for (const auto& [text, trimmed] : cases) EXPECT_EQ(trimmed_answer(text), trimmed) << text;
}

TEST(AnswerText, WritesCommandsOfTwoNamesInOneWay) {
  for (const auto& [one, other] : {std::pair{"p \\land q", "p \\wedge q"},
                                   {"\\lnot p", "\\neg p"},
                                   {"a \\leqslant b", "a \\le b"},
                                   {"a \\gt b", "a > b"},
                                   {"10\\!:\\!30\\text{ AM}", "10:30 AM"}})
    EXPECT_EQ(trimmed_answer(one), trimmed_answer(other));
  EXPECT_NE(trimmed_answer("p \\lor q"), trimmed_answer("p \\land q"));
  EXPECT_NE(trimmed_answer("a \\leq b"), trimmed_answer("a \\geq b"));
  // \le is no part of \left and \left none of \leftarrow.
  EXPECT_EQ(trimmed_answer("\\lesssim"), "\\lesssim");
}

TEST(AnswerText, GroupsDigitsAsInEnglish) {
  EXPECT_EQ(with_plain_groups("37\u2009500"), "37 500");
  EXPECT_EQ(with_plain_groups("a\u2009b"), "a\u2009b");
  EXPECT_EQ(with_plain_groups("37'500"), "37500");
  EXPECT_EQ(with_plain_groups("about 1_234_567 of them"), "about 1234567 of them");
  // A height, a base, a name and LaTeX are no groups.
  for (const char* text : {"5'10", "12_3456", "x_123", "1'234'56", "$101_222$", "\\log_333"})
    EXPECT_EQ(with_plain_groups(text), text);
}

TEST(AnswerText, LeavesOutWhatIsRoundedInWords) {
  EXPECT_EQ(without_rounding("$\\sqrt{2}$ (approximately 1.414)"), "$\\sqrt{2}$");
  EXPECT_EQ(without_rounding("$\\sqrt{2}$, or about 1.41."), "$\\sqrt{2}$");
  EXPECT_EQ(without_rounding("$\\sqrt{2}$ ≈ $1.414$"), "$\\sqrt{2}$");
  for (const char* text : {"1.414", "about 1.414", "$\\sqrt{2}\\approx 1.414$", "about $\\sqrt{2}$",
                           "$x ≈ 1.4$", "the book about 3 men"})
    EXPECT_FALSE(without_rounding(text)) << text;
}

TEST(AnswerText, KnowsWhatAChoiceSays) {
  EXPECT_EQ(text_of_choice("(C) 17"), "17");
  EXPECT_EQ(text_of_choice("$\\textbf{(C)}\\ 17$"), "17");
  EXPECT_EQ(text_of_choice("\\textbf{(C) }\\frac{1}{2}"), "\\frac{1}{2}");
  EXPECT_EQ(text_of_choice("\\text{(C) apples}"), "apples");
  for (const char* text : {"C", "(C)", "\\textbf{(C)}", "C 17", "(Z) 17", "17", "f(C) 17"})
    EXPECT_EQ(text_of_choice(text), "") << text;
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
