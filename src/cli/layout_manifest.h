// What a converted folder remembers, in lockstep_layout.json: its layout, the checkpoint that it
// came from, and digests.
// SPDX-License-Identifier: Apache-2.0
//
// With it the way back gives the same names, files and bytes of tensors without --model, a folder
// is not read as another layout by mistake, and weights that were damaged in between are found.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/digest.h"
#include "layout/layout.h"
#include "model/logical.h"

namespace lockstep::cli {

/// How a checkpoint spells its tensors and shares them out over files.
struct CheckpointOrigin {
  struct Tensor {
    std::string name, file;
  };
  model::CheckpointForm form;
  /// In the order of the files; empty where none is known.
  std::vector<Tensor> tensors;
};

struct LayoutManifest {
  /// "vllm:tp=2"
  std::string layout;
  CheckpointOrigin origin;
  std::vector<std::pair<std::string, std::string>>
      /// Id of a logical tensor, hexadecimal digits.
      digests;
};

/// Of the folder's lockstep_layout.json; unset where there is none. Throws FormatError
/// "bad-manifest".
std::optional<LayoutManifest> read_manifest(const std::filesystem::path& directory);
void write_manifest(const std::filesystem::path& directory, const LayoutManifest& manifest);

/// The manifest's form of an executor's digests.
std::vector<std::pair<std::string, std::string>> digest_list(const layout::LogicalTensors& logical,
                                                             const std::vector<Digest>& digests);
/// One digest of them all: equal weights have equal ones, whatever the layout.
Digest digest_of_weights(const layout::LogicalTensors& logical, const std::vector<Digest>& digests);

/// Throws FormatError "missing-tensor", "unknown-tensor" at `directory` unless the manifest lists
/// just the model's tensors.
void check_tensors(const LayoutManifest& manifest,
                   const layout::LogicalTensors& logical,
                   const std::filesystem::path& directory);
/// Throws FormatError "digest-mismatch" at `directory` for the first tensor whose digest is not the
/// manifest's; both have the same tensors.
void check_digests(const LayoutManifest& manifest,
                   const std::vector<std::pair<std::string, std::string>>& digests,
                   const std::filesystem::path& directory);

}  // namespace lockstep::cli
