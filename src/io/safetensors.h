// The safetensors format: mapped reader, sharded checkpoints, and an atomic writer.
// SPDX-License-Identifier: Apache-2.0
//
// A file is: header length (8 bytes, little endian), header (JSON), data. Source:
// huggingface/safetensors, README and safetensors/src/tensor.rs (checks of validate()).
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <ATen/core/Tensor.h>

#include "base/file.h"

namespace lockstep::io {

/// The reference implementation's limit on a header's bytes: it bounds what a file with a hostile
/// length makes us parse.
inline constexpr uint64_t kMaxHeaderBytes = 100'000'000;

/// One tensor of a file: name, dtype, shape and where its bytes lie.
struct TensorEntry {
  std::string name;
  at::ScalarType dtype;
  std::vector<int64_t> shape;
  /// The tensor's bytes are [begin, end), counted from the start of the file.
  size_t begin = 0, end = 0;
};

/// A header that was read and checked; its entries stand in the order of their bytes.
struct SafetensorsHeader {
  std::vector<TensorEntry> entries;
  std::map<std::string, std::string> metadata;
};

/// Checks and reads the header of a whole file's bytes. Throws FormatError as SafetensorsFile does.
SafetensorsHeader parse_safetensors(std::span<const std::byte> bytes, std::string_view where);

/// A safetensors file, mapped. Opening checks the whole header; no tensor is read until asked for.
///
/// Throws FormatError "bad-safetensors" naming file, byte and what is wrong: header length that
/// overflows or passes the end, malformed or duplicate JSON keys, unknown dtype, negative or
/// overflowing shapes, offsets that disagree with the size, overlap, leave holes or pass the end,
/// misaligned data (begin not a multiple of the element size is allowed only by copying), data
/// behind the last tensor. Threads: safe after construction.
class SafetensorsFile {
 public:
  explicit SafetensorsFile(const std::filesystem::path& path);
  const std::vector<TensorEntry>& entries() const { return entries_; }
  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  const std::filesystem::path& path() const;
  /// A tensor over the mapped bytes; it keeps the mapping alive and must not be written.
  at::Tensor tensor(const TensorEntry& entry) const;
  /// The mapped bytes themselves; they live as long as this object.
  std::span<const std::byte> bytes(const TensorEntry& entry) const {
    return file_->bytes().subspan(entry.begin, entry.end - entry.begin);
  }
  /// As MappedFile::release_pages.
  void release_pages() const { file_->release_pages(); }

 private:
  std::shared_ptr<const MappedFile> file_;
  std::vector<TensorEntry> entries_;
  std::map<std::string, std::string> metadata_;
};

/// All tensors of a checkpoint directory, by name: those that transformers would load.
///
/// They lie in `model.safetensors`, unless an index names that file among others; else in all
/// shards that `model.safetensors.index.json` names (throws FormatError "bad-safetensors-index" if
/// a tensor is missing, not named or there twice); else in the only *.safetensors. Source:
/// transformers 5.23 modeling_utils.py, _get_resolved_checkpoint_files.
///
/// Threads: safe after construction.
class SafetensorsCheckpoint {
 public:
  explicit SafetensorsCheckpoint(const std::filesystem::path& directory);
  /// Names in file order.
  const std::vector<std::string>& names() const { return names_; }
  bool contains(const std::string& name) const { return where_.count(name) != 0; }
  const TensorEntry& entry(const std::string& name) const;
  /// Throws FormatError "missing-tensor".
  at::Tensor tensor(const std::string& name) const;
  std::span<const std::byte> bytes(const std::string& name) const;
  /// The name of the file in which a tensor lies.
  std::string file_name(const std::string& name) const;
  const std::filesystem::path& directory() const { return directory_; }
  /// A sentence for the user if the folder holds two checkpoints: which of them was chosen. "" if
  /// it holds one.
  const std::string& notice() const { return notice_; }
  /// As MappedFile::release_pages, for all files.
  void release_pages() const {
    for (const SafetensorsFile& file : files_) file.release_pages();
  }

