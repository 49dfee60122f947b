// SPDX-License-Identifier: Apache-2.0
#include "grpo/resume_check.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/file.h"
#include "tests/support/expect_error.h"
#include "tests/support/temp_dir.h"

namespace lockstep::grpo {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::TempDir;

const Json kSaved = {
    {"beta", 0.04},
    {"seed", 42},
    {"threads", 2},
    {"model", "m"},
    {"dataset", {"rows.jsonl"}},
    {"max_steps", 10},
    {"reward_funcs", {"accuracy", "format"}},
    {"quiet", false},
    {"digests", {{"model", {"0123456789", "ab"}}, {"dataset", {"aaaa", "bbbb#3"}}}}};

const ResumeRules kRules = {{"model", OnResume::kByContent}, {"dataset", OnResume::kByContent},
                            {"max_steps", OnResume::kSaid},  {"reward_funcs", OnResume::kRefused},
                            {"beta", OnResume::kRefused},    {"threads", OnResume::kSaid},
                            {"quiet", OnResume::kIgnored},   {"seed", OnResume::kRefused}};

TEST(CompareArgs, TheSameRunHasNoChanges) {
  const ResumeChanges changes = compare_args(kRules, kSaved, kSaved);
  EXPECT_THAT(changes.refused, IsEmpty());
  EXPECT_THAT(changes.said, IsEmpty());
}

TEST(CompareArgs, WhatChangesTheRunIsRefusedWithBothValues) {
  Json now = kSaved;
  now["beta"] = 0.1;
  now["reward_funcs"] = {"format"};
  EXPECT_THAT(compare_args(kRules, kSaved, now).refused,
              ElementsAre("reward_funcs [\"accuracy\",\"format\"] before and [\"format\"] now",
                          "beta 0.04 before and 0.1 now"));
}

TEST(CompareArgs, WhatDoesNotIsSaid) {
  Json now = kSaved;
  now["threads"] = 1;
  now["max_steps"] = 20;
  now["quiet"] = true;
  const ResumeChanges changes = compare_args(kRules, kSaved, now);
  EXPECT_THAT(changes.refused, IsEmpty());
  EXPECT_THAT(changes.said,
              ElementsAre("max_steps 10 before and 20 now", "threads 2 before and 1 now"));
}

TEST(CompareArgs, WhatFilesHoldDecidesAndNotTheirNames) {
  Json now = kSaved;
  now["model"] = "elsewhere/m";
  EXPECT_THAT(compare_args(kRules, kSaved, now).refused, IsEmpty());
  EXPECT_THAT(compare_args(kRules, kSaved, now).said,
              ElementsAre("model \"m\" before and \"elsewhere/m\" now"));
  now = kSaved;
  now["digests"]["dataset"] = {"aaaa", "bbbb#4"};
  EXPECT_THAT(compare_args(kRules, kSaved, now).refused,
              ElementsAre("dataset [\"rows.jsonl\"] (content aaaa bbbb#3) before and "
                          "[\"rows.jsonl\"] (content aaaa bbbb#4) now"));
  // Another tokenizer with the same weights.
  now = kSaved;
  now["digests"]["model"][1] = "cd";
  EXPECT_THAT(compare_args(kRules, kSaved, now).refused,
              ElementsAre(HasSubstr("(content 01234567 cd) now")));
}

TEST(CompareArgs, WhatAnOlderVersionDidNotSayIsNotCompared) {
  Json saved = kSaved;
  saved.erase("digests");
  saved.erase("beta");
  Json now = kSaved;
  now["dataset"] = {"other.jsonl"};
  now["beta"] = 1;
  const ResumeChanges changes = compare_args(kRules, saved, now);
  EXPECT_THAT(changes.refused, IsEmpty());
  EXPECT_THAT(changes.said, ElementsAre(HasSubstr("dataset")));
}

TEST(ComparePlans, AnotherPlanIsToldOnce) {
  const ResumePoint point{
      .directory = "checkpoint-1",
      .state = {{"command", "grpo"}, {"plan", {{"seed", 42}, {"dataset rows", 6}}}}};
  ResumeChanges changes{.refused = {"seed 42 before and 7 now"}, .said = {}};
  EXPECT_TRUE(compare_plans(point, "grpo", {{"seed", 42}, {"dataset rows", 6}}, changes));
  EXPECT_EQ(changes.refused.size(), 1u);
  EXPECT_FALSE(compare_plans(point, "grpo", {{"seed", 7}, {"dataset rows", 5}}, changes));
  EXPECT_THAT(changes.refused,
              ElementsAre("seed 42 before and 7 now", "dataset rows 6 before and 5 now"));
  EXPECT_ERROR(compare_plans(point, "sft", Json::object(), changes), ConfigError, "bad-resume",
               "expected a checkpoint of sft, got one of grpo");
}

TEST(ComparePlans, WhatAnOlderVersionDidNotSayIsNotCompared) {
  const Json now{{"seed", 7}, {"dataset rows", 5}};
  ResumeChanges changes;
  EXPECT_TRUE(
      compare_plans({.directory = "c", .state = {{"command", "grpo"}}}, "grpo", now, changes));
  EXPECT_TRUE(
      compare_plans({.directory = "c", .state = {{"command", "grpo"}, {"plan", {{"seed", 7}}}}},
                    "grpo", now, changes));
  EXPECT_THAT(changes.refused, IsEmpty());
}

TEST(DigestData, IsOfTheBytes) {
  const TempDir temp;
  const std::string one = temp.write("one.jsonl", "{}\n"), same = temp.write("same.jsonl", "{}\n"),
                    other = temp.write("other.jsonl", "{ }\n");
  const auto digest = [](const std::string& name) {
    return digest_data({.dataset = {name}}, "").at("dataset");
  };
  EXPECT_EQ(digest(one), digest(same));
  EXPECT_NE(digest(one), digest(other));
  EXPECT_NE(digest(one), digest(one + "#1"));
  EXPECT_NE(digest_data({}, "a").at("system"), digest_data({}, "b").at("system"));
  EXPECT_TRUE(digest_data({}, "").at("system").is_null());
}

TEST(SavedArgs, AreEmptyWhereTheyCannotBeRead) {
  const TempDir temp;
  EXPECT_EQ(saved_args({.directory = temp.path()}), Json::object());
  temp.write("args.json", "[1");
  EXPECT_EQ(saved_args({.directory = temp.path()}), Json::object());
  temp.write("args.json", "{\"beta\": 1}");
  EXPECT_EQ(saved_args({.directory = temp.path()}).at("beta"), 1);
}

}  // namespace
}  // namespace lockstep::grpo
