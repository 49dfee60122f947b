// Layouts on disk: a checkpoint, or a folder with a safetensors file for each rank.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "io/safetensors.h"
#include "layout/execute.h"
#include "model/logical_model.h"
#include "model/weight_formats/layout_manifest.h"
#include "model/weight_formats/make_layout.h"

namespace lockstep::cli {

/// The manifest of a folder; unset where there is none. Throws FormatError "bad-manifest", IoError.
std::optional<model::LayoutManifest> read_manifest(const std::filesystem::path& directory);
void write_manifest(const std::filesystem::path& directory, const model::LayoutManifest& manifest);

/// "rank-00001-of-00004.safetensors"
std::string rank_file_name(int64_t rank, int64_t num_ranks);

/// What is wrong with a tensor of a folder.
struct WeightFolderProblem {
  /// "missing-tensor", "digest-mismatch", …; of a file what its reader says.
  std::string code;
  /// File and tensor.
  std::string where;
  std::string message;
};

/// The tensors of a folder by rank and name.
///
/// Threads: reading from any after bind().
class WeightFolderReader : public layout::ByteSource {
 public:
  struct Tensor {
    ElementType type;
    std::vector<int64_t> shape;
    std::span<const std::byte> bytes;
  };
  using Tensors = std::map<std::string, Tensor>;

  /// One rank: a checkpoint folder. Several: a file for each. Throws FormatError "foreign-shard"
  /// for a rank file of another number of ranks, IoError for one that is missing, what the readers
  /// throw. With `problems` these are listed there instead, and what cannot be read has no tensors.
  WeightFolderReader(const std::filesystem::path& directory,
                     int64_t num_ranks,
                     std::vector<WeightFolderProblem>* problems = nullptr);

  int64_t num_ranks() const { return static_cast<int64_t>(ranks_.size()); }
  const Tensors& rank(int64_t index) const { return ranks_[static_cast<size_t>(index)]; }
  /// The tensors of a folder of one rank in the order of its files; none of several ranks.
  std::vector<model::CheckpointOrigin::Tensor> order() const;
  /// Folder or file, for errors.
  std::string where(int64_t rank) const;

  /// What does not fit between the folder and `layout`: by name, shape and dtype.
  std::vector<WeightFolderProblem> problems(const layout::Layout& layout) const;
  /// Makes `layout`'s indices the ones of tensor(). Throws the first of problems() as FormatError.
  void bind(const layout::Layout& layout);
  /// The same, whatever is wrong: a tensor that is not there, or is another one, has no bytes.
  void bind_what_fits(const layout::Layout& layout);

  std::span<const std::byte> tensor(int64_t rank, int64_t index) override;
  void release() override;

 private:
  std::filesystem::path directory_;
  /// Of one rank.
  std::optional<io::SafetensorsCheckpoint> checkpoint_;
  /// Of several.
  std::vector<io::SafetensorsFile> files_;
  std::vector<Tensors> ranks_;
  std::vector<std::vector<std::span<const std::byte>>> bound_;
};

/// Writes a layout into a staging folder. Not thread-safe.
class WeightFolderWriter : public layout::ByteSink {
 public:
  /// One rank: a folder in the order of `order` as far as its names are there, wide elements of a
  /// file first; in its files too, where they all are and `max_file_bytes` is not given, else in
  /// files of at most that many bytes, 5 GB.
  WeightFolderWriter(std::filesystem::path directory,
                     const layout::Layout& layout,
                     std::optional<size_t> max_file_bytes,
                     const std::vector<model::CheckpointOrigin::Tensor>& order);
  void write(int64_t rank, int64_t index, int64_t begin, std::span<const std::byte> bytes) override;
  /// Gives all files their names, and a checkpoint of several its index.
  void finish();

 private:
  struct File {
    std::string name;
    std::vector<io::TensorSpec> tensors;
    std::unique_ptr<io::SafetensorsWriter> writer;
    int64_t bytes_left = 0;
  };
  struct Place {
    size_t file, index;
  };
  std::filesystem::path directory_;
  std::vector<File> files_;
  /// By rank and tensor.
  std::vector<std::vector<Place>> places_;
};

/// A model as the command knows it: its configuration, its logical tensors with the dtypes that a
/// folder has, its form.
struct WeightFolderModel {
  model::LogicalModel logical;
  model::CheckpointForm form;
};

/// The model of `config` as `input`, laid out as `name`, has it. Its form is what the keys of a
/// checkpoint say, else as published. A carried tensor has the name that it has among `origin`'s,
/// if one does. Throws FormatError "missing-tensor" (a checkpoint without an embedding),
/// "layout-conflict" (parts of one tensor in different dtypes).
WeightFolderModel read_folder_model(const model::ModelConfig& config,
                                    const model::LayoutSpec& name,
                                    const WeightFolderReader& input,
                                    const model::CheckpointOrigin* origin = nullptr);

/// What comparing with a checkpoint found.
struct Comparison {
  /// "digest-mismatch"
  std::vector<WeightFolderProblem> problems;
  /// Of the checkpoint's logical tensors.
  std::vector<Digest> digests;
};
/// Compares the tensors of `layout` with those that `truth` gives, byte for byte and copy by copy.
/// Both inputs are bound; a tensor without bytes is not compared.
Comparison compare_tensors(const layout::Layout& truth,
                           WeightFolderReader& truth_input,
                           const layout::Layout& layout,
                           WeightFolderReader& input,
                           const layout::ExecuteOptions& options);

}  // namespace lockstep::cli
