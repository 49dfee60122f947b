// What has changed from one block of weights (sync/weight_image.h) to the next, without a loss: a
// learning rate of 1e-6 leaves most elements of a bfloat16 model as they are.
// SPDX-License-Identifier: Apache-2.0
//
// All numbers are little endian; "packed" is a zstd frame.
//
//   8 bytes    "LSDELTA1"
//   2 × 32     the digests of the base and of the new weights, in hexadecimal digits
//   u64        bytes of a block
//   u64, u64   bytes of its header, with the length; packed bytes; and the new header, packed
//   u64        number of chunks, each:
//     u32 tensor (in the order of the block's bytes), u32 elements that it spans, u64 first element
//     u32 changed elements, u32 bytes of gaps, u32 0, u32 packed bytes; and, packed, the gaps and
//     the changes
//
// A gap is the number of unchanged elements before a changed one: bytes of 255 add 255 and go on,
// the first smaller one ends it. A change is zigzag(new - old) of the elements as integers, modulo
// their width; byte k of all changes stands together, lowest first: mostly one 1 or 2 and zeros.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace lockstep::sync {

class WeightImage;

/// How many elements a chunk spans at most.
inline constexpr uint32_t kChunkElements = 1u << 20;

/// Collects the changes while a block is written anew. Threads: any may add.
class DeltaWriter {
 public:
  /// Gives up when the delta gets larger than `most_bytes`.
  explicit DeltaWriter(size_t most_bytes) : most_bytes_(most_bytes) {}

  /// The bytes of a tensor before and after, as elements of `width` bytes (1, 2, 4 or 8).
  void add(size_t tensor,
           std::span<const std::byte> before,
           std::span<const std::byte> after,
           size_t width);
  /// The whole delta; empty if it was given up. `header`: the first bytes of the new block, with
  /// its length.
  std::vector<std::byte> finish(std::string_view base_digest,
                                std::string_view digest,
                                size_t block_bytes,
                                std::span<const std::byte> header);
  /// How many elements of those that were added have changed.
  int64_t changed() const { return changed_; }
  int64_t elements() const { return elements_; }

 private:
  struct Chunk {
    uint32_t tensor, elements;
    uint64_t first;
    uint32_t changed, gap_bytes;
    std::vector<std::byte> packed;
  };
  bool is_given_up() const { return bytes_ > most_bytes_; }

  size_t most_bytes_;
  std::atomic<size_t> bytes_{0};
  std::atomic<int64_t> changed_{0}, elements_{0};
  std::mutex mutex_;
  std::vector<Chunk> chunks_;
};

/// Makes the base's block in `block` the new one. `base` is its image, read before; its digest and
/// the size must be those that the delta names. Digests of changed tensors are taken anew. Throws
/// FormatError "bad-delta", naming chunk and byte, "wrong-base", "digest-mismatch"; the block is
/// spoilt then. Returns the digest of the new weights in hexadecimal digits.
std::string apply_delta(std::span<const std::byte> delta,
                        const WeightImage& base,
                        std::span<std::byte> block,
                        std::string_view where,
                        int num_threads);

}  // namespace lockstep::sync
