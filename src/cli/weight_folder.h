// Layouts on disk: a checkpoint, or a folder with a safetensors file for each rank.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <set>
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

/// What is wrong with a tensor or a file of a folder.
struct WeightFolderProblem {
  /// The code of the error: "missing-tensor", "digest-mismatch", or what the file's reader says.
  std::string code;
  /// The file and the tensor.
  std::string where;
  std::string message;
};

/// The tensors of a folder by rank and name.
///
/// Threads: any may read after bind().
class WeightFolderReader : public layout::ByteSource {
 public:
  struct Tensor {
    ElementType type;
    std::vector<int64_t> shape;
    std::span<const std::byte> bytes;
  };
  using Tensors = std::map<std::string, Tensor>;

  /// A layout of one rank is a checkpoint folder, or a file; of several, each has a file in the
  /// folder. Throws FormatError "foreign-shard" for a rank file of another number of ranks, IoError
  /// for a missing one, and what the readers throw. With `problems` these are listed there instead,
  /// and a file that cannot be read has no tensors.
  WeightFolderReader(const std::filesystem::path& directory,
                     int64_t num_ranks,
                     std::vector<WeightFolderProblem>* problems = nullptr);

  int64_t num_ranks() const { return static_cast<int64_t>(ranks_.size()); }
  /// Whether this is a file, or files that say so: the parameters of an engine (engine_dump.h).
  bool is_dump() const { return is_dump_; }
  const Tensors& rank(int64_t index) const { return ranks_[static_cast<size_t>(index)]; }
  /// The tensors of a folder of one rank in the order of its files; empty for several ranks.
  std::vector<model::CheckpointOrigin::Tensor> order() const;
  /// The folder or the rank's file, for errors.
  std::string where(int64_t rank) const;

  /// How the folder differs from `layout` in names, shapes and dtypes; with code "not-comparable"
  /// what a dump says it cannot be compared in. Tensors named in `optional` may be missing.
  std::vector<WeightFolderProblem> problems(const layout::Layout& layout,
                                            const std::set<std::string>& optional = {}) const;
  /// Makes tensor() use the indices of `layout`. Throws the first of problems() as FormatError.
  void bind(const layout::Layout& layout);
  /// The same, whatever problems there are: a tensor that is missing or differs has no bytes.
  void bind_what_fits(const layout::Layout& layout);
  /// How many tensors of the layout are there as it has them.
  int64_t num_bound() const { return num_bound_; }

  std::span<const std::byte> tensor(int64_t rank, int64_t index) override;
  void release() override;

 private:
  void open_file(int64_t rank, const std::filesystem::path& path);

  std::filesystem::path directory_;
  /// The files of a folder of one rank.
  std::optional<io::SafetensorsCheckpoint> checkpoint_;
  /// The files of a folder of several ranks, or the file of one.
  std::vector<io::SafetensorsFile> files_;
  std::vector<Tensors> ranks_;
  bool is_dump_ = false;
  int64_t num_bound_ = 0;
  /// By rank: what cannot be compared, and why.
  std::vector<std::map<std::string, std::string>> set_aside_;
  std::vector<std::vector<std::span<const std::byte>>> bound_;
};

/// Writes a layout into a staging folder. Not thread-safe.
class WeightFolderWriter : public layout::ByteSink {
 public:
  /// A layout of one rank is written as a checkpoint folder, whose tensors stand in the order of
  /// `order` as far as it knows their names, with wide elements of a file first. They are shared
  /// out over its files too, if it knows all names and `max_file_bytes` is not given; else over
  /// files of at most `max_file_bytes`, by default 5 GB.
  WeightFolderWriter(std::filesystem::path directory,
                     const layout::Layout& layout,
                     std::optional<size_t> max_file_bytes,
                     const std::vector<model::CheckpointOrigin::Tensor>& order);
  void write(int64_t rank, int64_t index, int64_t begin, std::span<const std::byte> bytes) override;
  /// Gives all files their names, and writes the index of a checkpoint of several files.
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
  /// Where each tensor goes, by rank and tensor.
  std::vector<std::vector<Place>> places_;
};

/// A model as a folder has it: its logical tensors with the folder's dtypes, and the form of its
/// names.
struct WeightFolderModel {
  model::LogicalModel logical;
  model::CheckpointForm form;
};

/// The model of `config` as `input` has it, whose layout is `name`. Its form is what the names of a
/// checkpoint say, else that in which the family is published. A carried tensor has its name in
/// `origin`, if it is there; so has one whose dtype the layout changes, its dtype. Throws
/// FormatError "missing-tensor" (a checkpoint without an embedding), "layout-conflict" (parts of
/// one tensor in different dtypes).
WeightFolderModel read_folder_model(const model::ModelConfig& config,
                                    const model::LayoutSpec& name,
                                    const WeightFolderReader& input,
                                    const model::CheckpointOrigin* origin = nullptr);

}  // namespace lockstep::cli
