// Slurm's lists of hosts and counts of tasks.
// SPDX-License-Identifier: Apache-2.0
#include "parallel/slurm_lists.h"

#include <algorithm>
#include <random>

#include <fmt/ranges.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/expect_error.h"
#include "tests/support/test_seed.h"

namespace lockstep::parallel {
namespace {

using ::testing::ElementsAre;

std::vector<std::string> hosts(std::string_view list) { return expand_node_list("LIST", list); }

// The hosts of scontrol show hostnames (Slurm 22.05).
TEST(SlurmLists, HostsAreThoseThatSlurmNames) {
  EXPECT_THAT(hosts("n01"), ElementsAre("n01"));
  EXPECT_THAT(hosts("a,b.c,d_e"), ElementsAre("a", "b.c", "d_e"));
  EXPECT_THAT(
      hosts("n[01-04,7],gpu-[1-2]x[3,5]"),
      ElementsAre("n01", "n02", "n03", "n04", "n7", "gpu-1x3", "gpu-1x5", "gpu-2x3", "gpu-2x5"));
  EXPECT_THAT(hosts("n[9-11]"), ElementsAre("n9", "n10", "n11"));
  EXPECT_THAT(hosts("n[09-11]"), ElementsAre("n09", "n10", "n11"));
  EXPECT_THAT(hosts("n[098-101]"), ElementsAre("n098", "n099", "n100", "n101"));
  EXPECT_THAT(hosts("n[0001-2]"), ElementsAre("n0001", "n0002"));
  EXPECT_THAT(hosts("n[1,3-4]-ib[0-1],m"),
              ElementsAre("n1-ib0", "n1-ib1", "n3-ib0", "n3-ib1", "n4-ib0", "n4-ib1", "m"));
  EXPECT_THAT(hosts("x[1-2][3-4]"), ElementsAre("x13", "x14", "x23", "x24"));
  EXPECT_THAT(hosts("a[0-1]b[0,2-3]c[1,8]"),
              ElementsAre("a0b0c1", "a0b0c8", "a1b0c1", "a1b0c8", "a0b2c1", "a0b2c8", "a1b2c1",
                          "a1b2c8", "a0b3c1", "a0b3c8", "a1b3c1", "a1b3c8"));
  // Later versions know a text behind the last bracket.
  EXPECT_THAT(hosts("n[1-2].site"), ElementsAre("n1.site", "n2.site"));
}

TEST(SlurmLists, CountsRepeat) {
  EXPECT_THAT(expand_task_counts("COUNTS", "4"), ElementsAre(4));
  EXPECT_THAT(expand_task_counts("COUNTS", "2(x3),1"), ElementsAre(2, 2, 2, 1));
  EXPECT_THAT(expand_task_counts("COUNTS", "1,8(x2)"), ElementsAre(1, 8, 8));
}

TEST(SlurmLists, MalformedOnesAreRefusedWithTheirPlace) {
  EXPECT_ERROR(
      hosts(""), ConfigError, "bad-launch",
      "LIST: expected a list of hosts such as n[01-04,7],gpu1, got the end at character 1");
  for (const char* list : {"n[7-5]", "n[1", "n]1", "n[]", "n[a]", ",a", "a,,b", "a,", "n[1-2,]",
                           "n[1-]", "n[[1]]", "n 1", "n[-1]", "n[1-2-3]", "n[9999999999999999999]"})
    EXPECT_ERROR(hosts(list), ConfigError, "bad-launch", "LIST: expected");
  EXPECT_ERROR(hosts("ok,n[1-2;3]"), ConfigError, "bad-launch", "got ; at character 9");
  for (const char* list : {"", "2(3)", "2(x3", "x", "2,", "2(x)", "-1", "2(x3)1"})
    EXPECT_ERROR(expand_task_counts("COUNTS", list), ConfigError, "bad-launch", "COUNTS: expected");
}

TEST(SlurmLists, EndlessOnesAreRefusedBeforeTheyFillTheMemory) {
  for (const char* list :
       {"n[0-999999999999]", "n[1-999999]m[1-999999]", "n[0-999999],m", "a[1-999]b[1-999]c[1-999]"})
    EXPECT_ERROR(hosts(list), ConfigError, "bad-launch", "at most 1000000 hosts");
  EXPECT_EQ(hosts("n[0-999999]").size(), 1'000'000u);
  EXPECT_ERROR(expand_task_counts("COUNTS", "1(x999999999)"), ConfigError, "bad-launch",
               "at most 1000000 hosts");
}

/// A range of numbers, in brackets, and the texts that it stands for.
std::pair<std::string, std::vector<std::string>> draw_brackets(std::mt19937_64& random) {
  std::string text = "[";
  std::vector<std::string> values;
  for (size_t ranges = 1 + random() % 3; ranges > 0; --ranges) {
    const size_t width = 1 + random() % 4, low = random() % 120, count = 1 + random() % 5;
    text += fmt::format("{:0{}}", low, width);
    if (count > 1) text += fmt::format("-{}", low + count - 1);
    if (ranges > 1) text += ",";
    for (size_t i = 0; i < count; ++i) values.push_back(fmt::format("{:0{}}", low + i, width));
  }
  return {text + "]", values};
}

TEST(SlurmLists, DrawnListsNameEveryHostOnceAndInOrder) {
  std::mt19937_64 random(lockstep::testing::test_seed(1));
  for (int draw = 0; draw < 200; ++draw) {
    std::vector<std::string> texts, expected;
    for (size_t entries = 1 + random() % 4; entries > 0; --entries) {
      const auto [first, first_values] = draw_brackets(random);
      const auto [second, second_values] = draw_brackets(random);
      const std::string name = fmt::format("h{}-", random() % 9);
      const size_t form = random() % 3;
      texts.push_back(form == 0 ? name : form == 1 ? name + first : name + first + "x" + second);
      if (form == 0) expected.push_back(name);
      for (const std::string& a : first_values) {
        if (form == 1) expected.push_back(name + a);
        if (form < 2) continue;
        for (const std::string& b : second_values) expected.push_back(name + a + "x" + b);
      }
    }
    const std::string list = fmt::format("{}", fmt::join(texts, ","));
    EXPECT_EQ(hosts(list), expected) << list;
  }
}

TEST(SlurmLists, AnyTextIsReadOrRefused) {
  std::mt19937_64 random(lockstep::testing::test_seed(2));
  constexpr std::string_view kAlphabet = "n01[]-,x(). ;9";
  for (int draw = 0; draw < 20000; ++draw) {
    std::string list(random() % 12, ' ');
    for (char& c : list) c = kAlphabet[random() % kAlphabet.size()];
    try {
      for (const std::string& host : hosts(list)) EXPECT_FALSE(host.empty()) << list;
    } catch (const ConfigError& error) {
      EXPECT_EQ(error.where(), "LIST") << list;
    }
    try {
      EXPECT_FALSE(expand_task_counts("COUNTS", list).empty()) << list;
    } catch (const ConfigError& error) {
      EXPECT_EQ(error.where(), "COUNTS") << list;
    }
  }
}

}  // namespace
}  // namespace lockstep::parallel
