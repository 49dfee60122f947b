// SPDX-License-Identifier: Apache-2.0
#include "model/adapter_reader.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <map>
#include <optional>
#include <set>

#include <fmt/ranges.h>

#include "base/check.h"
#include "model/adapter_names.h"
#include "tensor/aten.h"

namespace lockstep::model {
namespace {

/// A range of outputs that a file may have a pair of its own for.
enum class Part : int { kGateUp, kGate, kUp, kDown };
constexpr std::array<std::string_view, 4> kPartNames{"gate_up_proj", "gate_proj", "up_proj",
                                                     "down_proj"};

std::string_view name_of(Part part) { return kPartNames[static_cast<size_t>(part)]; }

std::optional<Part> part_of(std::string_view name) {
  const auto found = std::find(kPartNames.begin(), kPartNames.end(), name);
  if (found == kPartNames.end()) return {};
  return static_cast<Part>(found - kPartNames.begin());
}

/// What a tensor is that is no half of a pair beside a product's weight.
std::string_view unusable(std::string_view name) {
  if (name.ends_with("lora_magnitude_vector")) return "DoRA is not built";
  return "it is no half of a pair lora_A, lora_B";
}

[[noreturn]] void bad(std::string_view name, std::string_view expected, std::string_view got) {
  fail<FormatError>("bad-adapter", name, "expected {}, got {}", expected, got);
}

[[noreturn]] void bad_shape(std::string_view name,
                            const std::vector<int64_t>& expected,
                            const std::vector<int64_t>& got) {
  bad(name, fmt::format("shape {} by the model and adapter_config.json", expected),
      fmt::format("{}", got));
}

/// "P" and "3.gate_proj" of "P.3.gate_proj", where P ends with the experts' name; the latter is
/// empty for P itself. Unset for other modules.
std::optional<std::pair<std::string, std::string>> split_experts(const std::string& module) {
  const size_t found = module.find(kExperts);
  if (found == module.npos) return {};
  const size_t end = found + kExperts.size();
  if (end == module.size()) return {{module, ""}};
  if (module[end] != '.') return {};
  return {{module.substr(0, end), module.substr(end + 1)}};
}

/// The number of an expert and what follows it; unset where none begins.
std::optional<std::pair<int64_t, std::string>> split_number(const std::string& text) {
  int64_t number = 0;
  const char* const end = text.data() + text.size();
  const auto parsed = std::from_chars(text.data(), end, number);
  if (parsed.ec != std::errc() || parsed.ptr == end || *parsed.ptr != '.' || number < 0) return {};
  return {{number, std::string(parsed.ptr + 1, end)}};
}

/// Matrices of all experts, and what B A is multiplied by.
struct Bank {
  /// [E, R, I], [E, O, R]
  at::Tensor a, b;
  double scale = 1;
};

/// One behind the other, of whatever ranks and scales.
Bank stack(const std::vector<Bank>& banks) {
  int64_t rank = 0;
  for (const Bank& bank : banks) rank = std::max(rank, bank.a.size(0));
  const auto count = static_cast<int64_t>(banks.size());
  const at::TensorOptions options = at::TensorOptions().dtype(at::kFloat);
  Bank all{at::zeros({count, rank, banks[0].a.size(1)}, options),
           at::zeros({count, banks[0].b.size(0), rank}, options), banks[0].scale};
  for (int64_t e = 0; e < count; ++e) {
    const Bank& bank = banks[static_cast<size_t>(e)];
    all.a.select(0, e).narrow(0, 0, bank.a.size(0)).copy_(bank.a);
    const at::Tensor b = all.b.select(0, e).narrow(1, 0, bank.b.size(1));
    b.copy_(bank.b);
    if (bank.scale != all.scale) b.mul_(bank.scale / all.scale);
  }
  return all;
}

/// One pair for the rows of both, gate's first.
Bank join(const Bank& gate, const Bank& up) {
  Bank both{gate.a, {}, gate.scale};
  const int64_t experts = gate.a.size(0), rows = gate.b.size(1);
  const bool is_shared = gate.scale == up.scale && gate.a.equal(up.a);
  const int64_t gate_rank = gate.a.size(1), rank = is_shared ? gate_rank : gate_rank + up.a.size(1);
  if (!is_shared) {
    both.a = at::empty({experts, rank, gate.a.size(2)}, gate.a.options());
    both.a.narrow(1, 0, gate_rank).copy_(gate.a);
    both.a.narrow(1, gate_rank, up.a.size(1)).copy_(up.a);
  }
  both.b = at::zeros({experts, rows + up.b.size(1), rank}, gate.b.options());
  both.b.narrow(1, 0, rows).narrow(2, 0, gate_rank).copy_(gate.b);
  const at::Tensor lower =
      both.b.narrow(1, rows, up.b.size(1)).narrow(2, rank - up.a.size(1), up.a.size(1));
  lower.copy_(up.b);
  if (up.scale != gate.scale) lower.mul_(up.scale / gate.scale);
  return both;
}

/// Whether PEFT of a version reads a parameter as [E, O, I]; unset where that does not tell.
std::optional<bool> reads_outputs_first(const std::string& version) {
  std::array<int64_t, 3> numbers{};
  size_t count = 0;
  const char *begin = version.data(), *const end = begin + version.size();
  for (; count < numbers.size(); ++count) {
    const auto parsed = std::from_chars(begin, end, numbers[count]);
    if (parsed.ec != std::errc()) break;
    begin = parsed.ptr == end ? end : parsed.ptr + 1;
  }
  constexpr std::array<int64_t, 3> kFirst{0, 19, 1};
  // One that was in the making may have either.
  const bool is_unclear = numbers == kFirst && version.find("dev") != version.npos;
  if (count < 2 || is_unclear) return {};
  return numbers >= kFirst;
}

class Reader {
 public:
  Reader(const std::vector<AdapterTarget>& model,
         const AdapterConfig& config,
         const TensorSource& source)
      : model_(model), config_(config), source_(source) {
    for (size_t i = 0; i < model.size(); ++i) by_path_[text_path(model[i].path)] = i;
    for (const std::string& name : source.names()) take(name);
    if (found_.empty()) bad(source.where(), "at least one pair of tensors", "none");
  }

