// BlockPool against a naive model, under random operations.
// SPDX-License-Identifier: Apache-2.0
#include "cache/block_pool.h"

#include <map>
#include <random>
#include <set>

#include "tests/support/expect_error.h"
#include "tests/support/test_seed.h"

namespace lockstep::cache {
namespace {

TEST(BlockPool, HandsOutTheLowestIdFirstAndNeverTheDummy) {
  BlockPool pool(3);
  EXPECT_EQ(pool.capacity(), 3);
  EXPECT_EQ(pool.allocate(), 1);
  EXPECT_EQ(pool.allocate(), 2);
  EXPECT_EQ(pool.allocate(), 3);
  EXPECT_EQ(pool.allocate(), std::nullopt);
  pool.release(3);
  pool.release(1);
  EXPECT_EQ(pool.allocate(), 1);
  EXPECT_EQ(pool.allocate(), 3);
}

TEST(BlockPool, FreeingASharedBlockKeepsItUntilTheLastHolder) {
  BlockPool pool(1);
  const int32_t id = *pool.allocate();
  pool.retain(id);
  pool.release(id);
  EXPECT_EQ(pool.num_free(), 0);
  EXPECT_EQ(pool.allocate(), std::nullopt);
  pool.release(id);
  EXPECT_EQ(pool.num_free(), 1);
  EXPECT_EQ(pool.allocate(), id);
}

TEST(BlockPool, AnEmptyPoolHasNothing) {
  BlockPool pool(0);
  EXPECT_EQ(pool.allocate(), std::nullopt);
  EXPECT_EQ(pool.num_free(), 0);
}

TEST(BlockPool, IdsThatAreNotInUseAreErrors) {
  BlockPool pool(2);
  const int32_t id = *pool.allocate();
  pool.release(id);
  for (const int32_t bad : {id, 2, 0, -1, 3}) {
    EXPECT_ERROR(pool.release(bad), InternalError, "internal", "is not in use");
    EXPECT_ERROR(pool.retain(bad), InternalError, "internal", "is not in use");
  }
  EXPECT_EQ(pool.num_free(), 2);
}

/// What BlockPool should be: a set of free ids and a count for each other one.
struct NaivePool {
  std::set<int32_t> free;
  std::map<int32_t, int32_t> held;

  explicit NaivePool(int32_t capacity) {
    for (int32_t id = 1; id <= capacity; ++id) free.insert(id);
  }
  std::optional<int32_t> allocate() {
    if (free.empty()) return {};
    const int32_t id = *free.begin();
    free.erase(id);
    held[id] = 1;
    return id;
  }
  void release(int32_t id) {
    if (--held[id]) return;
    held.erase(id);
    free.insert(id);
  }
};

TEST(BlockPool, EqualsANaivePoolUnderRandomOperations) {
  for (uint64_t draw = 1; draw <= 200; ++draw) {
    SCOPED_TRACE(draw);
    std::mt19937_64 random(testing::test_seed(draw));
    const auto capacity = static_cast<int32_t>(random() % 40);
    BlockPool pool(capacity);
    NaivePool naive(capacity);
    for (int step = 0; step < 300; ++step) {
      const auto operation = random() % 8;
      if (operation < 4 || naive.held.empty()) {
        ASSERT_EQ(pool.allocate(), naive.allocate());
      } else {
        auto some = naive.held.begin();
        std::advance(some, static_cast<int64_t>(random() % naive.held.size()));
        const int32_t id = some->first;
        if (operation == 4) {
          pool.retain(id);
          ++naive.held[id];
        } else {
          pool.release(id);
          naive.release(id);
        }
      }
      ASSERT_EQ(pool.num_free(), static_cast<int64_t>(naive.free.size()));
      for (int32_t id = 0; id <= capacity; ++id)
        ASSERT_EQ(pool.holders(id), naive.held.count(id) ? naive.held[id] : 0) << id;
    }
  }
}

}  // namespace
}  // namespace lockstep::cache
