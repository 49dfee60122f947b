// Digests of logical tensors: the same in every layout, taken chunk by chunk.
// SPDX-License-Identifier: Apache-2.0
//
// A digest is over the values that a layout holds, in the type of the logical tensor. Where a
// layout stores them in another type, they are brought back into that of the logical tensor first:
// what is exact (BF16 stored as F32) does not change the digest; what rounds (F32 stored as BF16)
// does, and then the digest is that of the rounded values on both sides: execute() tells it of its
// target, and digest_tensors() finds the same in what was written.
#pragma once

#include <atomic>
#include <cstddef>
#include <functional>
#include <span>
#include <vector>

#include "base/digest.h"
#include "layout/region_reader.h"

namespace lockstep::layout {

/// How many bytes a chunk has at most.
inline constexpr int64_t kChunkBytes = int64_t{1} << 20;

/// The parts of a logical tensor that are digested in one go: a cut that does not depend on the
/// layout. Each is as many steps of one dimension as fit into kChunkBytes, of the outermost one
/// whose single step does.
std::vector<Region> digest_chunks(const LogicalTensor& tensor);

/// The chunks of all tensors, and the digests of those that are known.
///
/// Threads: each chunk belongs to the thread whose claim() it granted.
class ChunkDigests {
 public:
  explicit ChunkDigests(const LogicalTensors& logical);

  /// The chunks of a tensor are [first, end).
  int64_t first(int32_t tensor) const { return first_[static_cast<size_t>(tensor)]; }
  int64_t end(int32_t tensor) const { return first_[static_cast<size_t>(tensor) + 1]; }
  const Region& region(int64_t chunk) const { return regions_[static_cast<size_t>(chunk)]; }

  /// True for the first caller, who then has to set() the chunk.
  bool claim(int64_t chunk) { return !claimed_[static_cast<size_t>(chunk)].exchange(true); }
  void set(int64_t chunk, const Digest& digest) { digests_[static_cast<size_t>(chunk)] = digest; }

  /// By logical tensor: XXH3-128 over the XXH3-128s of its chunks, low word first, little endian.
  /// All chunks are set.
  std::vector<Digest> of_tensors() const;

 private:
  std::vector<int64_t> first_;
  std::vector<Region> regions_;
  std::vector<Digest> digests_;
  std::vector<std::atomic<bool>> claimed_;
};

/// Makes the F32 values of `bytes` what is left of them in a layout that stores BF16.
void round_to_bfloat16(std::span<std::byte> bytes);

/// Sees the bytes of a part of a chunk, in logical order, while they are in the second cache.
using OnPart = std::function<void(const Region& part, std::span<const std::byte> bytes)>;

/// The digest of a chunk that does not lie in order: gathers it part by part.
Digest digest_gathered(const RegionReader& reader,
                       int32_t tensor,
                       const Region& chunk,
                       const OnPart& on_part = {});

/// Copies `bytes`, a whole chunk in order, to `to` and digests them on the way.
Digest digest_and_copy(std::span<const std::byte> bytes, std::byte* to);

/// The digest of each logical tensor, by index, without moving anything.
std::vector<Digest> digest_tensors(const Layout& layout, ByteSource& source, int num_threads);

}  // namespace lockstep::layout
