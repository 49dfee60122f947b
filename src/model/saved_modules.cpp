// SPDX-License-Identifier: Apache-2.0
#include "model/saved_modules.h"

#include <algorithm>
#include <map>
#include <set>

#include <fmt/ranges.h>

#include "base/check.h"
#include "model/adapter.h"
#include "model/adapter_names.h"
#include "tensor/aten.h"

namespace lockstep::model {
namespace {

constexpr std::string_view kHead = "lm_head.weight";
/// What the names of the text model's tensors begin with, by the class of transformers.
constexpr std::string_view kPrefixes[] = {"model.language_model.", "language_model.model.",
                                          "model."};

/// A name without what depends on the class.
std::string_view without_prefix(std::string_view name) {
  for (const std::string_view prefix : kPrefixes)
    if (name.starts_with(prefix)) return name.substr(prefix.size());
  return name;
}

/// Whether a tensor is read with the pairs.
bool is_of_pair(std::string_view name) {
  for (const std::string_view end : {kLoraA, kLoraB, kEmbeddingA, kEmbeddingB, kBaseWeight})
    if (name.ends_with(end)) return true;
  return false;
}

[[noreturn]] void bad(std::string_view name, std::string_view expected, std::string_view got) {
  fail<FormatError>("bad-adapter", name, "expected {}, got {}", expected, got);
}

/// Calls matches(path) for the path of the module and of each that it lies in.
template <class Matches>
bool any_level(std::string_view module, Matches&& matches) {
  for (size_t end = module.size(); end != module.npos && end > 0; end = module.rfind('.', end - 1))
    if (matches(module.substr(0, end))) return true;
  return false;
}

bool is_saved(const ModuleTensor& tensor, const std::vector<std::string>& names) {
  return std::any_of(names.begin(), names.end(),
                     [&](const std::string& name) { return is_saved_by(tensor.module(), name); });
}

}  // namespace

at::Tensor ModuleTensor::view(const Parameter& owner, const at::Tensor& storage) const {
  return piece ? owner.pieces[*piece].view(storage) : storage;
}

std::string experts_parameter_path(const Parameter& experts) {
  const std::string& first = experts.pieces[0].name;
  const size_t end = first.find(kExperts);
  LOCKSTEP_CHECK(end != first.npos, "experts {}", first);
  return first.substr(0, end + kExperts.size()) +
         std::string(experts.id.ends_with("down") ? kDown : kGateUp);
}

std::vector<ModuleTensor> module_tensors(std::span<const Parameter> parameters) {
  std::vector<ModuleTensor> all;
  ModuleTensor head{.name = std::string(kHead), .shape = {}, .parameter = {}, .piece = {}};
  bool is_tied = true;
  for (size_t i = 0; i < parameters.size(); ++i) {
    const Parameter& parameter = parameters[i];
    if (parameter.is_expert) {
      all.push_back({.name = experts_parameter_path(parameter),
                     .shape = parameter.shape,
                     .parameter = i,
                     .piece = {}});
      continue;
    }
    for (size_t piece = 0; piece < parameter.pieces.size(); ++piece)
      all.push_back({.name = parameter.pieces[piece].name,
                     .shape = parameter.pieces[piece].shape,
                     .parameter = i,
                     .piece = piece,
                     .is_norm = parameter.is_norm});
    if (parameter.id == "head") is_tied = false;
    if (parameter.id == "embedding") head.shape = parameter.shape;
  }
  if (is_tied) all.push_back(std::move(head));
  return all;
}

bool is_saved_by(std::string_view module, std::string_view name) {
  return any_level(module, [&](std::string_view path) { return path.ends_with(name); });
}

bool is_saved_by_parts(std::string_view module, std::string_view name) {
  return any_level(module, [&](std::string_view path) {
    return path.ends_with(name) &&
           (path.size() == name.size() || path[path.size() - name.size() - 1] == '.');
  });
}

std::vector<SavedTensor> new_saved_tensors(std::span<const Parameter> model,
                                           const AdapterConfig& config) {
  std::vector<SavedTensor> saved;
  for (ModuleTensor& tensor : module_tensors(model))
    if (is_saved(tensor, config.modules_to_save))
      saved.push_back({.place = std::move(tensor), .value = {}});
  return saved;
}

namespace {

/// Reads the tensors of one file.
class SavedReader {
 public:
  SavedReader(std::span<const Parameter> model,
              const AdapterConfig& config,
              const TensorSource& source)
      : model_(model), config_(config), source_(source) {
    for (const std::string& name : source.names()) {
      if (is_of_pair(name)) continue;
      if (!name.starts_with(kFilePrefix))
        bad(name, "a tensor base_model.model.…", "this one in " + source.where());
      const std::string_view path = std::string_view(name).substr(kFilePrefix.size());
      if (!names_.emplace(without_prefix(path), name).second)
        bad(name, "each tensor once", names_.find(without_prefix(path))->second + " as well");
    }
  }

