// Ranks that are not the same program with the same flags over the same files are named.
// SPDX-License-Identifier: Apache-2.0
#include "parallel/identity.h"

#include <mutex>
#include <random>
#include <set>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/parallel/run_ranks.h"
#include "tests/support/expect_error.h"
#include "tests/support/test_seed.h"

namespace lockstep::parallel {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

Identity identity_of(int64_t rank) {
  return {.host = rank < 2 ? "n01" : "n02",
          .process = 70 + rank,
          .parts = {{"program", {{"version", "0.1.0"}, {"its file", "a1"}}},
                    {"flags", {{"--beta", "0.04"}, {"--seed", "42"}}},
                    {"processor", {{"vectors", "AVX2"}}, /*is_rounding=*/true}}};
}

std::vector<Identity> identities(int64_t size) {
  std::vector<Identity> all;
  for (int64_t rank = 0; rank < size; ++rank) all.push_back(identity_of(rank));
  return all;
}

TEST(Identity, RanksThatAreAlikeDoNotDiffer) {
  EXPECT_THAT(compare_identities(identities(1)), IsEmpty());
  EXPECT_THAT(compare_identities(identities(4)), IsEmpty());
}

TEST(Identity, ARankThatDiffersIsNamedWithBothValues) {
  std::vector<Identity> ranks = identities(4);
  ranks[2].parts[1].values[0].second = "0.1";
  const auto differences = compare_identities(ranks);
  ASSERT_THAT(differences, SizeIs(1));
  EXPECT_EQ(differences[0].name, "--beta");
  EXPECT_EQ(differences[0].values,
            "0.04 on ranks 0, 1 and 3 (n01, process 70); 0.1 on rank 2 (n02, process 72)");
  EXPECT_FALSE(differences[0].is_rounding);
}

TEST(Identity, TheFirstRankMayBeTheOneThatDiffers) {
  std::vector<Identity> ranks = identities(3);
  ranks[0].parts[0].values[1].second = "b2";
  const auto differences = compare_identities(ranks);
  ASSERT_THAT(differences, SizeIs(1));
  EXPECT_EQ(differences[0].name, "its file");
  EXPECT_EQ(differences[0].values,
            "a1 on ranks 1 and 2 (n01, process 71); b2 on rank 0 (n01, process 70)");
}

TEST(Identity, WhatARankDoesNotKnowIsNothing) {
  std::vector<Identity> ranks = identities(2);
  ranks[1].parts[1].values.push_back({"--new_flag", "1"});
  ranks[1].parts.pop_back();
  const auto differences = compare_identities(ranks);
  ASSERT_THAT(differences, SizeIs(2));
  EXPECT_THAT(differences[0].values, HasSubstr("nothing on rank 0 (n01, process 70); 1 on rank 1"));
  EXPECT_EQ(differences[1].name, "vectors");
  EXPECT_FALSE(differences[1].is_rounding) << "a rank that does not tell it is another program";
}

TEST(Identity, ManyValuesAndLongOnesAreCut) {
  std::vector<Identity> ranks = identities(40);
  for (size_t rank = 0; rank < 40; ++rank)
    ranks[rank].parts[1].values[1].second =
        rank < 20 ? "42" : std::to_string(rank) + std::string(1000, 'x');
  const auto differences = compare_identities(ranks);
  ASSERT_THAT(differences, SizeIs(1));
  EXPECT_THAT(differences[0].values,
              HasSubstr("42 on ranks 0, 1, 2, 3, 4, 5, 6, 7 and 12 more (n01, process 70); 20xx"));
  EXPECT_THAT(differences[0].values, HasSubstr("15 other values"));
  EXPECT_LT(differences[0].values.size(), 1200u);
}

/// The errors that the ranks of a group throw, by what is changed in the identity of each; "" for a
/// rank that goes on.
template <class Change>
std::vector<std::string> errors_of(int64_t size, bool exact, Change&& change) {
  std::vector<std::string> errors(static_cast<size_t>(size));
  run_ranks(size, [&](Group& group) {
    Identity own = identity_of(group.rank());
    change(group.rank(), own);
    try {
      check_identity(group, own, exact);
    } catch (const ConfigError& error) {
      EXPECT_EQ(error.code(), "rank-differs");
      errors[static_cast<size_t>(group.rank())] = error.what();
    }
    // Whoever threw is still in step with the others.
    group.barrier({"after"});
  });
  return errors;
}

class Identities : public ::testing::TestWithParam<int64_t> {};
INSTANTIATE_TEST_SUITE_P(Sizes, Identities, ::testing::Values(1, 2, 4, 8));

TEST_P(Identities, RanksThatAreAlikeGoOn) {
  EXPECT_THAT(errors_of(GetParam(), true, [](int64_t, Identity&) {}), ::testing::Each(IsEmpty()));
}

TEST_P(Identities, AllRanksThrowTheSameError) {
  for (int64_t odd = 0; odd < GetParam() && GetParam() > 1; ++odd) {
    const auto errors = errors_of(GetParam(), false, [&](int64_t rank, Identity& own) {
      if (rank == odd) own.parts[1].values[0].second = "0.1";
    });
    EXPECT_EQ(std::set<std::string>(errors.begin(), errors.end()).size(), 1u);
    EXPECT_THAT(errors[0], HasSubstr("expected all ranks to be the same program"));
    EXPECT_THAT(errors[0], HasSubstr("--beta: "));
    EXPECT_THAT(errors[0], HasSubstr("0.1 on rank " + std::to_string(odd) + " ("));
    EXPECT_THAT(errors[0], HasSubstr("0.04 on rank"));
    EXPECT_THAT(errors[0], ::testing::Not(HasSubstr("--seed")));
  }
}

TEST(Identity, OtherVectorsAreRefusedWhereBitsCount) {
  const auto change = [](int64_t rank, Identity& own) {
    if (rank == 1) own.parts[2].values[0].second = "AVX3";
  };
  EXPECT_THAT(errors_of(2, false, change), ::testing::Each(IsEmpty()));
  EXPECT_THAT(
      errors_of(2, true, change),
      ::testing::Each(HasSubstr("vectors: AVX2 on rank 0 (n01, process 70); AVX3 on rank 1")));
}

// Two file names that are no UTF-8 are two names all the same.
TEST(Identity, ValuesNeedNotBeText) {
  EXPECT_THAT(errors_of(2, true,
                        [](int64_t rank, Identity& own) {
                          own.parts[1].values[0].second = rank == 0 ? "\xff" : "\xfe\n\"";
                        }),
              ::testing::Each(HasSubstr("--beta: \\xff on rank 0")));
}

TEST(Identity, DrawnDifferencesAreAllFound) {
  std::mt19937_64 random(lockstep::testing::test_seed(1));
  for (int draw = 0; draw < 200; ++draw) {
    std::vector<Identity> ranks = identities(static_cast<int64_t>(2 + random() % 7));
    std::set<std::string> changed;
    for (size_t changes = random() % 4; changes > 0; --changes) {
      IdentityPart& part = ranks[random() % ranks.size()].parts[random() % 3];
      auto& [name, value] = part.values[random() % part.values.size()];
      value = "other " + std::to_string(draw * 10 + static_cast<int>(changes));
      changed.insert(name);
    }
    std::set<std::string> found;
    for (const IdentityDifference& difference : compare_identities(ranks))
      found.insert(difference.name);
    EXPECT_EQ(found, changed);
  }
}

TEST(Identity, ThisProcessHasAHost) {
  EXPECT_FALSE(this_process().host.empty());
  EXPECT_GT(this_process().process, 0);
}

}  // namespace
}  // namespace lockstep::parallel
