// A Hugging Face checkpoint directory: loading a model from it, and writing one back.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <string>

#include "base/json_fwd.h"
#include "io/safetensors.h"
#include "model/weights.h"

namespace lockstep::train {

/// The folder of a checkpoint that holds what is needed to resume. Loaders of weights do not look
/// into it.
inline constexpr const char* kStateFolder = "training_state";

/// The tensors of a checkpoint directory as the model sees them.
class CheckpointSource : public model::TensorSource {
 public:
  explicit CheckpointSource(const std::filesystem::path& directory) : files_(directory) {}
  std::vector<std::string> names() const override { return files_.names(); }
  bool contains(const std::string& name) const override { return files_.contains(name); }
  at::Tensor tensor(const std::string& name) const override { return files_.tensor(name); }
  std::vector<int64_t> shape(const std::string& name) const override {
    return files_.entry(name).shape;
  }
  at::ScalarType dtype(const std::string& name) const override { return files_.entry(name).dtype; }
  std::string where() const override { return files_.directory().string(); }
  const io::SafetensorsCheckpoint& files() const { return files_; }

 private:
  io::SafetensorsCheckpoint files_;
};

/// A model and where it came from.
struct LoadedModel {
  std::filesystem::path directory;
  /// Keeps the carried tensors (vision, MTP) mapped.
  std::unique_ptr<CheckpointSource> source;
  std::unique_ptr<model::ModelWeights>
      /// Null after open_checkpoint: the source's values are current.
      weights;
};

/// Writes the dtype into a config.json, nested or flat, under the key that it uses.
void set_dtype(Json& config, model::WeightDtype dtype);

/// config.json of a checkpoint directory. Throws ConfigError "missing-model" where there is none;
/// FormatError.
model::ModelConfig load_config(const std::filesystem::path& directory);

/// Loads a checkpoint. `dtype` casts (unset: as stored).
LoadedModel load_model(const std::filesystem::path& directory,
                       std::optional<model::WeightDtype> dtype);

/// A checkpoint's files and configuration, checked against each other, without loading a tensor:
/// for writing it anew. Throws as load_model.
LoadedModel open_checkpoint(const std::filesystem::path& directory);

/// What write_checkpoint puts out.
struct WriteOptions {
  size_t max_shard_bytes = 5'000'000'000;
  /// Cast text tensors that are floating point and not kept in float32; unset: as they are.
  std::optional<model::WeightDtype> dtype;
};

/// Writes a checkpoint in the form of the one that `model` came from into the existing, empty
/// `staging` folder: its text tensors with their current values, carried tensors byte for byte,
/// config.json (transformers_version kept, ignore_keys_at_rope_validation dropped) and every other
/// file of the source folder as it is.
void write_checkpoint(const LoadedModel& model,
                      const std::filesystem::path& staging,
                      const WriteOptions& options);

/// Copies what a checkpoint's folder has beside its weights and config.json: tokenizer, templates;
/// nothing of a trainer's own.
void copy_companion_files(const std::filesystem::path& from, const std::filesystem::path& to);

/// Copies the folder additional_chat_templates of a checkpoint (text/chat_template.h), if it has
/// one.
void copy_named_templates(const std::filesystem::path& from, const std::filesystem::path& to);

}  // namespace lockstep::train