  std::vector<AdapterPair> pairs() {
    std::vector<AdapterPair> all;
    for (const auto& [index, file] : found_) {
      AdapterPair pair{.target = model_[index], .a = {}, .b = {}};
      pair.target.path = file.path;
      if (!pair.target.num_experts) {
        read_linear(file, pair);
      } else {
        const Bank bank = read_experts(file, pair.target);
        pair.a = bank.a;
        pair.b = bank.b;
        pair.scale = bank.scale;
      }
      all.push_back(std::move(pair));
    }
    return all;
  }

 private:
  /// What the file has for a target.
  struct Found {
    /// The target's path there.
    std::string path;
    /// The names of a single pair's tensors, without their ends; empty where there are several.
    std::string stem;
    /// Experts: the parts that have pairs of their own, each with the experts that do; no expert
    /// where all are in one tensor.
    std::map<Part, std::set<int64_t>> parts;
  };

  void take(const std::string& name) {
    if (name.starts_with(kFilePrefix) && name.ends_with(kBaseWeight)) return;
    const bool is_embedding = name.ends_with(kEmbeddingA) || name.ends_with(kEmbeddingB),
               is_half = name.ends_with(kLoraA) || name.ends_with(kLoraB) || is_embedding;
    // These have been read (read_saved_tensors).
    if (!is_half && !config_.modules_to_save.empty()) return;
    if (!name.starts_with(kFilePrefix) || !is_half)
      bad(name, "a tensor base_model.model.….lora_A.weight or lora_B.weight",
          fmt::format("this one in {} ({})", source_.where(), unusable(name)));
    const std::string stem = name.substr(
                          0, name.size() - (is_embedding ? kEmbeddingA : kLoraA).size()),
                      module = stem.substr(kFilePrefix.size());
    if (is_embedding != (text_path(module) == "embed_tokens"))
      bad(name, "lora_embedding_A and lora_embedding_B for the embedding, lora_A and lora_B else",
          "this one in " + source_.where());
    const auto experts = split_experts(module);
    if (!experts) {
      add(name, module, stem);
      return;
    }
    const auto& [path, rest] = *experts;
    if (rest.empty() || rest == kBaseLayer.substr(1)) {
      add(name, rest.empty() ? outer_path(path) : path + std::string(kGateUp), stem);
      return;
    }
    const auto numbered = split_number(rest);
    const auto part = part_of(numbered ? numbered->second : rest);
    if (!part) bad(name, "a linear layer or experts of the model", "what it does not have");
    const bool is_down = *part == Part::kDown;
    Found& found = add(name, path + std::string(is_down ? kDown : kGateUp), "");
    std::set<int64_t>& numbers = found.parts[*part];
    if (!numbered) return;
    if (numbered->first >= model_[by_path_.at(text_path(found.path))].num_experts)
      bad(name, "an expert of the model", "what it does not have");
    numbers.insert(numbered->first);
  }

