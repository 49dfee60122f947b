// Short words merge in place by scanning; long ones by a heap over a linked list. Both give the
// same ids.
// SPDX-License-Identifier: Apache-2.0
#include "text/bpe.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>

namespace lockstep::text {
namespace {

constexpr uint32_t kNoRank = std::numeric_limits<uint32_t>::max();
// Words of more bytes are merged by the heap, which is faster for them than scanning.
constexpr size_t kShortWord = 48;
constexpr size_t kCacheEntries = 16384;
// 2^64 divided by the golden ratio, for Fibonacci hashing.
constexpr uint64_t kGolden = 0x9e3779b97f4a7c15;

uint64_t pair_of(int32_t left, int32_t right) {
  return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
}

uint64_t scramble(uint64_t x) {
  x ^= x >> 32;
  x *= kGolden;
  return x;
}

}  // namespace

WordCache::WordCache() : entries_(kCacheEntries) {}

WordCache::Key WordCache::key_of(std::string_view word) {
  Key key{{}, static_cast<uint32_t>(word.size())};
  std::memcpy(key.words.data(), word.data(), word.size());
  return key;
}

size_t WordCache::slot_of(const Key& key) {
  uint64_t hash = scramble(key.words[0] + key.size);
  if (key.size > 8) hash = scramble(hash + key.words[1]);
  if (key.size > 16) hash = scramble(hash + key.words[2]);
  return hash >> (64 - std::bit_width(kCacheEntries - 1));
}

bool WordCache::find(const Key& key, std::vector<int64_t>& ids) const {
  const Entry& entry = entries_[slot_of(key)];
  if (entry.size != key.size || entry.words != key.words) return false;
  ids.insert(ids.end(), entry.ids.begin(), entry.ids.begin() + entry.count);
  return true;
}

void WordCache::put(const Key& key, const std::vector<int64_t>& ids, size_t count) {
  if (count > kMaxIds) return;
  Entry& entry = entries_[slot_of(key)];
  entry.words = key.words;
  entry.size = static_cast<uint16_t>(key.size);
  entry.count = static_cast<uint16_t>(count);
  std::transform(ids.end() - static_cast<ptrdiff_t>(count), ids.end(), entry.ids.begin(),
                 [](int64_t id) { return static_cast<int32_t>(id); });
}

Bpe::Bpe(const std::array<int32_t, 256>& byte_ids, const std::vector<Merge>& merges)
    : byte_ids_(byte_ids) {
  const size_t size = std::bit_ceil(std::max<size_t>(merges.size() * 2, 16));
  table_.resize(size);
  shift_ = 64 - static_cast<int>(std::bit_width(size - 1));
  for (size_t rank = 0; rank < merges.size(); ++rank) {
    const uint64_t pair = pair_of(merges[rank].left, merges[rank].right);
    size_t at = scramble(pair) >> shift_;
    while (table_[at].pair != kEmpty && table_[at].pair != pair) at = (at + 1) & (size - 1);
    table_[at] = {pair, static_cast<uint32_t>(rank), merges[rank].merged};
  }
}

const Bpe::Slot* Bpe::find(int32_t left, int32_t right) const {
  const uint64_t pair = pair_of(left, right);
  for (size_t at = scramble(pair) >> shift_; table_[at].pair != kEmpty;
       at = (at + 1) & (table_.size() - 1)) {
    if (table_[at].pair == pair) return &table_[at];
  }
  return nullptr;
}

void Bpe::encode(std::string_view word, BpeScratch& scratch, std::vector<int64_t>& ids) const {
  if (word.size() == 1) {
    ids.push_back(byte_ids_[static_cast<unsigned char>(word[0])]);
    return;
  }
  if (word.size() > WordCache::kMaxBytes) {
    merge(word, scratch, ids);
    return;
  }
  const WordCache::Key key = WordCache::key_of(word);
  if (scratch.cache.find(key, ids)) return;
  const size_t before = ids.size();
  merge(word, scratch, ids);
  scratch.cache.put(key, ids, ids.size() - before);
}

void Bpe::merge(std::string_view word, BpeScratch& scratch, std::vector<int64_t>& ids) const {
  if (!whole_words_.empty()) {
    if (const auto found = whole_words_.find(std::string(word)); found != whole_words_.end()) {
      ids.push_back(found->second);
      return;
    }
  }
  if (word.size() <= kShortWord) {
    merge_short(word, ids);
  } else {
    merge_long(word, scratch, ids);
  }
}

void Bpe::merge_short(std::string_view word, std::vector<int64_t>& ids) const {
  std::array<int32_t, kShortWord> id{};
  // The rank of the pair of symbols i and i + 1.
  std::array<uint32_t, kShortWord> rank{};
  std::array<int32_t, kShortWord> merged{};
  const auto look_up = [&](size_t i) {
    const Slot* slot = find(id[i], id[i + 1]);
    rank[i] = slot ? slot->rank : kNoRank;
    merged[i] = slot ? slot->merged : 0;
  };
  size_t count = word.size();
  for (size_t i = 0; i < count; ++i) id[i] = byte_ids_[static_cast<unsigned char>(word[i])];
  for (size_t i = 0; i + 1 < count; ++i) look_up(i);
  while (count > 1) {
    size_t best = 0;
    for (size_t i = 1; i + 1 < count; ++i) {
      if (rank[i] < rank[best]) best = i;
    }
    if (rank[best] == kNoRank) break;
    id[best] = merged[best];
    for (size_t i = best + 1; i + 1 < count; ++i) {
      id[i] = id[i + 1];
      rank[i] = rank[i + 1];
      merged[i] = merged[i + 1];
    }
    --count;
    if (best + 1 < count) look_up(best);
    if (best > 0) look_up(best - 1);
  }
  ids.insert(ids.end(), id.begin(), id.begin() + static_cast<ptrdiff_t>(count));
}

void Bpe::merge_long(std::string_view word, BpeScratch& scratch, std::vector<int64_t>& ids) const {
  auto& symbols = scratch.symbols;
  auto& heap = scratch.heap;
  symbols.clear();
  heap.clear();
  const auto is_later = [](const BpeScratch::Candidate& a, const BpeScratch::Candidate& b) {
    return a.rank != b.rank ? a.rank > b.rank : a.at > b.at;
  };
  const auto push = [&](int32_t at) {
    if (at < 0 || symbols[static_cast<size_t>(at)].next < 0) return;
    const int32_t left = symbols[static_cast<size_t>(at)].id;
    const int32_t right = symbols[static_cast<size_t>(symbols[static_cast<size_t>(at)].next)].id;
    if (const Slot* slot = find(left, right)) {
      heap.push_back({slot->rank, at, left, right});
      std::push_heap(heap.begin(), heap.end(), is_later);
    }
  };
  const auto count = static_cast<int32_t>(word.size());
  for (int32_t i = 0; i < count; ++i) {
    const auto byte = static_cast<unsigned char>(word[static_cast<size_t>(i)]);
    symbols.push_back({byte_ids_[byte], i - 1, i + 1 < count ? i + 1 : -1});
  }
  for (int32_t i = 0; i + 1 < count; ++i) push(i);
  while (!heap.empty()) {
    std::pop_heap(heap.begin(), heap.end(), is_later);
    const BpeScratch::Candidate top = heap.back();
    heap.pop_back();
    BpeScratch::Symbol& left = symbols[static_cast<size_t>(top.at)];
    if (left.id != top.left || left.next < 0) continue;
    BpeScratch::Symbol& right = symbols[static_cast<size_t>(left.next)];
    if (right.id != top.right) continue;
    left.id = find(top.left, top.right)->merged;
    // With this id it fits no candidate any more.
    right.id = -1;
    left.next = right.next;
    if (left.next >= 0) symbols[static_cast<size_t>(left.next)].previous = top.at;
    push(left.previous);
    push(top.at);
  }
  for (int32_t i = 0; i >= 0; i = symbols[static_cast<size_t>(i)].next)
    ids.push_back(symbols[static_cast<size_t>(i)].id);
}

}  // namespace lockstep::text
