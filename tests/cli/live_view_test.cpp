// SPDX-License-Identifier: Apache-2.0
#include "cli/live_view.h"

#include <cmath>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/json.h"
#include "text/unicode.h"

namespace lockstep::cli {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::StartsWith;

TEST(Sparkline, RunsFromTheLeastToTheGreatest) {
  EXPECT_EQ(sparkline({0, 1, 2, 3, 4, 5, 6, 7}, 20), "▁▂▃▄▅▆▇█");
  EXPECT_EQ(sparkline({5, -3}, 20), "█▁");
  EXPECT_EQ(sparkline({2, 2, 2}, 20), "▁▁▁");
  EXPECT_EQ(sparkline({1}, 20), "");
  EXPECT_EQ(sparkline({}, 20), "");
}

TEST(Sparkline, MoreValuesThanRoomAreAveraged) {
  EXPECT_EQ(sparkline({0, 2, 4, 6}, 2), "▁█");
  std::vector<double> many;
  for (int i = 0; i < 1003; ++i) many.push_back(i);
  EXPECT_EQ(text::terminal_columns(sparkline(many, 20)), 20);
}

TEST(OneRow, WhateverATextHoldsIsOneRowOfThatWidth) {
  EXPECT_EQ(one_row("a\nb\tc", 20), "a⏎b c");
  EXPECT_EQ(one_row("\x1b[2J\r", 20), "\\x1b[2J\\x0d");
  EXPECT_EQ(one_row("abcdef", 6), "abcdef");
  EXPECT_EQ(one_row("abcdefg", 6), "abcde…");
  EXPECT_EQ(one_row("你好世界", 8), "你好世界");
  EXPECT_EQ(one_row("你好世界", 7), "你好世…");
  EXPECT_EQ(one_row("\xff\xfe", 9), "��");
  EXPECT_EQ(one_row("abc", 0), "");
}

Json logged(double reward) {
  return {{"reward", reward}, {"reward_std", 0.25}, {"completions/mean_length", 12.5},
          {"kl", 0.001},      {"entropy", 1.5},     {"memory(GiB)", 3.25}};
}

TEST(LiveViewTest, SaysHowTheRunLearns) {
  LiveView view;
  EXPECT_THAT(view.rows(100), IsEmpty());
  view.take_line("", logged(0.25));
  view.take_line("", {{"eval_reward", 0.9}});
  view.take_line("", logged(0.75));
  EXPECT_THAT(view.rows(120),
              ElementsAre("reward ▁█ 0.75 ± 0.25  length 12.5  kl 0.001  entropy 1.5  memory 3.25 "
                          "GiB"));
  for (const int width : {10, 20, 40, 60, 80})
    for (const std::string& row : view.rows(width)) {
      EXPECT_LE(text::terminal_columns(row), width) << row;
      EXPECT_THAT(row, StartsWith("reward"));
    }
}

TEST(LiveViewTest, ShowsASampleOfTheModel) {
  LiveView view;
  view.take_sample({.reward = 1, .tokens = 12, .is_cut = true, .text = "So\n42"});
  EXPECT_THAT(view.rows(100), ElementsAre("sample  reward 1, 12 tokens, cut: So⏎42"));
  view.take_sample({.reward = 1, .tokens = 900, .text = std::string(5000, 'x')});
  EXPECT_EQ(text::terminal_columns(view.rows(60)[0]), 60);
}

TEST(LiveViewTest, AnSftRunIsAboutItsLoss) {
  LiveView view;
  view.take_line("", {{"loss", 1.5}, {"learning_rate", 1e-5}, {"grad_norm", 0.5}});
  EXPECT_THAT(view.rows(100), ElementsAre("loss 1.5  learning rate 1e-05  gradient norm 0.5"));
}

/// Adapters that take turns have histories of their own.
TEST(LiveViewTest, AnotherAdapterBeginsAnew) {
  LiveView view;
  view.take_line("a", logged(0.25));
  view.take_line("a", logged(0.5));
  view.take_line("b", logged(0.5));
  EXPECT_THAT(view.rows(100)[0], StartsWith("b: reward 0.5"));
}

}  // namespace
}  // namespace lockstep::cli