  Found& add(const std::string& name, const std::string& path, const std::string& stem) {
    const auto target = by_path_.find(text_path(path));
    if (text_path(path).empty() || target == by_path_.end())
      bad(name, "a linear layer or experts of the model", "what it does not have");
    const auto [place, is_new] = found_.try_emplace(target->second);
    if (is_new)
      place->second = {path, stem, {}};
    else if (place->second.stem != stem || place->second.path != path)
      bad(name, "one pair for each layer",
          fmt::format("one as {} as well",
                      place->second.stem.empty() ? place->second.path : place->second.stem));
    return place->second;
  }

  /// Which parameter a pair is beside that is named by its module alone: the second one if there is
  /// a pair on the level `base_layer`, else that of the two that is targeted.
  std::string outer_path(const std::string& experts) const {
    const std::string stem = std::string(kFilePrefix) + experts;
    for (const std::string_view half : {kLoraA, kLoraB})
      if (source_.contains(fmt::format("{}{}{}", stem, kBaseLayer, half)))
        return experts + std::string(kDown);
    const auto is_named = [&](std::string_view parameter) {
      const std::string path = experts + std::string(parameter);
      return std::any_of(
          config_.target_parameters.begin(), config_.target_parameters.end(),
          [&](const std::string& name) { return path == name || path.ends_with("." + name); });
    };
    if (is_named(kGateUp) == is_named(kDown))
      bad(stem + std::string(kLoraA),
          "one of gate_up_proj and down_proj among the target_parameters of adapter_config.json",
          fmt::format("[{}], so that a single pair may be either's",
                      fmt::join(config_.target_parameters, ", ")));
    return experts + std::string(is_named(kGateUp) ? kGateUp : kDown);
  }

  /// Both halves; the file has at least one of them.
  std::pair<std::string, std::string> halves(const std::string& stem,
                                             const AdapterTarget& target) const {
    const auto [a, b] = half_names(target);
    std::pair<std::string, std::string> names{stem + std::string(a), stem + std::string(b)};
    for (const std::string& name : {names.first, names.second})
      if (!source_.contains(name)) bad(name, "both halves of the pair", "only the other one");
    return names;
  }

  at::Tensor tensor(const std::string& name, const std::vector<int64_t>& shape) const {
    if (source_.shape(name) != shape) bad_shape(name, shape, source_.shape(name));
    return source_.tensor(name).to(at::kFloat);
  }

  void read_linear(const Found& file, AdapterPair& pair) const {
    const auto [a, b] = halves(file.stem, pair.target);
    const int64_t rank = config_.rank_of(file.path);
    pair.a = tensor(a, {rank, pair.target.in});
    pair.b = tensor(b, {pair.target.out, rank});
    pair.scale = config_.scale_of(file.path);
  }

