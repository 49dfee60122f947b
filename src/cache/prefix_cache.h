// Which pages and states hold what was computed for which tokens, so that a sequence that begins
// like another one need not compute its beginning again. It holds no memory of theirs and needs no
// libtorch.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <vector>

#include "cache/block_pool.h"

namespace lockstep::cache {

/// A tree of pages: a path from a root is a sequence of tokens, and each node holds the page of its
/// last ones. Tokens are compared, not hashed, so that nobody is given another's page.
///
///   root ── [64 tokens] ── [64 tokens] ── [17 tokens]
///                              state          state, end of a prompt
///
/// A node may hold a state: what the recurrent layers carry behind its last token. Where a model
/// has such layers, a prefix can be used up to a state only; without them, up to any node. A node
/// of fewer tokens than a page has is a leaf and has a state. Its page may go on being filled by a
/// sequence that goes on, so it is copied by whoever finds it.
///
/// The cache is one of the holders of its pages and states. Those that nobody else holds can be
/// evicted, the least recently used ones first. All is deterministic. The pools must outlive it.
/// Not thread-safe.
class PrefixCache {
 public:
  /// `needs_states`: the model has recurrent layers.
  PrefixCache(BlockPool& pages, BlockPool& states, int64_t page_tokens, bool needs_states);
  ~PrefixCache();
  PrefixCache(const PrefixCache&) = delete;
  PrefixCache& operator=(const PrefixCache&) = delete;

  /// What is known of the beginning of a sequence. The caller becomes a holder of all that it
  /// names.
  struct Match {
    int64_t tokens = 0;
    /// How many are in known full pages, though it may lack a state to go on from there.
    int64_t known_tokens = 0;
    /// Those of the full pages.
    std::vector<int32_t> pages;
    /// The page of the tokens behind them, to be copied; 0: none.
    int32_t tail = 0;
    /// The state behind the last token, to be copied; 0: none.
    int32_t state = 0;
    /// They are all tokens asked for, and what follows can be drawn from what is kept with `state`.
    bool is_whole = false;
  };
  /// The longest beginning of `tokens` in `space` that can be gone on from. Unless it is whole, at
  /// least the last token is left to compute.
  Match find(uint64_t space, std::span<const int64_t> tokens);

  /// Remembers that `pages` hold `tokens`, and that `state` (0: none) lies behind the last of them.
  /// Pages that are not full are remembered with a state only. Where the cache knows a full page of
  /// the same tokens already, that one takes the place of the sequence's own in `pages`.
  /// `ends_prompt`: what follows can be drawn from what is kept with the state. Returns whether the
  /// cache became a holder of `state`.
  bool insert(uint64_t space,
              std::span<const int64_t> tokens,
              std::vector<int32_t>& pages,
              int32_t state = 0,
              bool ends_prompt = false);

  /// Forgets the page that was not used for longest, of those that can be had. Returns whether
  /// there was one.
  bool evict_page();
  /// The same for a state.
  bool evict_state();
  /// Forgets all of a space.
  void drop(uint64_t space);
  void clear();

  int64_t num_nodes() const { return num_nodes_; }

 private:
  struct Node;

  Node* root(uint64_t space);
  Node* add_child(Node& parent, std::span<const int64_t> tokens, int32_t page);
  Node* tail_of(Node& node, std::span<const int64_t> rest) const;
  bool is_usable(const Node& node, int64_t tokens, int64_t wanted) const;
  bool set_state(Node& node, int32_t state, bool ends_prompt);
  void drop_state(Node& node);
  void touch(Node& node);
  void remove_leaf(Node& node);
  void forget(Node& node);

  BlockPool* pages_;
  BlockPool* states_;
  int64_t page_tokens_;
  bool needs_states_;
  std::map<uint64_t, std::unique_ptr<Node>> roots_;
  /// By last use. Uses are numbered, no two nodes have the same.
  std::map<uint64_t, Node*> leaves_, with_state_;
  uint64_t uses_ = 0;
  int64_t num_nodes_ = 0;
};

}  // namespace lockstep::cache
