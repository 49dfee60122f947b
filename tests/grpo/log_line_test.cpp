// A logged object as a person reads it.
// SPDX-License-Identifier: Apache-2.0
#include "grpo/log_line.h"

#include <cmath>
#include <limits>
#include <string>

#include <gtest/gtest.h>

#include "base/json.h"
#include "grpo/run_directory.h"  // event_tag
#include "text/unicode.h"        // terminal_columns

namespace lockstep::grpo {
namespace {

TEST(NumberText, IsShortAndCallsRoundingNothing) {
  EXPECT_EQ(number_text(-5e-17), "0");
  EXPECT_EQ(number_text(-0.0), "0");
  EXPECT_EQ(number_text(0.41234), "0.412");
  EXPECT_EQ(number_text(-12.345), "-12.3");
  EXPECT_EQ(number_text(1e-6), "1e-06");
  EXPECT_EQ(number_text(123456.7), "123457");
  EXPECT_EQ(number_text(1e30), "1e+30");
  EXPECT_EQ(number_text(-std::numeric_limits<double>::quiet_NaN()), "nan");
}

const Json& grpo_line() {
  static const Json line{{"loss", -5.1e-17},
                         {"reward", 0.4125},
                         {"reward_std", 0.2314},
                         {"frac_reward_zero_std", 0.5},
                         {"rewards/MathAccuracy/mean", 0.4},
                         {"completions/mean_length", 12.375},
                         {"completions/clipped_ratio", 0.03125},
                         {"kl", 0.00213},
                         {"grad_norm", 1.2345},
                         {"learning_rate", 1e-6},
                         {"tokens_per_second", 8213.4},
                         {"time/rollout", 1.234},
                         {"time/reward", 0.0001},
                         {"time/score", 0.21},
                         {"time/train", 0.65},
                         {"time/save", 0.0},
                         {"remaining_time", "1m 12s"},
                         {"global_step/max_steps", "20/400"}};
  return line;
}

std::string line_text(const Json& line, int width = 0) {
  return fitted_line(readable_fields(line), width);
}

TEST(ReadableFields, AGrpoStepTellsWhatMatters) {
  EXPECT_EQ(line_text(grpo_line()),
            "step 20/400  loss 0  reward 0.412 ± 0.231  length 12.4  clipped 3.12%  kl 0.00213  "
            "gradient norm 1.23  8213 tokens/s  "
            "2.09 s a step: sampling 1.23, scoring 0.21, training 0.65  1m 12s left");
}

TEST(ReadableFields, AnSftStepHasALearningRateAndNoReward) {
  const Json line{{"loss", 1.5},           {"grad_norm", 0.5},
                  {"learning_rate", 1e-5}, {"tokens_per_second", 100.0},
                  {"time/train", 0.25},    {"global_step/max_steps", "1/4"}};
  EXPECT_EQ(line_text(line),
            "step 1/4  loss 1.5  gradient norm 0.5  learning rate 1e-05  100 tokens/s  "
            "0.25 s a step: training 0.25");
  EXPECT_EQ(line_text(line, 70),
            "step 1/4  loss 1.5  grad 0.5  lr 1e-05  100 tok/s  0.25 s: train 0.25");
}

TEST(ReadableFields, AnEvaluationSaysThatItIsOne) {
  const Json line{{"eval_reward", 0.75},
                  {"eval_reward_std", 0.0},
                  {"eval_completions/mean_length", 3.5},
                  {"eval_completions/clipped_ratio", 0.0},
                  {"eval_runtime", 2.5},
                  {"global_step/max_steps", "8/9"}};
  EXPECT_EQ(line_text(line),
            "evaluation at step 8/9  reward 0.75 ± 0  length 3.5  clipped 0%  2.5 s");
  EXPECT_EQ(line_text(line, 50), "eval 8/9  reward 0.75±0  len 3.5  clip 0%  2.5 s");
  EXPECT_EQ(line_text({{"eval_loss", 1.25}, {"global_step/max_steps", "8/9"}}),
            "evaluation at step 8/9  loss 1.25");
}

TEST(FittedLine, IsShorterOnANarrowTerminal) {
  EXPECT_EQ(line_text(grpo_line(), 200), line_text(grpo_line()));
  EXPECT_EQ(line_text(grpo_line(), 160),
            "step 20/400  loss 0  reward 0.412 ± 0.231  length 12.4  clipped 3.12%  kl 0.00213  "
            "gradient norm 1.23  8213 tokens/s  2.1 s: sample 1.2 score 0.21 train 0.65");
  EXPECT_EQ(line_text(grpo_line(), 120),
            "step 20/400 reward 0.41±0.23 len 12 clip 3.1% kl 0.0021 grad 1.2 8213 tok/s "
            "2.1 s: sample 1.2 score 0.21 train 0.65");
  EXPECT_EQ(line_text(grpo_line(), 80),
            "20/400 reward 0.41±0.23 len 12 clip 3.1% kl 0.0021 grad 1.2 8213 tok/s 2.1 s");
  EXPECT_EQ(line_text(grpo_line(), 40), "20/400 reward 0.41±0.23 len 12 clip 3.1%");
  EXPECT_EQ(line_text(grpo_line(), 37), "20/400 reward 0.41±0.23 len 12");
  EXPECT_EQ(line_text(grpo_line(), 1), "20/400");
  EXPECT_EQ(fitted_line({}, 80), "");
}

/// Whatever the numbers are, one line of 80 columns says step, reward, its deviation, length,
/// clipped share, KL and gradient norm.
TEST(FittedLine, EightyColumnsHoldAStep) {
  const double numbers[] = {0, 1, 0.123456, 12.3456, 987.654, 2.5e-7, -1.5};
  for (const double a : numbers)
    for (const double b : numbers) {
      Json line = grpo_line();
      line["reward"] = a;
      line["reward_std"] = std::abs(b);
      line["kl"] = b;
      line["grad_norm"] = a;
      line["completions/mean_length"] = std::abs(b);
      line["global_step/max_steps"] = "1234/10000";
      const std::string text = line_text(line, 80);
      EXPECT_LE(text::terminal_columns(text), 80) << text;
      EXPECT_EQ(text.find('\n'), std::string::npos);
      for (const char* label : {"1234/10000 ", "reward ", "±", "len ", "clip ", "kl ", "grad "})
        EXPECT_NE(text.find(label), std::string::npos) << label << ": " << text;
    }
}

/// A model may write what would move a terminal's cursor or recolour it.
TEST(ShownText, EscapesControlCharacters) {
  EXPECT_EQ(shown_text("a\x1b[31mb\tc\x7f", "", 100), "a\\x1b[31mb\tc\\x7f");
  EXPECT_EQ(shown_text("\xc2\x9b"
                       "31m \xc2\xb1 \xe4\xb8\x96",
                       "", 100),
            "\\x9b31m \xc2\xb1 \xe4\xb8\x96");
  EXPECT_EQ(shown_text("a\rb", "", 100), "a\\x0db");
}

TEST(ShownText, IndentsLinesAndLeavesTheMiddleOut) {
  EXPECT_EQ(shown_text("one\ntwo", "    ", 100), "one\n    two");
  EXPECT_EQ(shown_text("0123456789", "", 10), "0123456789");
  EXPECT_EQ(shown_text("0123456789abcdef", "", 10), "01234 … 6 bytes … bcdef");
  // No character is cut in two: each is two bytes, and the middle of 3 falls into one.
  EXPECT_EQ(shown_text("ääää", "", 6), "ä … 2 bytes … ää");
}

/// transformers' TensorBoardCallback; the rule has no exceptions.
TEST(EventTag, IsThatOfTransformers) {
  EXPECT_EQ(event_tag("loss"), "train/loss");
  EXPECT_EQ(event_tag("rewards/MathAccuracy/mean"), "train/rewards/MathAccuracy/mean");
  EXPECT_EQ(event_tag("memory(GiB)"), "train/memory(GiB)");
  EXPECT_EQ(event_tag("eval_loss"), "eval/loss");
  EXPECT_EQ(event_tag("eval_rewards/Format/std"), "eval/rewards/Format/std");
  EXPECT_EQ(event_tag("evaluations"), "train/evaluations");
}

}  // namespace
}  // namespace lockstep::grpo
