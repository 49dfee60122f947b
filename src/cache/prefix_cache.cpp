// SPDX-License-Identifier: Apache-2.0
#include "cache/prefix_cache.h"

#include <algorithm>

#include "base/check.h"

namespace lockstep::cache {
namespace {

using Tokens = std::span<const int64_t>;

struct ComesBefore {
  using is_transparent = void;
  bool operator()(Tokens a, Tokens b) const {
    return std::lexicographical_compare(a.begin(), a.end(), b.begin(), b.end());
  }
};

bool begins_with(Tokens tokens, Tokens beginning) {
  return tokens.size() >= beginning.size() &&
         std::equal(beginning.begin(), beginning.end(), tokens.begin());
}

}  // namespace

struct PrefixCache::Node {
  /// Null for a root, which has no tokens and no page.
  Node* parent = nullptr;
  std::vector<int64_t> tokens;
  int32_t page = 0, state = 0;
  bool ends_prompt = false;
  /// The number of its last use.
  uint64_t used = 0;
  /// Those of full pages by their tokens, and the others.
  std::map<std::vector<int64_t>, std::unique_ptr<Node>, ComesBefore> children;
  std::vector<std::unique_ptr<Node>> tails;

  bool is_leaf() const { return children.empty() && tails.empty(); }
};

PrefixCache::PrefixCache(BlockPool& pages,
                         BlockPool& states,
                         int64_t page_tokens,
                         bool needs_states)
    : pages_(&pages), states_(&states), page_tokens_(page_tokens), needs_states_(needs_states) {}

PrefixCache::~PrefixCache() = default;

PrefixCache::Node* PrefixCache::root(uint64_t space) {
  auto& root = roots_[space];
  if (!root) root = std::make_unique<Node>();
  return root.get();
}

/// Says that a node is used now: of all that are known it is evicted last.
void PrefixCache::touch(Node& node) {
  leaves_.erase(node.used);
  with_state_.erase(node.used);
  node.used = ++uses_;
  if (node.is_leaf()) leaves_[node.used] = &node;
  if (node.state) with_state_[node.used] = &node;
}

PrefixCache::Node* PrefixCache::tail_of(Node& node, Tokens rest) const {
  Node* longest = nullptr;
  for (const auto& tail : node.tails)
    if (begins_with(rest, tail->tokens) &&
        (!longest || tail->tokens.size() > longest->tokens.size()))
      longest = tail.get();
  return longest;
}

/// Whether a sequence of `wanted` tokens can go on behind a node that ends after `tokens`.
bool PrefixCache::is_usable(const Node& node, int64_t tokens, int64_t wanted) const {
  return tokens == wanted ? node.state && node.ends_prompt : node.state || !needs_states_;
}

PrefixCache::Match PrefixCache::find(uint64_t space, Tokens tokens) {
  Match match;
  const auto found = roots_.find(space);
  if (found == roots_.end()) return match;
  const int64_t wanted = std::ssize(tokens);
  std::vector<Node*> path;
  Node *node = found->second.get(), *best = nullptr;
  for (int64_t done = 0; node;) {
    Node* const tail = tail_of(*node, tokens.subspan(static_cast<size_t>(done)));
    if (tail && is_usable(*tail, done + std::ssize(tail->tokens), wanted)) {
      best = tail;
      match.tokens = done + std::ssize(tail->tokens);
    }
    if (wanted - done < page_tokens_) break;
    const auto child = node->children.find(
        tokens.subspan(static_cast<size_t>(done), static_cast<size_t>(page_tokens_)));
    if (child == node->children.end()) break;
    node = child->second.get();
    path.push_back(node);
    done += page_tokens_;
    match.known_tokens = done;
    if (!is_usable(*node, done, wanted)) continue;
    best = node;
    match.tokens = done;
  }
  if (!best) return match;
  path.resize(static_cast<size_t>(match.tokens / page_tokens_));
  for (Node* const full : path) {
    touch(*full);
    pages_->retain(full->page);
    match.pages.push_back(full->page);
  }
  if (match.tokens % page_tokens_) {
    touch(*best);
    pages_->retain(best->page);
    match.tail = best->page;
  }
  match.is_whole = match.tokens == wanted;
  if (best->state && (needs_states_ || match.is_whole)) {
    states_->retain(best->state);
    match.state = best->state;
  }
  return match;
}

PrefixCache::Node* PrefixCache::add_child(Node& parent, Tokens tokens, int32_t page) {
  auto made = std::make_unique<Node>();
  Node* const node = made.get();
  node->parent = &parent;
  node->tokens.assign(tokens.begin(), tokens.end());
  node->page = page;
  pages_->retain_cached(page);
  leaves_.erase(parent.used);
  if (std::ssize(tokens) == page_tokens_)
    parent.children.emplace(node->tokens, std::move(made));
  else
    parent.tails.push_back(std::move(made));
  ++num_nodes_;
  return node;
}

bool PrefixCache::set_state(Node& node, int32_t state, bool ends_prompt) {
  // What ends a prompt serves all that another state does, and whole prompts too.
  if (!state || (node.state && (node.ends_prompt || !ends_prompt))) return false;
  drop_state(node);
  states_->retain_cached(state);
  node.state = state;
  node.ends_prompt = ends_prompt;
  return true;
}

void PrefixCache::drop_state(Node& node) {
  if (!node.state) return;
  with_state_.erase(node.used);
  states_->release_cached(node.state);
  node.state = 0;
  node.ends_prompt = false;
}

bool PrefixCache::insert(
    uint64_t space, Tokens tokens, std::vector<int32_t>& pages, int32_t state, bool ends_prompt) {
  const size_t full = tokens.size() / static_cast<size_t>(page_tokens_);
  LOCKSTEP_CHECK(pages.size() * static_cast<size_t>(page_tokens_) >= tokens.size(),
                 "{} pages for {} tokens", pages.size(), tokens.size());
  Node* node = root(space);
  for (size_t i = 0; i < full; ++i) {
    const Tokens own = tokens.first(static_cast<size_t>(page_tokens_));
    tokens = tokens.subspan(own.size());
    const auto known = node->children.find(own);
    if (known == node->children.end()) {
      node = add_child(*node, own, pages[i]);
    } else {
      node = known->second.get();
      if (node->page != pages[i]) {
        pages_->retain(node->page);
        pages_->release(std::exchange(pages[i], node->page));
      }
    }
    touch(*node);
  }
  if (!state || (tokens.empty() && !node->parent)) return false;
  if (!tokens.empty()) {
    Node* const known = tail_of(*node, tokens);
    node = known && known->tokens.size() == tokens.size() ? known
                                                          : add_child(*node, tokens, pages[full]);
  }
  const bool is_taken = set_state(*node, state, ends_prompt);
  touch(*node);
  return is_taken;
}

/// Takes a leaf out of the tree.
void PrefixCache::remove_leaf(Node& node) {
  drop_state(node);
  leaves_.erase(node.used);
  pages_->release_cached(node.page);
  --num_nodes_;
  Node& parent = *node.parent;
  if (std::ssize(node.tokens) == page_tokens_)
    parent.children.erase(parent.children.find(Tokens(node.tokens)));
  else
    std::erase_if(parent.tails, [&](const auto& tail) { return tail.get() == &node; });
  if (parent.parent && parent.is_leaf()) leaves_[parent.used] = &parent;
}

bool PrefixCache::evict_page() {
  for (const auto& [used, leaf] : leaves_) {
    if (!pages_->is_idle(leaf->page)) continue;
    remove_leaf(*leaf);
    return true;
  }
  return false;
}

bool PrefixCache::evict_state() {
  for (const auto& [used, node] : with_state_) {
    if (!states_->is_idle(node->state)) continue;
    if (std::ssize(node->tokens) == page_tokens_)
      drop_state(*node);
    else
      remove_leaf(*node);
    return true;
  }
  return false;
}

/// Forgets all that lies below a node.
void PrefixCache::forget(Node& node) {
  while (!node.children.empty()) {
    Node& child = *node.children.begin()->second;
    forget(child);
    remove_leaf(child);
  }
  while (!node.tails.empty()) remove_leaf(*node.tails.back());
}

void PrefixCache::drop(uint64_t space) {
  const auto found = roots_.find(space);
  if (found == roots_.end()) return;
  forget(*found->second);
  roots_.erase(found);
}

void PrefixCache::clear() {
  while (!roots_.empty()) drop(roots_.begin()->first);
}

}  // namespace lockstep::cache
