// A model's weights as one block of bytes, which another process checks and reads in place.
// SPDX-License-Identifier: Apache-2.0
//
// The block is a safetensors file (io/safetensors.h), so that other programs read it, too. Its
// metadata have a key "lockstep" with the text of a JSON object:
//
//   {"protocol": 1, "digests": {NAME: XXH3-128 of the tensor's bytes, 32 hexadecimal digits, …}}
//
// While a block is written the length of its header is 0: nobody takes half of it for the whole.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/digest.h"
#include "io/safetensors.h"

namespace lockstep::sync {

/// Counts up when an older and a newer program would misunderstand each other.
inline constexpr int64_t kImageProtocol = 1;

/// Writes the same tensors again and again, as they are then. Where each one goes is settled once.
class ImageWriter {
 public:
  /// Tensors in any order; wide elements go first. What they show must live as long as this.
  explicit ImageWriter(std::vector<io::NamedTensor> tensors);

  /// The size of the block.
  size_t bytes() const { return begins_.back(); }
  /// Copies all tensors into `block`, of bytes() bytes, and digests each in the same pass. Returns
  /// WeightImage::digest() of it. What is not in place yet (a tensor that is made, or strided) is
  /// put together first, one for each thread.
  Digest write(std::span<std::byte> block, int num_threads) const;

 private:
  std::string header(const std::vector<Digest>& digests) const;

  std::vector<io::NamedTensor> tensors_;
  std::vector<io::TensorSpec> specs_;
  /// Where each tensor begins, and the end.
  std::vector<size_t> begins_;
};

/// A block that ImageWriter has filled, wherever it lies. Threads: any may read.
class WeightImage {
 public:
  /// Reads and checks the header. `owner` keeps `bytes` alive; `where` stands in errors. Throws
  /// FormatError "bad-image" for a block that is being written or lacks digests, "wrong-protocol",
  /// and "bad-safetensors".
  WeightImage(std::shared_ptr<const void> owner,
              std::span<const std::byte> bytes,
              std::string where);

  const std::string& where() const { return where_; }
  /// In the order of their bytes.
  const std::vector<io::TensorEntry>& entries() const { return entries_; }
  /// What the writer said of each tensor, by name.
  const std::map<std::string, Digest>& digests() const { return digests_; }
  /// One digest of names, types, shapes and digests of all tensors.
  Digest digest() const;
  /// Digests what lies here. Throws FormatError "digest-mismatch" naming the first tensor of which
  /// the writer said otherwise.
  void verify(int num_threads) const;
  /// A tensor over the block's bytes, which it keeps alive; it must not be written.
  at::Tensor tensor(const io::TensorEntry& entry) const;

 private:
  std::span<const std::byte> bytes_of(const io::TensorEntry& entry) const {
    return bytes_.subspan(entry.begin, entry.end - entry.begin);
  }

  std::shared_ptr<const void> owner_;
  std::span<const std::byte> bytes_;
  std::string where_;
  std::vector<io::TensorEntry> entries_;
  std::map<std::string, Digest> digests_;
};

}  // namespace lockstep::sync