 private:
  std::filesystem::path directory_;
  std::string notice_;
  std::vector<SafetensorsFile> files_;
  std::vector<std::string> names_;
  std::map<std::string, std::pair<size_t, size_t>> where_;
};

/// A named tensor to write.
struct NamedTensor {
  std::string name;
  /// Any strides; it is written contiguously.
  at::Tensor tensor;
  /// If set, what is written is what this returns, when its turn comes, and `tensor` says dtype and
  /// shape alone (tensor_like).
  std::function<at::Tensor()> make = {};
};

/// A tensor without storage of its own, for a NamedTensor that is made later.
at::Tensor tensor_like(at::IntArrayRef shape, at::ScalarType dtype);

/// Writes one file atomically, with the tensors in the order given, and {"format": "pt"} and
/// `metadata` as its metadata. The data begins at a multiple of 8 and has no holes (the format
/// forbids them); a caller who mixes dtypes puts wide ones first, so that each tensor is aligned. A
/// tensor that is not contiguous is copied while it is written, one at a time. Throws IoError.
void write_safetensors(const std::filesystem::path& path,
                       const std::vector<NamedTensor>& tensors,
                       const std::map<std::string, std::string>& metadata = {});

/// Writes `model.safetensors`, or shards `model-0000i-of-0000n.safetensors` of at most
/// `max_shard_bytes` with their index, into an existing directory (an AtomicDirectory's staging
/// folder). Shards are cut as transformers cuts them; inside a shard wide dtypes go first. Throws
/// IoError.
void write_safetensors_checkpoint(const std::filesystem::path& directory,
                                  const std::vector<NamedTensor>& tensors,
                                  size_t max_shard_bytes);

/// What a writer has to know of a tensor before its bytes come.
struct TensorSpec {
  std::string name;
  /// As the format spells it: "BF16".
  std::string dtype;
  std::vector<int64_t> shape;
  size_t bytes = 0;
};

/// Throws InternalError for a dtype that the format has not.
TensorSpec spec_of(const NamedTensor& named);

/// The bytes before the data of a file with these tensors behind one another: the header with its
/// length, padded to a multiple of 8.
std::string safetensors_header(const std::vector<TensorSpec>& tensors,
                               const std::map<std::string, std::string>& metadata);

/// A file whose tensors are written piece by piece, in any order. It appears under its name by
/// commit(), as AtomicFile does. Bytes that are not written are zero. Throws IoError. Not
/// thread-safe.
class SafetensorsWriter {
 public:
  SafetensorsWriter(const std::filesystem::path& path, const std::vector<TensorSpec>& tensors);
  /// Writes bytes of tensor number `index`, beginning at byte `begin` of the tensor.
  void write(size_t index, size_t begin, std::span<const std::byte> bytes);
  void commit();

 private:
  AtomicFile file_;
  /// Where each tensor begins, in bytes from the start of the file.
  std::vector<size_t> begins_;
  size_t size_ = 0;
};

/// Elements of a tensor of a file, in the order of its bytes.
struct TensorPart {
  std::string name;
  /// Of the whole tensor.
  std::vector<int64_t> shape;
  /// The index of the first element, and the elements, a contiguous list.
  int64_t first = 0;
  at::Tensor values;
};

/// Makes a file of whole tensors of which the parts are such, with zeros for elements. It is there
/// under its name at once: make it where nobody looks (AtomicDirectory). Throws IoError.
void lay_out_safetensors(const std::filesystem::path& path, std::span<const TensorPart> parts);
/// Writes parts into such a file, beside other processes that write others, and returns when they
/// are on the disk. Throws IoError; FormatError as SafetensorsFile, and "bad-part" for a tensor
/// that is not there as the part says.
void write_parts(const std::filesystem::path& path, std::span<const TensorPart> parts);

/// Makes the files that write_safetensors_checkpoint() makes of these tensors, with zeros for
/// elements: of the tensors only dtypes and shapes are read. Throws IoError.
void lay_out_checkpoint(const std::filesystem::path& directory,
                        const std::vector<NamedTensor>& tensors,
                        size_t max_shard_bytes);
/// write_parts() into the files of such a checkpoint, those that have any of the parts.
void write_checkpoint_parts(const std::filesystem::path& directory,
                            std::span<const TensorPart> parts);

/// The index file of a sharded checkpoint: tensor name to file name. Throws IoError.
void write_safetensors_index(const std::filesystem::path& directory,
                             const std::map<std::string, std::string>& weight_map,
                             size_t total_bytes);

/// "5GB", "500MB", "200KB" or bytes; decimal units as in transformers. Throws ConfigError at
/// `where`.
size_t parse_size(std::string_view text, std::string_view where);

}  // namespace lockstep::io
