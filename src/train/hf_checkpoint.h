// A Hugging Face checkpoint directory: loading a model from it, and writing one back.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/digest.h"
#include "base/file.h"
#include "base/json_fwd.h"
#include "io/safetensors.h"
#include "model/adapter.h"
#include "model/weights.h"
#include "train/shards.h"

namespace lockstep::train {

/// The folder inside a checkpoint that holds what a resumed run needs. Loaders of weights do not
/// look into it.
inline constexpr const char* kStateFolder = "training_state";

/// The folder of a checkpoint that holds named chat templates. Source: transformers, utils/hub.py
/// (CHAT_TEMPLATE_DIR).
inline constexpr const char* kNamedTemplates = "additional_chat_templates";

/// The tensors of a checkpoint directory as the model sees them.
class CheckpointSource : public model::TensorSource {
 public:
  /// Logs which weights are taken where the folder holds two checkpoints.
  explicit CheckpointSource(const std::filesystem::path& directory);
  std::vector<std::string> names() const override { return files_.names(); }
  bool contains(const std::string& name) const override { return files_.contains(name); }
  at::Tensor tensor(const std::string& name) const override { return files_.tensor(name); }
  std::vector<int64_t> shape(const std::string& name) const override {
    return files_.entry(name).shape;
  }
  at::ScalarType dtype(const std::string& name) const override { return files_.entry(name).dtype; }
  std::string where() const override { return files_.directory().string(); }
  void release_pages() const override { files_.release_pages(); }
  const io::SafetensorsCheckpoint& files() const { return files_; }

 private:
  io::SafetensorsCheckpoint files_;
};

/// The files of a checkpoint besides its weights: config.json, tokenizer, template and what else
/// belongs to the model, but nothing that a trainer keeps for itself.
///
/// They are all held in memory, large ones mapped, so that the folder is not read again when they
/// are written.
class CompanionFiles {
 public:
  /// Throws IoError.
  explicit CompanionFiles(const std::filesystem::path& directory);
  /// The folder that they came from.
  const std::filesystem::path& directory() const { return directory_; }
  /// The text of config.json.
  const std::string& config() const { return config_; }
  /// Writes all but config.json into an existing folder.
  void write(const std::filesystem::path& to) const;
  /// The digest of config.json and of the files that turn text into ids: with others the same
  /// weights are another model.
  Digest digest() const;

 private:
  struct File {
    /// Its path relative to the folder.
    std::filesystem::path name;
    std::string text;
    /// Used instead of `text` for a large file.
    std::shared_ptr<const MappedFile> mapped;
    std::string_view bytes() const;
  };
  std::filesystem::path directory_;
  std::string config_;
  std::vector<File> files_;
};

/// A model and the checkpoint that it came from. Runs that train adapters of one model share it,
/// but for the adapter and the modules that it saves.
struct LoadedModel {
  std::filesystem::path directory;
  /// The checkpoint; it keeps the carried tensors (vision, MTP) mapped.
  std::shared_ptr<CheckpointSource> source;
  /// Null after open_checkpoint, where the source has the current values.
  std::shared_ptr<model::ModelWeights> weights;
  /// What is added to the weights, or trained beside them; null: nothing is.
  std::unique_ptr<model::Adapter> adapter;
  /// The checkpoint's weights, where those above have modules that the adapter saves in their
  /// place; else null. Both share all others.
  std::shared_ptr<model::ModelWeights> base;

  /// The weights without the adapter.
  model::ModelWeights& base_weights() const { return base ? *base : *weights; }
  /// Takes an adapter of the weights, or null. With one they are not trained, but for the modules
  /// that it saves.
  void set_adapter(std::unique_ptr<model::Adapter> own);
  /// The files that a checkpoint of this model is written with. Null after load_model, since most
  /// commands write none.
  std::shared_ptr<CompanionFiles> companions;

