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
#include <functional>
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
  /// `metadata` stand beside the digests, and are in none of them.
  explicit ImageWriter(std::vector<io::NamedTensor> tensors,
                       std::map<std::string, std::string> metadata = {});

  /// The size of the block.
  size_t bytes() const { return begins_.back(); }
  /// Copies all tensors into `block`, of bytes() bytes, and digests each in the same pass. Returns
  /// WeightImage::digest() of it. What is not in place yet (a tensor that is made, or strided) is
  /// put together first, one for each thread.
  /// `on_replace`, unless it is empty, sees each tensor's bytes first, by its place in the block:
  /// it then holds what this wrote before.
  using OnReplace = std::function<void(
      size_t tensor, std::span<const std::byte> before, std::span<const std::byte> after)>;
  Digest write(std::span<std::byte> block, int num_threads, const OnReplace& on_replace = {}) const;
  /// The bytes before those of the first tensor.
  size_t header_bytes() const { return begins_.front(); }
  /// How many bytes an element of a tensor has.
  size_t element_bytes(size_t tensor) const { return tensors_[tensor].tensor.element_size(); }

 private:
  std::string header(const std::vector<Digest>& digests) const;

  std::vector<io::NamedTensor> tensors_;
  std::map<std::string, std::string> metadata_;
  std::vector<io::TensorSpec> specs_;
  /// Where each tensor begins, and the end.
  std::vector<size_t> begins_;
};

/// A block that ImageWriter has filled, wherever it lies. Threads: any may read.
class WeightImage {
 public:
  /// Reads and checks the header; the tensors may be still to come. `owner` keeps `bytes` alive;
  /// `where` stands in errors. Throws FormatError "bad-image" for a block that is being written or
  /// lacks digests, "wrong-protocol", and "bad-safetensors".
  WeightImage(std::shared_ptr<const void> owner,
              std::span<const std::byte> bytes,
              std::string where);

  const std::string& where() const { return where_; }
  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  /// In the order of their bytes.
  const std::vector<io::TensorEntry>& entries() const { return entries_; }
  /// What the writer said of each tensor, by name.
  const std::map<std::string, Digest>& digests() const { return digests_; }
  /// One digest of names, types, shapes and digests of all tensors.
  Digest digest() const;
  /// Digests what lies here. Throws FormatError "digest-mismatch" naming the first tensor of which
  /// the writer said otherwise.
  void verify(int num_threads) const;
  /// The same, of these of entries() alone.
  void verify(std::vector<size_t> tensors, int num_threads) const;
  /// The bytes before those of the first tensor.
  size_t header_bytes() const;
  /// Whether another block has the same tensors at the same places, of whatever values.
  bool has_same_tensors(const WeightImage& other) const;
  /// A tensor over the block's bytes, which it keeps alive; it must not be written.
  at::Tensor tensor(const io::TensorEntry& entry) const;
  /// Throws FormatError "digest-mismatch" unless the writer said this of a tensor.
  void expect_digest(const io::TensorEntry& entry, const Digest& found) const;

 private:
  std::span<const std::byte> bytes_of(const io::TensorEntry& entry) const {
    return bytes_.subspan(entry.begin, entry.end - entry.begin);
  }

  std::shared_ptr<const void> owner_;
  std::span<const std::byte> bytes_;
  std::string where_;
  std::vector<io::TensorEntry> entries_;
  std::map<std::string, std::string> metadata_;
  std::map<std::string, Digest> digests_;
};

}  // namespace lockstep::sync
