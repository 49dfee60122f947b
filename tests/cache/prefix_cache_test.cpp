// What is remembered, what is forgotten first, and who may not be given what.
// SPDX-License-Identifier: Apache-2.0
#include "cache/prefix_cache.h"

#include <gtest/gtest.h>

namespace lockstep::cache {
namespace {

using Tokens = std::vector<int64_t>;

/// Pools of 8 pages of 4 tokens and of 4 states.
struct Caches {
  BlockPool pages{8}, states{4};
  PrefixCache prefixes;
  explicit Caches(bool needs_states) : prefixes(pages, states, 4, needs_states) {}

  /// Remembers tokens in pages of their own, which nobody else holds.
  void keep(const Tokens& tokens, bool with_state, bool ends_prompt = false, uint64_t space = 0) {
    std::vector<int32_t> own;
    for (size_t t = 0; t < tokens.size(); t += 4) own.push_back(*pages.allocate());
    const int32_t state = with_state ? *states.allocate() : 0;
    prefixes.insert(space, tokens, own, state, ends_prompt);
    for (const int32_t page : own) pages.release(page);
    if (state) states.release(state);
  }
  int64_t found(const Tokens& tokens, uint64_t space = 0) {
    const auto match = prefixes.find(space, tokens);
    release(match);
    return match.tokens;
  }
  void release(const PrefixCache::Match& match) {
    for (const int32_t page : match.pages) pages.release(page);
    if (match.tail) pages.release(match.tail);
    if (match.state) states.release(match.state);
  }
};

TEST(PrefixCache, FindsTheLongestBeginningThatCanBeGoneOnFrom) {
  for (const bool needs_states : {false, true}) {
    Caches caches(needs_states);
    caches.keep({1, 2, 3, 4, 5, 6, 7, 8}, false);
    EXPECT_EQ(caches.found({1, 2, 3, 4, 5, 6, 7, 8, 9}), needs_states ? 0 : 8);
    // The last token is left to compute, so that there is something to draw from.
    EXPECT_EQ(caches.found({1, 2, 3, 4, 5, 6, 7, 8}), needs_states ? 0 : 4);
    EXPECT_EQ(caches.found({1, 2, 3, 9, 5, 6, 7, 8, 9}), 0);
    caches.keep({1, 2, 3, 4, 5, 6}, true);
    EXPECT_EQ(caches.found({1, 2, 3, 4, 5, 6, 9}), 6);
    EXPECT_EQ(caches.found({1, 2, 3, 4, 5, 9}), needs_states ? 0 : 4);
    EXPECT_EQ(caches.found({1, 2, 3, 4, 5, 6, 9}, /*space=*/1), 0);
  }
}

TEST(PrefixCache, AWholePromptNeedsWhatItsNextTokenIsDrawnFrom) {
  Caches caches(true);
  const Tokens prompt{1, 2, 3, 4, 5, 6, 7, 8};
  caches.keep(prompt, true);
  EXPECT_FALSE(caches.prefixes.find(0, prompt).is_whole);
  // A prompt that ends where a state was kept takes its place.
  caches.keep(prompt, true, /*ends_prompt=*/true);
  const auto match = caches.prefixes.find(0, prompt);
  EXPECT_TRUE(match.is_whole);
  EXPECT_EQ(match.tokens, 8);
  EXPECT_NE(match.state, 0);
  // And not the other way round.
  caches.release(match);
  caches.keep(prompt, true);
  EXPECT_TRUE(caches.prefixes.find(0, prompt).is_whole);
}

TEST(PrefixCache, ForgetsTheLeastRecentlyUsedAndLeavesFirst) {
  Caches caches(false);
  const Tokens a{1, 1, 1, 1, 2, 2, 2, 2, 0}, b{3, 3, 3, 3, 4, 4, 4, 4, 0};
  caches.keep({1, 1, 1, 1, 2, 2, 2, 2}, false);
  caches.keep({3, 3, 3, 3, 4, 4, 4, 4}, false);
  EXPECT_EQ(caches.found(a), 8);
  EXPECT_TRUE(caches.prefixes.evict_page());
  EXPECT_EQ(caches.found(b), 4);
  EXPECT_EQ(caches.found(a), 8);
  EXPECT_TRUE(caches.prefixes.evict_page());
  EXPECT_EQ(caches.found(b), 0);
  EXPECT_EQ(caches.found(a), 8);
  EXPECT_EQ(caches.pages.num_free(), 6);
  EXPECT_TRUE(caches.prefixes.evict_page() && caches.prefixes.evict_page());
  EXPECT_FALSE(caches.prefixes.evict_page());
  EXPECT_EQ(caches.pages.num_free(), 8);
  EXPECT_EQ(caches.prefixes.num_nodes(), 0);
}

TEST(PrefixCache, WhatSomebodyHoldsIsNotForgotten) {
  Caches caches(true);
  caches.keep({1, 1, 1, 1}, true);
  caches.keep({2, 2, 2, 2}, true);
  const auto held = caches.prefixes.find(0, Tokens{1, 1, 1, 1, 0});
  EXPECT_TRUE(caches.prefixes.evict_state());
  EXPECT_EQ(caches.found({1, 1, 1, 1, 0}), 4);
  EXPECT_EQ(caches.found({2, 2, 2, 2, 0}), 0);
  EXPECT_FALSE(caches.prefixes.evict_state());
  EXPECT_TRUE(caches.prefixes.evict_page());
  EXPECT_FALSE(caches.prefixes.evict_page());
  // Forgetting all leaves it to its holder.
  caches.prefixes.clear();
  EXPECT_EQ(caches.pages.num_free(), 7);
  EXPECT_EQ(caches.states.num_free(), 3);
  caches.release(held);
  EXPECT_EQ(caches.pages.num_free(), 8);
  EXPECT_EQ(caches.states.num_free(), 4);
}

TEST(PrefixCache, AStateThatIsForgottenTakesThePageOfAnUnfinishedPageAlong) {
  Caches caches(true);
  caches.keep({1, 1, 1, 1, 2}, true);
  EXPECT_TRUE(caches.prefixes.evict_state());
  EXPECT_EQ(caches.prefixes.num_nodes(), 1);
  EXPECT_EQ(caches.pages.num_idle(), 1);
  EXPECT_EQ(caches.states.num_free(), 4);
}

TEST(PrefixCache, TheSamePageTwiceIsHeldOnce) {
  Caches caches(false);
  caches.keep({1, 1, 1, 1}, false);
  std::vector<int32_t> own{*caches.pages.allocate(), *caches.pages.allocate()};
  const int32_t second = own[1];
  caches.prefixes.insert(0, Tokens{1, 1, 1, 1, 2, 2, 2, 2}, own);
  // The known page has taken the place of the first one.
  EXPECT_EQ(own[0], 1);
  EXPECT_EQ(own[1], second);
  EXPECT_EQ(caches.pages.holders(1), 2);
  EXPECT_EQ(caches.pages.num_free(), 6);
}

}  // namespace
}  // namespace lockstep::cache
