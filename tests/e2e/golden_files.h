// Reads tests/golden: the manifest, a file's tensors and values, and checkpoints under canonical
// names. SPDX-License-Identifier: Apache-2.0
//
// The format is described in tests/golden/README.md.
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "base/json.h"
#include "io/safetensors.h"
#include "tensor/aten.h"

namespace lockstep::testing {

using TensorMap = std::map<std::string, at::Tensor>;

/// A checkpoint of the manifest. Example: {"qwen3_5_moe_mixed_fused", "qwen3_5_moe",
/// "qwen3_5_moe", true, false}.
struct GoldenCheckpoint {
  std::string name;
  std::string family;
  /// Checkpoints of one set hold the same text weights.
  std::string weights;
  bool is_float32 = false;
  /// The first of its set: what no form of file changes is tested once.
  bool is_first = false;

  std::filesystem::path directory() const;
};

std::filesystem::path golden_folder();

/// All checkpoints, in the manifest's order.
std::vector<GoldenCheckpoint> golden_manifest();

/// One file of tests/golden.
class GoldenFile {
 public:
  explicit GoldenFile(const std::string& name);
  /// Throws when there is no such tensor.
  at::Tensor tensor(const std::string& name) const;
  /// A value of the metadata: "values", "names", …
  Json metadata(const std::string& key) const;

 private:
  io::SafetensorsFile file_;
  std::map<std::string, const io::TensorEntry*> entries_;
};

/// Tensors of a checkpoint directory, by the names in its files.
TensorMap read_checkpoint(const std::filesystem::path& directory);

/// Text tensors under canonical names: flat, one tensor an expert; vision and MTP left out.
TensorMap canonical(const TensorMap& tensors);

/// Elements i * numel / count of a tensor, i < count.
at::Tensor sampled(const at::Tensor& tensor, int64_t count);

/// Ids or log-probabilities of a tensor [N] as a JSON list.
Json json_list(const at::Tensor& tensor);

/// Log-probabilities of a row, without the null of its first token: float64 [N - 1].
at::Tensor numbers(const Json& list);

}  // namespace lockstep::testing