  std::vector<SavedTensor> read() {
    // A file may call the model's modules as another class of transformers does.
    std::set<std::string, std::less<>> wanted;
    const std::vector<ModuleTensor> all = module_tensors(model_);
    for (const ModuleTensor& tensor : all)
      for (const std::string_view prefix : kPrefixes) {
        ModuleTensor called = tensor;
        if (called.name != kHead)
          called.name = std::string(prefix) + std::string(without_prefix(tensor.name));
        if (is_saved(called, config_.modules_to_save)) wanted.insert(tensor.name);
      }
    std::vector<SavedTensor> saved;
    const bool stays_tied = config_.ensure_weight_tying && !all.back().parameter;
    for (const ModuleTensor& tensor : all) {
      const bool is_head = !tensor.parameter;
      const bool is_wanted = wanted.contains(tensor.name) ||
                             (stays_tied && is_embedding(tensor) && wanted.contains(kHead));
      if (is_wanted && !(stays_tied && is_head)) take(tensor, saved);
    }
    if (stays_tied) drop_tied_head(saved);
    if (!names_.empty())
      bad(names_.begin()->second,
          fmt::format("a pair lora_A, lora_B, or a tensor of the modules_to_save [{}] of the model",
                      fmt::join(config_.modules_to_save, ", ")),
          "this one in " + source_.where());
    return saved;
  }

 private:
  bool is_embedding(const ModuleTensor& tensor) const {
    return tensor.parameter && model_[*tensor.parameter].id == "embedding";
  }

  void take(ModuleTensor tensor, std::vector<SavedTensor>& saved) {
    const auto found = names_.find(without_prefix(tensor.name));
    if (found == names_.end())
      bad(fmt::format("{}{}", kFilePrefix, tensor.name),
          "a tensor of the modules_to_save of adapter_config.json", "none in " + source_.where());
    const std::string& name = found->second;
    const std::vector<int64_t> shape = source_.shape(name);
    if (shape != tensor.shape)
      bad(name, fmt::format("shape {} by the model", tensor.shape), fmt::format("{}", shape));
    const at::ScalarType dtype = source_.dtype(name);
    if (dtype != at::kFloat && dtype != at::kBFloat16 && dtype != at::kHalf)
      bad(name, "F32, BF16 or F16", c10::toString(dtype));
    tensor.name = name.substr(kFilePrefix.size());
    saved.push_back({.place = std::move(tensor), .value = source_.tensor(name).clone()});
    names_.erase(found);
  }

  /// PEFT writes a head that is the embedding a second time.
  void drop_tied_head(const std::vector<SavedTensor>& saved) {
    const auto head = names_.find(kHead);
    if (head == names_.end()) return;
    const auto embedding = std::find_if(saved.begin(), saved.end(), [&](const SavedTensor& each) {
      return is_embedding(each.place);
    });
    if (embedding == saved.end() || !source_.tensor(head->second).equal(embedding->value))
      bad(head->second, "the embedding's values, since ensure_weight_tying is true", "others");
    names_.erase(head);
  }

  std::span<const Parameter> model_;
  const AdapterConfig& config_;
  const TensorSource& source_;
  /// The names of the file's tensors that are not taken yet, by what does not depend on a class.
  std::map<std::string, std::string, std::less<>> names_;
};

}  // namespace

std::vector<SavedTensor> read_saved_tensors(std::span<const Parameter> model,
                                            const AdapterConfig& config,
                                            const TensorSource& source) {
  if (config.modules_to_save.empty()) return {};
  const at::NoGradGuard no_grad;
  return SavedReader(model, config, source).read();
}

std::unique_ptr<ModelWeights> make_saved_weights(const ModelWeights& base, Adapter& adapter) {
  const at::NoGradGuard no_grad;
  ModelWeights::OwnParts own{.parameters = {}, .stays_tied = adapter.config().ensure_weight_tying};
  for (const SavedTensor& saved : adapter.saved())
    if (saved.place.parameter)
      own.parameters.insert(*saved.place.parameter);
    else
      own.head = true;
  auto weights = std::make_unique<ModelWeights>(base, own);
  std::vector<Parameter>& parameters = weights->parameters();
  for (SavedTensor& saved : adapter.saved()) {
    if (!saved.place.parameter) {
      saved.place.parameter = parameters.size() - 1;
      saved.place.piece = 0;
    }
    Parameter& owner = parameters[*saved.place.parameter];
    const at::Tensor view = saved.place.view(owner, owner.value.detach());
    if (saved.value.defined()) view.copy_(saved.value);
    saved.value = view;
    for (size_t piece = 0; piece < owner.pieces.size(); ++piece)
      if (!saved.place.piece || piece == *saved.place.piece) owner.pieces[piece].is_trained = true;
  }
  weights->pack();
  return weights;
}

}  // namespace lockstep::model
