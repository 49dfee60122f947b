// Byte-pair encoding of one word.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace lockstep::text {

/// Two tokens that become one. A merge's place in the list is its rank: the lowest goes first.
struct Merge {
  int32_t left, right, merged;
};

/// Ids of recently seen short words. Not thread-safe.
class WordCache {
 public:
  static constexpr size_t kMaxBytes = 24;
  static constexpr size_t kMaxIds = 9;

  WordCache();
  struct Key {
    std::array<uint64_t, 3> words;
    uint32_t size;
  };
  /// The key of a word of at most kMaxBytes.
  static Key key_of(std::string_view word);
  /// Appends the ids and returns true if the word is here.
  bool find(const Key& key, std::vector<int64_t>& ids) const;
  /// Keeps the last `count` of `ids`, if they are few enough, in place of whatever was there.
  void put(const Key& key, const std::vector<int64_t>& ids, size_t count);

 private:
  // One cache line.
  struct alignas(64) Entry {
    std::array<uint64_t, 3> words{};
    /// How many bytes the word has; 0 if the entry is empty.
    uint16_t size = 0;
    /// How many ids it has.
    uint16_t count = 0;
    std::array<int32_t, kMaxIds> ids{};
  };
  static size_t slot_of(const Key& key);
  std::vector<Entry> entries_;
};

/// Working memory of Bpe::encode; each thread needs its own.
struct BpeScratch {
  struct Symbol {
    int32_t id, previous, next;
  };
  struct Candidate {
    uint32_t rank;
    int32_t at;
    /// The symbols' ids when it was found; it is stale if they have changed since.
    int32_t left, right;
  };
  WordCache cache;
  std::vector<Symbol> symbols;
  std::vector<Candidate> heap;
};

/// The merges of a vocabulary. Threads: safe, given one BpeScratch a thread.
class Bpe {
 public:
  /// `byte_ids` has the id of each single byte. A pair that is listed twice has the later rank.
  Bpe(const std::array<int32_t, 256>& byte_ids, const std::vector<Merge>& merges);
  /// Words that are tokens as they stand skip the merges (ignore_merges).
  void set_whole_words(std::unordered_map<std::string, int32_t> words) {
    whole_words_ = std::move(words);
  }
  /// Appends the ids of one word of at least one byte: always the lowest-ranked pair, leftmost
  /// first.
  void encode(std::string_view word, BpeScratch& scratch, std::vector<int64_t>& ids) const;

 private:
  struct Slot {
    uint64_t pair = kEmpty;
    uint32_t rank = 0;
    int32_t merged = 0;
  };
  static constexpr uint64_t kEmpty = ~uint64_t{0};

  const Slot* find(int32_t left, int32_t right) const;
  void merge(std::string_view word, BpeScratch& scratch, std::vector<int64_t>& ids) const;
  void merge_short(std::string_view word, std::vector<int64_t>& ids) const;
  void merge_long(std::string_view word, BpeScratch& scratch, std::vector<int64_t>& ids) const;

  std::array<int32_t, 256> byte_ids_;
  // A hash table with open addressing, whose size is a power of two.
  std::vector<Slot> table_;
  // It is 64 - log2 of the table's size.
  int shift_ = 0;
  std::unordered_map<std::string, int32_t> whole_words_;
};

}  // namespace lockstep::text
