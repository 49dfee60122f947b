// SPDX-License-Identifier: Apache-2.0
#include "train/hf_checkpoint.h"

#include <algorithm>
#include <set>
#include <unordered_map>

#include <fmt/ranges.h>

#include "base/check.h"
#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "model/adapter_merge.h"
#include "tensor/aten.h"
#include "train/shard_plan.h"

namespace lockstep::train {
namespace {

namespace fs = std::filesystem;

constexpr const char* kAdapterConfig = "adapter_config.json";
constexpr const char* kHead = "lm_head.weight";
/// Behind the prefix of a checkpoint's form.
constexpr const char* kEmbedding = "embed_tokens.weight";

/// Removes a key at every level. It serves for ignore_keys_at_rope_validation, which transformers
/// writes as a list and cannot read back.
void drop_key(Json& value, const std::string& key) {
  if (value.is_object()) value.erase(key);
  if (value.is_structured())
    for (auto& inner : value) drop_key(inner, key);
}

/// Whether a companion file is copied. Files that belong to the weights are written anew; folders,
/// except that of named chat templates, and a trainer's own files are left out.
bool is_copied(const fs::directory_entry& entry) {
  const std::string name = entry.path().filename().string();
  if (!entry.is_regular_file() || name == "config.json" || name.starts_with('.')) return false;
  if (name.ends_with(".safetensors") || name.ends_with(".safetensors.index.json")) return false;
  for (const char* other : {"trainer_state.json", "args.json", "training_args.bin",
                            "lockstep_layout.json", kAdapterConfig})
    if (name == other) return false;
  for (const char* ending : {".bin", ".pt", ".pth", ".gguf", ".onnx", ".bin.index.json"})
    if (name.ends_with(ending)) return false;
  return true;
}

template <class Use>
void for_each_named_template(const fs::path& directory, const Use& use) {
  if (!fs::is_directory(directory / kNamedTemplates)) return;
  for (const auto& entry : fs::directory_iterator(directory / kNamedTemplates))
    if (entry.is_regular_file() && entry.path().extension() == ".jinja") use(entry);
}

/// A run may load one checkpoint twice, as its reference model as well.
void say_once(LogLevel level, const std::string& text) {
  static std::set<std::string> said;
  if (said.insert(text).second) log_line(level, text);
}

}  // namespace

CheckpointSource::CheckpointSource(const fs::path& directory) : files_(directory) {
  if (!files_.notice().empty()) say_once(LogLevel::kWarning, files_.notice());
}

void set_dtype(Json& config, model::WeightDtype dtype) {
  const std::string_view name = enum_name(dtype);
  const auto set = [&](Json& level) {
    for (const char* key : {"dtype", "torch_dtype"})
      if (level.contains(key)) level[key] = name;
  };
  set(config);
  if (config.contains("text_config")) set(config["text_config"]);
}

namespace {

void set_untied(Json& config) {
  for (Json* level : {&config, config.contains("text_config") ? &config["text_config"] : &config})
    if (level->contains("tie_word_embeddings")) (*level)["tie_word_embeddings"] = false;
}

}  // namespace

model::ModelConfig load_config(const fs::path& directory) {
  const fs::path path = directory / "config.json";
  std::error_code ignored;
  if (!fs::is_directory(directory, ignored))
    fail<ConfigError>("missing-model", directory.string(),
                      "expected a checkpoint directory, got none");
  if (!fs::exists(path, ignored))
    fail<ConfigError>(
        "missing-model", directory.string(), "expected a config.json in it, got none{}",
        fs::exists(directory / kAdapterConfig, ignored)
            ? " (it holds an adapter: name its base model here and it with --adapters)"
            : "");
  // transformers with peft would apply it.
  for (const char* weights : {"adapter_model.safetensors", "adapter_model.bin"})
    if (fs::exists(directory / kAdapterConfig, ignored) && fs::exists(directory / weights, ignored))
      fail<ConfigError>("unsupported-adapter", (directory / weights).string(),
                        "expected a model without an adapter, got one beside the model's weights "
                        "(move it to a folder of its own, and name that with --adapters)");
  return model::parse_model_config(parse_json_file(path, "bad-config"), path.string());
}

namespace {

/// Weights of several precisions are loaded in the one that config.json says, as transformers loads
/// them: products take one. Unset where they are of one precision already, but for those that a
/// cast leaves in float32.
std::optional<model::WeightDtype> common_dtype(const model::ModelConfig& config,
                                               const CheckpointSource& source) {
  std::set<at::ScalarType> found;
  for (const auto& parameter :
       model::describe_parameters(config, model::detect_form(config, source)))
    for (const auto& piece : parameter.pieces) {
      // What is missing is refused when it is loaded.
      if (!source.contains(piece.name)) continue;
      const at::ScalarType type = model::loaded_dtype(piece.name, source.dtype(piece.name), {});
      if (model::cast_dtype(piece.name, type, model::WeightDtype::kBFloat16) != at::kFloat)
        found.insert(type);
    }
  if (found.size() < 2) return {};
  say_once(LogLevel::kInfo,
           fmt::format("{}: weights of several precisions are loaded as {}, as config.json says "
                       "(another: --torch_dtype)",
                       source.where(), enum_name(config.dtype)));
  return config.dtype;
}

/// Nothing here computes in float16: what became of such weights is said.
void say_float16(const LoadedModel& loaded) {
  int64_t count = 0;
  for (const auto& parameter : loaded.weights->parameters())
    for (const auto& piece : parameter.pieces)
      count += loaded.source->dtype(piece.name) == at::kHalf;
  if (count == 0) return;
  const bool is_float32 = loaded.weights->weight_dtype() == model::WeightDtype::kFloat32;
  say_once(
      LogLevel::kInfo,
      fmt::format("{}: {} float16 tensors are loaded as {}", loaded.directory.string(), count,
                  is_float32
                      ? "float32, which has all of their values (bfloat16: --torch_dtype bfloat16)"
                      : "bfloat16, which rounds them (exactly: --torch_dtype float32)"));
}

}  // namespace

bool has_own_head(const model::ModelConfig& config,
                  const CheckpointSource& source,
                  model::WeightDtype dtype) {
  const std::string head = kHead;
  const std::string embedding = model::detect_form(config, source).prefix + kEmbedding;
  if (!config.tie_word_embeddings || !source.contains(head) || !source.contains(embedding))
    return false;
  if (source.shape(head) != source.shape(embedding)) return true;
  const auto value = [&](const std::string& name) {
    const at::Tensor stored = source.tensor(name);
    return source.dtype(head) == source.dtype(embedding) ? stored
                                                         : stored.to(model::scalar_type(dtype));
  };
  const at::NoGradGuard no_grad;
  return !value(head).equal(value(embedding));
}

LoadedModel load_model(const fs::path& directory,
                       std::optional<model::WeightDtype> dtype,
                       model::WeightUse use,
                       const model::PartToLoad& part) {
  LoadedModel loaded;
  loaded.directory = directory;
  auto config = load_config(directory);
  loaded.source = std::make_shared<CheckpointSource>(directory);
  if (!dtype) dtype = common_dtype(config, *loaded.source);
  if (has_own_head(config, *loaded.source, dtype.value_or(config.dtype))) {
    say_once(LogLevel::kWarning,
             fmt::format("{}: lm_head.weight is loaded as a head of its own, as transformers does: "
                         "its values are not the embedding's, though config.json says "
                         "tie_word_embeddings true (vLLM takes the embedding for the head; say "
                         "false there)",
                         directory.string()));
    config.tie_word_embeddings = false;
  }
  loaded.weights =
      std::make_shared<model::ModelWeights>(std::move(config), *loaded.source, dtype, use, part);
  say_float16(loaded);
  // The weights are copies of what the files hold.
  loaded.source->release_pages();
  return loaded;
}

LoadedModel open_checkpoint(const fs::path& directory) {
  LoadedModel opened;
  opened.directory = directory;
  const auto config = load_config(directory);
  opened.source = std::make_shared<CheckpointSource>(directory);
  opened.companions = std::make_shared<CompanionFiles>(directory);
  model::check_tensors(
      model::describe_parameters(config, model::detect_form(config, *opened.source)), config,
      *opened.source);
  return opened;
}

namespace {

std::vector<model::Parameter> parameters_of(const LoadedModel& model,
                                            const model::ModelConfig& config) {
  if (model.weights) return model.weights->parameters();
  return model::describe_parameters(config, model::detect_form(config, *model.source));
}

}  // namespace

std::vector<model::Parameter> checkpoint_parameters(const LoadedModel& model) {
  return parameters_of(model, load_config(model.directory));
}

void check_base_copies(model::Adapter& adapter, const CheckpointSource& source) {
  const at::NoGradGuard no_grad;
  for (const model::SavedTensor& copy : adapter.take_base_copies()) {
    const at::Tensor stored = source.tensor(copy.place.name);
    // Whichever of the two is narrower may have been rounded.
    const bool is_same = stored.to(copy.value.scalar_type()).equal(copy.value) ||
                         copy.value.to(stored.scalar_type()).equal(stored);
    if (!is_same)
      fail<FormatError>("bad-adapter", copy.place.name,
                        "expected the values of {} beside the adapter's pair, got others (an "
                        "adapter of another model)",
                        source.where());
    source.files().release_pages();
  }
}

void LoadedModel::set_adapter(std::unique_ptr<model::Adapter> own) {
  adapter = std::move(own);
  if (!adapter) return;
  check_base_copies(*adapter, *source);
  weights->freeze();
  if (adapter->saved().empty()) return;
  base = std::move(weights);
  weights = model::make_saved_weights(*base, *adapter);
}

namespace {

/// The text model's tensors by name, with their current values.
std::unordered_map<std::string, at::Tensor> text_tensors(const LoadedModel& model,
                                                         const model::ModelConfig& config) {
  std::unordered_map<std::string, at::Tensor> tensors;
  if (model.weights) {
    model.weights->for_each_tensor(
        [&](const std::string& name, const at::Tensor& value) { tensors[name] = value; });
  } else {
    for (const auto& parameter : parameters_of(model, config))
      for (const auto& piece : parameter.pieces)
        tensors[piece.name] = model.source->tensor(piece.name);
  }
  // A tied checkpoint may hold the head all the same; it is written as the embedding.
  const bool is_tied =
      model.weights ? model.weights->config().tie_word_embeddings : config.tie_word_embeddings;
  if (is_tied && model.source->contains(kHead))
    tensors[kHead] =
        model.weights ? model.weights->head().values().detach() : model.source->tensor(kHead);
  return tensors;
}

/// What write_checkpoint writes of a model, and how its config.json changes.
struct CheckpointTensors {
  /// Carried ones, too, unless only the text model's were asked for.
  std::vector<io::NamedTensor> tensors;
  std::optional<model::WeightDtype> written;
  bool unties_head = false;
};

CheckpointTensors tensors_to_write(const LoadedModel& model,
                                   const model::ModelConfig& config,
                                   const WriteOptions& options,
                                   bool with_carried) {
  auto current = text_tensors(model, config);
  std::shared_ptr<const model::MergedWeights> merged;
  if (options.merged)
    merged = std::make_shared<model::MergedWeights>(parameters_of(model, config), *options.merged);
  CheckpointTensors result{.tensors = {}, .written = options.dtype, .unties_head = false};
  // Weights may have been cast when they were loaded, too: config.json says what the matrices are
  // now.
  if (!result.written && model.weights) result.written = model.weights->weight_dtype();
  std::vector<std::string> names = model.source->names();
  const bool gets_head = merged && merged->unties_head();
  if (gets_head && !model.source->contains(kHead)) {
    names.push_back(kHead);
    current[kHead] = current.at(model::detect_form(config, *model.source).prefix + kEmbedding);
  }
  result.unties_head =
      config.tie_word_embeddings &&
      (gets_head || (model.weights && !model.weights->config().tie_word_embeddings));
  // What a checkpoint may hold of it is the embedding once more.
  const bool is_tied = config.tie_word_embeddings && !result.unties_head;
  for (const std::string& name : names) {
    const auto found = current.find(name);
    if (!with_carried && (found == current.end() || (name == kHead && is_tied))) continue;
    const at::Tensor value = found != current.end() ? found->second : model.source->tensor(name);
    at::ScalarType dtype = value.scalar_type();
    if (options.dtype && found != current.end())
      dtype = model::cast_dtype(name, dtype, *options.dtype);
    io::NamedTensor tensor{name, value};
    if (merged && merged->contains(name))
      tensor.make = [merged, name, value, dtype] { return merged->merge(name, value, dtype); };
    else if (dtype != value.scalar_type())
      tensor.make = [value, dtype] { return value.to(dtype); };
    if (tensor.make) tensor.tensor = io::tensor_like(value.sizes(), dtype);
    result.tensors.push_back(std::move(tensor));
  }
  return result;
}

}  // namespace

std::vector<io::NamedTensor> text_model_tensors(const LoadedModel& model,
                                                const WriteOptions& options) {
  return tensors_to_write(model, load_config(model.directory), options, /*with_carried=*/false)
      .tensors;
}

namespace {

/// Makes a checkpoint, with its weights' files by write(tensors).
template <class Write>
void make_checkpoint(const LoadedModel& model,
                     const fs::path& staging,
                     const WriteOptions& options,
                     const Write& write) {
  LOCKSTEP_CHECK(model.companions, "a checkpoint is written without its companions");
  const std::string where = (model.companions->directory() / "config.json").string();
  Json config = parse_json(model.companions->config(), where, "bad-config");
  const CheckpointTensors all = tensors_to_write(model, model::parse_model_config(config, where),
                                                 options, /*with_carried=*/true);
  write(all.tensors);

  drop_key(config, "ignore_keys_at_rope_validation");
  if (all.written) set_dtype(config, *all.written);
  if (all.unties_head) set_untied(config);
  write_file(staging / "config.json", dump_json_pretty(config));
  model.companions->write(staging);
}

}  // namespace

void write_checkpoint(const LoadedModel& model,
                      const fs::path& staging,
                      const WriteOptions& options) {
  make_checkpoint(model, staging, options, [&](const auto& tensors) {
    io::write_safetensors_checkpoint(staging, tensors, options.max_shard_bytes);
  });
}

void lay_out_checkpoint(const LoadedModel& model, const fs::path& staging, size_t max_shard_bytes) {
  make_checkpoint(model, staging, {}, [&](const auto& tensors) {
    io::lay_out_checkpoint(staging, tensors, max_shard_bytes);
  });
}

std::vector<io::TensorPart> parts_of(const model::Parameter& parameter,
                                     const at::Tensor& values,
                                     const parallel::ElementRange& range) {
  std::vector<io::TensorPart> parts;
  const at::Tensor list = values.detach().view({-1});
  for (const TensorRange& own : checkpoint_ranges(parameter, range)) {
    const model::CheckpointPiece& piece = parameter.pieces[own.piece];
    parts.push_back({own.name, piece.shape, own.elements.first,
                     list.narrow(0, piece.offset + own.elements.first, own.elements.count())});
  }
  return parts;
}

std::vector<io::TensorPart> checkpoint_parts(const LoadedModel& model, const Shards& shards) {
  LOCKSTEP_CHECK(model.weights && !model.adapter, "an adapter is a file of its own");
  // As in text_tensors().
  const bool writes_head =
      model.weights->config().tie_word_embeddings && model.source->contains(kHead);
  const std::string embedding = model.weights->form().prefix + kEmbedding;
  std::vector<io::TensorPart> parts;
  std::set<std::string_view> of_parameters;
  const auto& parameters = model.weights->parameters();
  for (size_t i = 0; i < parameters.size(); ++i) {
    const model::Parameter& parameter = parameters[i];
    for (const auto& piece : parameter.pieces) of_parameters.insert(piece.name);
    // Where several ranks have the same elements for their own, one of them writes these.
    const std::vector<int64_t> owners = shards.owners(parameter);
    if (std::find(owners.begin(), owners.end(), shards.ranks().rank()) == owners.end()) continue;
    for (io::TensorPart& part :
         parts_of(parameter, model.weights->values(i), shards.range(parameter))) {
      if (writes_head && part.name == embedding) {
        parts.push_back(part);
        parts.back().name = kHead;
      }
      parts.push_back(std::move(part));
    }
  }
  if (!shards.ranks().is_first()) return parts;
  for (const std::string& name : model.source->names()) {
    if (of_parameters.contains(name) || (name == kHead && writes_head)) continue;
    const at::Tensor carried = model.source->tensor(name);
    parts.push_back({name, carried.sizes().vec(), 0, carried});
  }
  return parts;
}

std::string_view CompanionFiles::File::bytes() const {
  if (!mapped) return text;
  return {reinterpret_cast<const char*>(mapped->bytes().data()), mapped->bytes().size()};
}

CompanionFiles::CompanionFiles(const fs::path& directory)
    : directory_(directory), config_(read_file(directory / "config.json")) {
  constexpr uintmax_t kLarge = uintmax_t{64} << 20;
  const auto add = [&](const fs::directory_entry& entry) {
    File file{.name = entry.path().lexically_relative(directory), .text = {}, .mapped = {}};
    if (entry.file_size() > kLarge)
      file.mapped = std::make_shared<const MappedFile>(entry.path());
    else
      file.text = read_file(entry.path());
    files_.push_back(std::move(file));
  };
  for (const auto& entry : fs::directory_iterator(directory))
    if (is_copied(entry)) add(entry);
  for_each_named_template(directory, add);
  std::sort(files_.begin(), files_.end(),
            [](const File& a, const File& b) { return a.name < b.name; });
}

void CompanionFiles::write(const fs::path& to) const {
  for (const File& file : files_) {
    fs::create_directories((to / file.name).parent_path());
    write_file(to / file.name, file.bytes());
  }
}

Digest CompanionFiles::digest() const {
  Digest digest = digest_of(config_);
  for (const File& file : files_) {
    const std::string name = file.name.string();
    // A README or a picture in that folder is not copied.
    const bool counts = name.ends_with(".json") || name.ends_with(".jinja") ||
                        name.ends_with(".txt") || name.ends_with(".model");
    if (counts) digest = digest_of(file.bytes(), digest_of(name, digest));
  }
  return digest;
}

Digest digest_tensors(const io::SafetensorsCheckpoint& checkpoint) {
  std::vector<std::string> names = checkpoint.names();
  std::sort(names.begin(), names.end());
  Digest digest;
  // Beside a model in memory the files would be a second one.
  constexpr size_t kPagesAtOnce = size_t{64} << 20;
  size_t pages = 0;
  for (const std::string& name : names) {
    const io::TensorEntry& entry = checkpoint.entry(name);
    const std::string form =
        fmt::format("{} {} {}", name, c10::toString(entry.dtype), fmt::join(entry.shape, ","));
    const auto bytes = checkpoint.bytes(name);
    digest = digest_of(bytes.data(), bytes.size(), digest_of(form, digest));
    pages += bytes.size();
    if (pages < kPagesAtOnce) continue;
    checkpoint.release_pages();
    pages = 0;
  }
  checkpoint.release_pages();
  return digest;
}

std::map<std::string, std::string> tensor_checksums(const io::SafetensorsCheckpoint& checkpoint) {
  std::map<std::string, std::string> checksums;
  for (const std::string& name : checkpoint.names()) {
    const auto bytes = checkpoint.bytes(name);
    checksums[name] = digest_of(bytes.data(), bytes.size()).hex();
  }
  return checksums;
}

void copy_named_templates(const fs::path& from, const fs::path& to) {
  for_each_named_template(from, [&](const fs::directory_entry& entry) {
    fs::create_directories(to / kNamedTemplates);
    fs::copy_file(entry.path(), to / kNamedTemplates / entry.path().filename());
  });
}

}  // namespace lockstep::train