  /// The same model in the same memory, without the adapter.
  LoadedModel share() const {
    return {.directory = directory,
            .source = source,
            .weights = base ? base : weights,
            .adapter = nullptr,
            .base = nullptr,
            .companions = companions};
  }
};

/// Writes the dtype into a config.json, nested or flat, under the key that it uses.
void set_dtype(Json& config, model::WeightDtype dtype);

/// Reads config.json of a checkpoint directory. Throws ConfigError "missing-model" if there is
/// none, "unsupported-adapter" if the folder holds an adapter's weights as well; FormatError.
model::ModelConfig load_config(const std::filesystem::path& directory);

/// Whether a checkpoint whose config.json ties the head to the embedding holds a head of other
/// values all the same, compared in `dtype` where the two are stored in different ones. Such a
/// model has two matrices, and config.json is wrong about it. Source: transformers 5.23,
/// modeling_utils.py (tie_weights).
bool has_own_head(const model::ModelConfig& config,
                  const CheckpointSource& source,
                  model::WeightDtype dtype);

/// Loads a checkpoint. `dtype` casts; unset: as stored, but float16 as float32, and weights of
/// several precisions in config.json's. A head of its own counts, whatever config.json ties
/// (has_own_head). A line is logged where what is loaded is not what is stored or said. `part` as
/// of ModelWeights.
LoadedModel load_model(const std::filesystem::path& directory,
                       std::optional<model::WeightDtype> dtype,
                       model::WeightUse use = model::WeightUse::kAny,
                       const model::PartToLoad& part = {});

/// Reads a checkpoint's files and configuration and checks them against each other without loading
/// a tensor, for writing it anew. Throws as load_model.
LoadedModel open_checkpoint(const std::filesystem::path& directory);

/// Throws FormatError "bad-adapter" where an adapter's file has other values of the model's
/// embedding or head beside their pairs than the checkpoint: it belongs to another model.
void check_base_copies(model::Adapter& adapter, const CheckpointSource& source);

/// The parameters of a checkpoint that was opened or loaded.
std::vector<model::Parameter> checkpoint_parameters(const LoadedModel& model);

/// How write_checkpoint writes.
struct WriteOptions {
  size_t max_shard_bytes = 5'000'000'000;
  /// The dtype to which the text model's tensors are cast, except those that are kept in float32;
  /// unset: as they are.
  std::optional<model::WeightDtype> dtype;
  /// Added to the weights that it is beside (model/adapter_merge.h), as they are written; null:
  /// none is.
  const model::Adapter* merged = nullptr;
};

/// The tensors of the text model as write_checkpoint() writes them, under their names in the
/// checkpoint: views of the model's values, or made from them when they are asked for, so that they
/// follow each change. The adapter must outlive them.
std::vector<io::NamedTensor> text_model_tensors(const LoadedModel& model,
                                                const WriteOptions& options);

/// Writes a checkpoint in the form of the one that `model` came from into the existing, empty
/// `staging` folder: its text tensors with their current values, carried tensors byte for byte,
/// config.json (transformers_version kept, ignore_keys_at_rope_validation dropped,
/// tie_word_embeddings false where a loaded or merged model has a head of its own) and every other
/// companion as it is. Reads nothing from the folder that the model came from, and holds one tensor
/// in memory at a time.
void write_checkpoint(const LoadedModel& model,
                      const std::filesystem::path& staging,
                      const WriteOptions& options);

/// Writes all of such a checkpoint but the values of its tensors, which are zeros: ranks then write
/// their parts, and it is that of write_checkpoint().
void lay_out_checkpoint(const LoadedModel& model,
                        const std::filesystem::path& staging,
                        size_t max_shard_bytes);
/// The elements of a range of a parameter, of which `values` has all, as parts of a checkpoint's
/// tensors: views.
std::vector<io::TensorPart> parts_of(const model::Parameter& parameter,
                                     const at::Tensor& values,
                                     const parallel::ElementRange& range);
/// What this rank writes of it (io::write_checkpoint_parts): the elements of weights that are its
/// own, as views; no others have to be there. The first rank also writes the carried tensors.
/// Together ranks write each element once. The model has no adapter.
std::vector<io::TensorPart> checkpoint_parts(const LoadedModel& model, const Shards& shards);

/// The digest of a checkpoint's tensors by name, dtype, shape and bytes. It does not depend on how
/// they are spread over files.
Digest digest_tensors(const io::SafetensorsCheckpoint& checkpoint);
/// The digest of the bytes of each tensor, in hexadecimal digits, by name.
std::map<std::string, std::string> tensor_checksums(const io::SafetensorsCheckpoint& checkpoint);

/// Copies the folder additional_chat_templates of a checkpoint (text/chat_template.h), if it has
/// one.
void copy_named_templates(const std::filesystem::path& from, const std::filesystem::path& to);

}  // namespace lockstep::train
