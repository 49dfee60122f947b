// What a converted folder remembers, in lockstep_layout.json: its layout, the checkpoint that it
// came from, and digests. Here it is text; who reads and writes folders knows the file.
// SPDX-License-Identifier: Apache-2.0
//
// With it the way back gives the same names, files and bytes of tensors without --model, a folder
// is not read as another layout by mistake, and weights that were damaged in between are found.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/digest.h"
#include "model/logical_model.h"

namespace lockstep::model {

/// How a checkpoint spells its tensors and shares them out over files.
struct CheckpointOrigin {
  struct Tensor {
    std::string name, file;
  };
  CheckpointForm form;
  /// In the order of the files; empty if the order is not known.
  std::vector<Tensor> tensors;
  /// The dtypes of logical tensors by id, as far as they are known.
  std::map<std::string, ElementType> types = {};
};

struct LayoutManifest {
  /// "vllm:tp=2"
  std::string layout;
  CheckpointOrigin origin;
  /// The id of each logical tensor, and in hexadecimal digits its digest as the folder holds it
  /// (layout/chunk_digests.h). Where the folder stores it in another dtype than the checkpoint,
  /// `origin` has that of the checkpoint, in which the digest is taken.
  std::vector<std::pair<std::string, std::string>> digests;
};

/// The name of the manifest's file in a folder.
inline constexpr const char* kManifestFile = "lockstep_layout.json";

/// Reads the text of a manifest. Throws FormatError "bad-manifest" at `where`, the file's path.
LayoutManifest parse_manifest(std::string_view text, const std::string& where);
/// The text that parse_manifest reads.
std::string manifest_text(const LayoutManifest& manifest);

/// The digests of execute() as a manifest lists them.
std::vector<std::pair<std::string, std::string>> digest_list(const layout::LogicalTensors& logical,
                                                             const std::vector<Digest>& digests);
/// One digest of them all: equal weights have equal ones, whatever the layout.
Digest digest_of_weights(const layout::LogicalTensors& logical, const std::vector<Digest>& digests);

/// Throws FormatError "missing-tensor" or "unknown-tensor" at `where`, the manifest's folder,
/// unless the manifest lists exactly the model's tensors.
void check_tensors(const LayoutManifest& manifest,
                   const layout::LogicalTensors& logical,
                   const std::string& where);
/// Throws FormatError "digest-mismatch" at `where`, the manifest's folder, for the first tensor
/// whose digest is not the manifest's. Both have the same tensors.
void check_digests(const LayoutManifest& manifest,
                   const std::vector<std::pair<std::string, std::string>>& digests,
                   const std::string& where);

}  // namespace lockstep::model