  Bank read_experts(const Found& file, const AdapterTarget& target) {
    if (!file.stem.empty()) return read_parameter(file, target);
    const auto read = [&](Part part, int64_t out) {
      return read_part(file, part, {target.num_experts, out, target.in});
    };
    if (target.path.ends_with(kDown)) return read(Part::kDown, target.out);
    const bool is_split = file.parts.contains(Part::kGate) || file.parts.contains(Part::kUp);
    if (file.parts.contains(Part::kGateUp)) {
      if (is_split)
        bad(fmt::format("{}{}", kFilePrefix, target.path), "one pair for each layer",
            "one of gate_proj or up_proj as well");
      return read(Part::kGateUp, target.out);
    }
    const int64_t half = target.out / 2;
    if (file.parts.contains(Part::kGate) && file.parts.contains(Part::kUp))
      return join(read(Part::kGate, half), read(Part::kUp, half));
    const bool is_gate = file.parts.contains(Part::kGate);
    Bank one = read(is_gate ? Part::kGate : Part::kUp, half);
    const at::Tensor b = one.b;
    one.b = at::zeros({b.size(0), target.out, b.size(2)}, b.options());
    one.b.narrow(1, is_gate ? 0 : half, half).copy_(b);
    return one;
  }

  /// A pair as PEFT has it beside a parameter.
  Bank read_parameter(const Found& file, const AdapterTarget& target) {
    const auto [a_name, b_name] = halves(file.stem, target);
    const int64_t rank = config_.rank_of(file.path), count = target.num_experts, in = target.in,
                  out = target.out;
    const double scale = config_.scale_of(file.path);
    if (source_.shape(a_name).size() == 3)
      return {tensor(a_name, {count, rank, in}),
              tensor(b_name, {out, rank, count}).permute({2, 0, 1}), scale};
    if (is_outputs_first(a_name, target))
      return {tensor(a_name, {rank * count, in}).view({count, rank, in}),
              tensor(b_name, {out, rank * count}).view({out, rank, count}).permute({2, 0, 1}),
              scale};
    return {tensor(b_name, {in, rank * count}).view({in, rank, count}).permute({2, 1, 0}),
            tensor(a_name, {rank * count, out}).view({count, rank, out}).transpose(1, 2), scale};
  }

  /// Whether the parameter was read as [E, O, I]: by the shape of A; where that is the same either
  /// way as those before it, since a file has been written by one version, or by that version.
  bool is_outputs_first(const std::string& a_name, const AdapterTarget& target) {
    const std::vector<int64_t> shape = source_.shape(a_name);
    const int64_t columns = shape.empty() ? 0 : shape.back();
    // What is wrong in another way is told by its shape.
    std::optional<bool> found = columns != target.out;
    if (target.in == target.out)
      found = outputs_first_ ? outputs_first_->first : reads_outputs_first(config_.peft_version);
    if (!found)
      bad(a_name,
          "a peft_version in adapter_config.json that tells which way the parameter is turned "
          "([E, out, in] since 0.19.1), since its shape is the same either way",
          config_.peft_version.empty() ? "none" : config_.peft_version);
    if (!outputs_first_) outputs_first_ = {*found, a_name};
    if (outputs_first_->first != *found)
      bad(a_name,
          fmt::format("the parameter turned as at {}",
                      outputs_first_->second.substr(kFilePrefix.size())),
          "the other way");
    return *found;
  }

