// Packed sequences of which some continue others, and the same without sharing: what ops must make
// equal.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <initializer_list>
#include <random>
#include <vector>

#include "ops/sequences.h"
#include "tensor/aten.h"

namespace lockstep::testing {

/// Sequences of these lengths, none of which continues another.
inline ops::PackedSequences sequences_of(std::initializer_list<int64_t> lengths) {
  ops::PackedSequences sequences;
  for (const int64_t length : lengths) sequences.append(length);
  return sequences;
}

/// Some sequences alone, some with one to four that continue them, not always right behind them.
inline ops::PackedSequences draw_families(std::mt19937_64& random) {
  constexpr int64_t kLengths[] = {1, 2, 3, 4, 5, 31, 32, 33, 63, 64, 65, 97};
  const auto length = [&] { return kLengths[random() % std::size(kLengths)]; };
  ops::PackedSequences sequences;
  std::vector<int64_t> waiting;  // parents of the sequences to come
  for (int family = 0; family < 3; ++family) {
    const int64_t first = sequences.count();
    sequences.append(length());
    for (uint64_t child = random() % 5; child > 0; --child) waiting.push_back(first);
    if (random() % 2) continue;  // the next family's first sequence comes in between
    for (const int64_t parent : waiting) sequences.append(length(), parent);
    waiting.clear();
  }
  for (const int64_t parent : waiting) sequences.append(length(), parent);
  if (!sequences.has_parents()) sequences.append(length(), 0);
  return sequences;
}

/// The same sequences, each whole: a parent's tokens are there once more before those of each that
/// continues it.
struct Unshared {
  ops::PackedSequences sequences;
  /// [T'] the token of the families that each token here is.
  at::Tensor sources;
  /// [T] where each token of the families stands here.
  at::Tensor places;

  explicit Unshared(const ops::PackedSequences& families) {
    std::vector<int64_t> from, to;
    const auto append_tokens = [&](int64_t b) {
      for (int64_t t = families.first_token(b); t < families.first_token(b + 1); ++t)
        from.push_back(t);
    };
    for (int64_t b = 0; b < families.count(); ++b) {
      const int64_t history = families.history(b);
      if (history) append_tokens(families.parent(b));
      for (int64_t t = 0; t < families.length(b); ++t)
        to.push_back(static_cast<int64_t>(from.size()) + t);
      append_tokens(b);
      sequences.append(history + families.length(b));
    }
    sources = indices(from);
    places = indices(to);
  }

 private:
  static at::Tensor indices(const std::vector<int64_t>& values) {
    at::Tensor made = at::empty({std::ssize(values)}, at::TensorOptions().dtype(at::kLong));
    std::copy(values.begin(), values.end(), made.mutable_data_ptr<int64_t>());
    return made;
  }
};

}  // namespace lockstep::testing