  struct Sizes {
    int64_t experts, out, in;
  };
  /// Pairs of single experts, or of all in one tensor, which may also be one half alone.
  Bank read_part(const Found& file, Part part, const Sizes& sizes) const {
    const std::string experts = file.path.substr(0, file.path.rfind('.'));
    const std::string all = fmt::format("{}.{}", experts, name_of(part));
    const std::set<int64_t>& numbers = file.parts.at(part);
    std::vector<Bank> banks;
    for (int64_t e = 0; e < sizes.experts; ++e) {
      const std::string own = fmt::format("{}.{}.{}", experts, e, name_of(part)),
                        path = numbers.contains(e) ? own : all;
      const int64_t rank = config_.rank_of(path);
      const auto half = [&](std::string_view end, int64_t rows, int64_t columns) {
        const std::string single = fmt::format("{}{}{}", kFilePrefix, own, end),
                          stacked = fmt::format("{}{}{}", kFilePrefix, all, end);
        if (source_.contains(single)) return tensor(single, {rows, columns});
        if (!source_.contains(stacked)) {
          if (numbers.empty()) bad(stacked, "both halves of the pair", "only the other one");
          bad(single, fmt::format("both halves of the pair of each of {} experts", sizes.experts),
              numbers.contains(e) ? "only the other one" : "none");
        }
        const bool is_shared = source_.shape(stacked).size() == 3 && source_.shape(stacked)[0] == 1;
        return tensor(stacked, {is_shared ? 1 : sizes.experts, rows, columns})
            .select(0, is_shared ? 0 : e);
      };
      banks.push_back(
          {half(kLoraA, rank, sizes.in), half(kLoraB, sizes.out, rank), config_.scale_of(path)});
    }
    return stack(banks);
  }

  const std::vector<AdapterTarget>& model_;
  const AdapterConfig& config_;
  const TensorSource& source_;
  std::map<std::string_view, size_t> by_path_;
  /// By index of the target.
  std::map<size_t, Found> found_;
  /// How the file has parameters turned, and the tensor that told.
  std::optional<std::pair<bool, std::string>> outputs_first_;
};

}  // namespace

std::string_view text_path(std::string_view path) {
  if (path == kHeadPath) return path;
  for (const std::string_view prefix :
       {"model.language_model.", "language_model.model.", "model."}) {
    if (!path.starts_with(prefix)) continue;
    const std::string_view rest = path.substr(prefix.size());
    if (rest.starts_with("layers.") || rest == "embed_tokens") return rest;
  }
  return {};
}

std::vector<SavedTensor> read_base_copies(std::span<const Parameter> model,
                                          const TensorSource& source) {
  const at::NoGradGuard no_grad;
  std::vector<SavedTensor> copies;
  const std::vector<AdapterTarget> targets = adapter_targets(model);
  for (const std::string& name : source.names()) {
    if (!name.starts_with(kFilePrefix) || !name.ends_with(kBaseWeight)) continue;
    const std::string path =
        name.substr(kFilePrefix.size(), name.size() - kFilePrefix.size() - kBaseWeight.size());
    const auto target = std::find_if(targets.begin(), targets.end(), [&](const auto& each) {
      return each.part != AdapterTarget::Part::kLayer && text_path(each.path) == text_path(path);
    });
    if (target == targets.end())
      bad(name, "a tensor of the embedding or the head", "what is neither");
    const bool is_head = target->part == AdapterTarget::Part::kHead;
    const std::vector<int64_t> shape = is_head ? std::vector<int64_t>{target->out, target->in}
                                               : std::vector<int64_t>{target->in, target->out};
    if (source.shape(name) != shape) bad_shape(name, shape, source.shape(name));
    const std::string half = fmt::format("{}{}{}", kFilePrefix, path, half_names(*target).first);
    if (!source.contains(half)) bad(name, "a pair beside it", "none");
    // A tied head's values are the embedding's.
    const Parameter& owner = model[static_cast<size_t>(target->weight)];
    copies.push_back(
        {.place = {.name = owner.pieces[0].name, .shape = shape, .parameter = {}, .piece = {}},
         .value = source.tensor(name).clone()});
  }
  return copies;
}

std::vector<AdapterPair> read_adapter_pairs(const std::vector<AdapterTarget>& model,
                                            const AdapterConfig& config,
                                            const TensorSource& source) {
  const at::NoGradGuard no_grad;
  return Reader(model, config, source).pairs();
}

}  // namespace lockstep::model
