// SPDX-License-Identifier: Apache-2.0
#include "cli/weight_folder.h"

#include <algorithm>
#include <charconv>
#include <cstring>
#include <numeric>
#include <set>
#include <unordered_map>
#include <unordered_set>
#include <utility>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "base/check.h"
#include "base/file.h"
#include "base/log.h"
#include "cli/engine_dump.h"
#include "io/safetensors_dtype.h"

namespace lockstep::cli {
namespace {

namespace fs = std::filesystem;
using layout::Layout;
using layout::PhysicalTensor;

std::string shape_text(const std::vector<int64_t>& shape) {
  return fmt::format("[{}]", fmt::join(shape, ", "));
}

/// Refuses safetensors files in a folder that are not among `expected`, such as those of another
/// number of ranks.
void check_no_foreign_files(const fs::path& directory, const std::set<std::string>& expected) {
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(directory, error)) {
    const std::string name = entry.path().filename().string();
    if (name.ends_with(".safetensors") && !expected.count(name))
      fail<FormatError>("foreign-shard", entry.path().string(),
                        "expected only the files of {} ranks, got this one", expected.size());
  }
  if (error)
    fail<IoError>("unreadable-file", directory.string(), "expected a folder, got {}",
                  error.message());
}

WeightFolderProblem problem_of(const Error& error) {
  const std::string text = error.what(), place = error.where() + ": ";
  return {error.code(), error.where(), text.starts_with(place) ? text.substr(place.size()) : text};
}

WeightFolderReader::Tensor tensor_of(const io::TensorEntry& entry,
                                     std::span<const std::byte> bytes) {
  return {*io::element_type(entry.dtype), entry.shape, bytes};
}

}  // namespace

std::optional<model::LayoutManifest> read_manifest(const fs::path& directory) {
  const fs::path path = directory / model::kManifestFile;
  if (!fs::exists(path)) return {};
  return model::parse_manifest(read_file(path), path.string());
}

void write_manifest(const fs::path& directory, const model::LayoutManifest& manifest) {
  write_file(directory / model::kManifestFile, manifest_text(manifest));
}

std::string rank_file_name(int64_t rank, int64_t num_ranks) {
  return fmt::format("rank-{:05}-of-{:05}.safetensors", rank, num_ranks);
}

WeightFolderReader::WeightFolderReader(const fs::path& directory,
                                       int64_t num_ranks,
                                       std::vector<WeightFolderProblem>* problems)
    : directory_(directory),
      ranks_(static_cast<size_t>(num_ranks)),
      set_aside_(static_cast<size_t>(num_ranks)) {
  const auto attempt = [&](const auto& open) {
    if (!problems) return open();
    try {
      open();
    } catch (const Error& error) {
      problems->push_back(problem_of(error));
    }
  };
  if (num_ranks == 1 && fs::is_regular_file(directory)) {
    is_dump_ = true;
    attempt([&] { open_file(0, directory); });
    return;
  }
  if (num_ranks == 1) {
    attempt([&] {
      checkpoint_.emplace(directory);
      if (!checkpoint_->notice().empty()) log_warning("{}", checkpoint_->notice());
      for (const std::string& name : checkpoint_->names())
        ranks_[0].emplace(name, tensor_of(checkpoint_->entry(name), checkpoint_->bytes(name)));
    });
    return;
  }
  std::set<std::string> expected;
  for (int64_t r = 0; r < num_ranks; ++r) expected.insert(rank_file_name(r, num_ranks));
  attempt([&] { check_no_foreign_files(directory, expected); });
  files_.reserve(expected.size());
  for (int64_t r = 0; r < num_ranks; ++r)
    attempt([&] { open_file(r, directory / rank_file_name(r, num_ranks)); });
}

void WeightFolderReader::open_file(int64_t rank, const fs::path& path) {
  const io::SafetensorsFile& file = files_.emplace_back(path);
  const auto index = static_cast<size_t>(rank);
  for (const io::TensorEntry& entry : file.entries())
    ranks_[index].emplace(entry.name, tensor_of(entry, file.bytes(entry)));
  if (auto dump = read_engine_dump(file.metadata(), path.string())) {
    is_dump_ = true;
    set_aside_[index] = std::move(dump->not_comparable);
  }
}

std::string WeightFolderReader::where(int64_t rank) const {
  return num_ranks() == 1 ? directory_.string()
                          : (directory_ / rank_file_name(rank, num_ranks())).string();
}

std::vector<model::CheckpointOrigin::Tensor> WeightFolderReader::order() const {
  std::vector<model::CheckpointOrigin::Tensor> order;
  if (checkpoint_)
    for (const std::string& name : checkpoint_->names())
      order.push_back({name, checkpoint_->file_name(name)});
  return order;
}

std::vector<WeightFolderProblem> WeightFolderReader::problems(
    const Layout& layout, const std::set<std::string>& optional) const {
  std::vector<WeightFolderProblem> found;
  const auto add = [&](int64_t rank, std::string_view code, const std::string& name,
                       std::string message) {
    found.push_back({std::string(code), where(rank) + ": " + name, std::move(message)});
  };
  for (int64_t r = 0; r < num_ranks(); ++r) {
    const Tensors& here = rank(r);
    const auto& aside = set_aside_[static_cast<size_t>(r)];
    std::set<std::string_view> known;
    for (const PhysicalTensor& tensor : layout.rank(r)) {
      known.insert(tensor.name);
      const auto at = here.find(tensor.name);
      const auto why = aside.find(tensor.name);
      if (at == here.end() && optional.count(tensor.name)) continue;
      if (at != here.end() && why != aside.end())
        add(r, "not-comparable", tensor.name, why->second);
      else if (at == here.end())
        add(r, "missing-tensor", tensor.name,
            fmt::format("expected a tensor of shape {} by {}, got none", shape_text(tensor.shape),
                        layout.name()));
      else if (at->second.shape != tensor.shape)
        add(r, "shape-mismatch", tensor.name,
            fmt::format("expected shape {} by {}, got {}", shape_text(tensor.shape), layout.name(),
                        shape_text(at->second.shape)));
      else if (at->second.type != tensor.type)
        add(r, "bad-dtype", tensor.name,
            fmt::format("expected {} {}, got {}", element_name(tensor.type),
                        tensor.has_own_type ? "by " + layout.name() : "as in the other parts",
                        element_name(at->second.type)));
    }
    for (const auto& [name, tensor] : here)
      if (!known.count(name))
        add(r, "unknown-tensor", name,
            fmt::format("expected only tensors of {}, got this one", layout.name()));
  }
  return found;
}

void WeightFolderReader::bind(const Layout& layout) {
  const auto found = problems(layout);
  if (!found.empty())
    throw FormatError(
        found[0].code, found[0].where,
        found[0].message +
            (found.size() > 1 ? fmt::format(" ({} more)", found.size() - 1) : std::string()));
  bind_what_fits(layout);
}

void WeightFolderReader::bind_what_fits(const Layout& layout) {
  bound_.clear();
  num_bound_ = 0;
  for (int64_t r = 0; r < num_ranks(); ++r) {
    bound_.emplace_back();
    for (const PhysicalTensor& tensor : layout.rank(r)) {
      const auto found = rank(r).find(tensor.name);
      const bool fits = found != rank(r).end() && found->second.shape == tensor.shape &&
                        found->second.type == tensor.type &&
                        set_aside_[static_cast<size_t>(r)].count(tensor.name) == 0;
      num_bound_ += fits;
      bound_.back().push_back(fits ? found->second.bytes : std::span<const std::byte>());
    }
  }
}

std::span<const std::byte> WeightFolderReader::tensor(int64_t rank, int64_t index) {
  return bound_[static_cast<size_t>(rank)][static_cast<size_t>(index)];
}

void WeightFolderReader::release() {
  if (checkpoint_) checkpoint_->release_pages();
  for (const io::SafetensorsFile& file : files_) file.release_pages();
}

namespace {

/// The order and the files that the tensors have in the checkpoint that they come from.
class KnownOrder {
 public:
  explicit KnownOrder(const std::vector<model::CheckpointOrigin::Tensor>& order) : order_(order) {
    for (const auto& [name, file] : order) turns_.emplace(name, turns_.size());
  }
  bool is_complete(const layout::RankTensors& tensors) const {
    return tensors.size() == turns_.size() &&
           std::all_of(tensors.begin(), tensors.end(),
                       [&](const PhysicalTensor& t) { return turns_.count(t.name) != 0; });
  }
  const std::string& file(const PhysicalTensor& tensor) const { return order_[turn(tensor)].file; }

  /// Sorts tensors by file if the files are known, and within a file wide elements first, so that
  /// every tensor lies at a multiple of its element's size.
  std::vector<size_t> sorted(const layout::RankTensors& tensors, bool by_file) const {
    std::vector<size_t> indices(tensors.size());
    std::iota(indices.begin(), indices.end(), size_t{0});
    std::stable_sort(indices.begin(), indices.end(), [&](size_t a, size_t b) {
      if (by_file && file(tensors[a]) != file(tensors[b]))
        return file(tensors[a]) < file(tensors[b]);
      const int64_t wide_a = element_bytes(tensors[a].type),
                    wide_b = element_bytes(tensors[b].type);
      return wide_a != wide_b ? wide_a > wide_b : turn(tensors[a]) < turn(tensors[b]);
    });
    return indices;
  }

 private:
  size_t turn(const PhysicalTensor& tensor) const {
    const auto found = turns_.find(tensor.name);
    return found == turns_.end() ? turns_.size() : found->second;
  }
  const std::vector<model::CheckpointOrigin::Tensor>& order_;
  std::unordered_map<std::string_view, size_t> turns_;
};

}  // namespace

WeightFolderWriter::WeightFolderWriter(fs::path directory,
                                       const Layout& layout,
                                       std::optional<size_t> max_file_bytes,
                                       const std::vector<model::CheckpointOrigin::Tensor>& order)
    : directory_(std::move(directory)) {
  constexpr size_t kMostBytes = 5'000'000'000;
  const KnownOrder known(order);
  const bool is_folder = layout.num_ranks() == 1;
  const bool keeps_files = is_folder && !max_file_bytes && known.is_complete(layout.rank(0));
  for (int64_t r = 0; r < layout.num_ranks(); ++r) {
    const layout::RankTensors& tensors = layout.rank(r);
    places_.emplace_back(tensors.size());
    files_.emplace_back();
    for (const size_t t : known.sorted(tensors, keeps_files)) {
      const auto bytes = static_cast<size_t>(tensors[t].bytes());
      const File& last = files_.back();
      const bool is_full = keeps_files ? last.name != known.file(tensors[t])
                                       : is_folder && static_cast<size_t>(last.bytes_left) + bytes >
                                                          max_file_bytes.value_or(kMostBytes);
      if (is_full && !last.tensors.empty()) files_.emplace_back();
      File& file = files_.back();
      places_.back()[t] = {files_.size() - 1, file.tensors.size()};
      file.tensors.push_back(
          {tensors[t].name, std::string(element_name(tensors[t].type)), tensors[t].shape, bytes});
      file.bytes_left += static_cast<int64_t>(bytes);
      if (keeps_files) file.name = known.file(tensors[t]);
    }
    if (!is_folder) files_.back().name = rank_file_name(r, layout.num_ranks());
  }
  if (!is_folder || keeps_files) return;
  for (size_t i = 0; i < files_.size(); ++i)
    files_[i].name = files_.size() == 1
                         ? std::string("model.safetensors")
                         : fmt::format("model-{:05}-of-{:05}.safetensors", i + 1, files_.size());
}

void WeightFolderWriter::write(int64_t rank,
                               int64_t index,
                               int64_t begin,
                               std::span<const std::byte> bytes) {
  const Place& place = places_[static_cast<size_t>(rank)][static_cast<size_t>(index)];
  File& file = files_[place.file];
  if (!file.writer)
    file.writer = std::make_unique<io::SafetensorsWriter>(directory_ / file.name, file.tensors);
  file.writer->write(place.index, static_cast<size_t>(begin), bytes);
  file.bytes_left -= static_cast<int64_t>(bytes.size());
  if (file.bytes_left > 0) return;
  // Closed now, since with hundreds of ranks not all files can be open at once.
  file.writer->commit();
  file.writer.reset();
}

void WeightFolderWriter::finish() {
  std::map<std::string, std::string> weight_map;
  size_t total_bytes = 0;
  for (File& file : files_) {
    LOCKSTEP_CHECK(file.bytes_left == 0, "{} lacks {} bytes", file.name, file.bytes_left);
    // A file whose tensors are all empty got no bytes and is still open.
    if (!fs::exists(directory_ / file.name))
      io::SafetensorsWriter(directory_ / file.name, file.tensors).commit();
    for (const io::TensorSpec& tensor : file.tensors) {
      weight_map[tensor.name] = file.name;
      total_bytes += tensor.bytes;
    }
  }
  if (places_.size() == 1 && (files_.size() > 1 || files_[0].name != "model.safetensors"))
    io::write_safetensors_index(directory_, weight_map, total_bytes);
}

namespace {

constexpr std::string_view kMtpLayers = "mtp.layers.";

/// Joins a rank's shard of a carried tensor to those of the ranks before it. WeightFolderReader::
/// problems() finds those that do not fit.
void join_shard(std::vector<int64_t>& shape, const std::vector<int64_t>& shard) {
  if (shape.empty() || shape.size() != shard.size() ||
      !std::equal(shape.begin() + 1, shape.end(), shard.begin() + 1))
    return;
  std::vector<int64_t> joined = shape;
  int64_t product = 1;
  if (__builtin_add_overflow(shape[0], shard[0], &joined[0])) return;
  for (const int64_t size : joined)
    if (__builtin_mul_overflow(product, std::max<int64_t>(1, size), &product)) return;
  shape = joined;
}

/// What the input has besides the text model.
model::Extras extras_of(const model::ModelConfig& config,
                        const model::LayoutSpec& name,
                        const WeightFolderReader& input,
                        const model::CheckpointOrigin* origin) {
  model::Extras extras;
  std::map<std::string, model::CarriedTensor> carried;
  std::unordered_set<std::string_view> known;
  if (origin)
    for (const model::CheckpointOrigin::Tensor& tensor : origin->tensors) known.insert(tensor.name);
  for (int64_t r = 0; r < input.num_ranks(); ++r) {
    for (const auto& [physical, tensor] : input.rank(r)) {
      if (physical.starts_with(kMtpLayers)) {
        int64_t index = 0;
        const char* const digits = physical.data() + kMtpLayers.size();
        if (std::from_chars(digits, physical.data() + physical.size(), index).ec == std::errc() &&
            index < config.num_hidden_layers)
          extras.num_mtp_layers = std::max(extras.num_mtp_layers, index + 1);
      }
      const bool is_head = physical == "lm_head.weight" && config.tie_word_embeddings;
      if (!physical.starts_with("model.visual.") && !physical.starts_with("visual.") && !is_head &&
          !physical.ends_with(".rotary_emb.inv_freq"))
        continue;
      const std::string id =
          known.count(physical) ? physical : published_carried_name(name, physical);
      const auto [at, is_new] =
          carried.emplace(id, model::CarriedTensor{id, tensor.shape, tensor.type});
      // Shards along the first axis; elsewhere one rank has them.
      if (!is_new && name.format() == "fsdp2") join_shard(at->second.shape, tensor.shape);
    }
  }
  for (auto& [id, tensor] : carried) extras.carried.push_back(std::move(tensor));
  return extras;
}

model::CheckpointForm form_of(const model::ModelConfig& config,
                              const model::LayoutSpec& name,
                              const WeightFolderReader& input) {
  const auto has = [&](const std::string& tensor) { return input.rank(0).count(tensor) != 0; };
  if (name.has_key("prefix")) return detect_form(config, has, input.where(0));
  model::CheckpointForm form = model::published_form(config);
  form.mtp_experts_grouped = has("mtp.layers.0.mlp.experts.gate_up_proj");
  return form;
}

/// The dtype that each logical tensor has in the input, or in the checkpoint that it came from.
model::TypeOf types_of(const model::ModelConfig& config,
                       const Layout& draft,
                       const WeightFolderReader& input,
                       const model::CheckpointOrigin* origin) {
  std::unordered_map<std::string, ElementType> types;
  for (int64_t r = 0; r < input.num_ranks(); ++r) {
    for (const PhysicalTensor& tensor : draft.rank(r)) {
      const auto found = input.rank(r).find(tensor.name);
      if (found == input.rank(r).end()) continue;
      for (const layout::Box& box : tensor.boxes) {
        const std::string& id = draft.logical()[box.tensor].id;
        // A dtype of the layout's own does not say that of the checkpoint.
        const bool is_known = tensor.has_own_type && origin && origin->types.count(id) != 0;
        types.emplace(id, is_known ? origin->types.at(id) : found->second.type);
      }
    }
  }
  return
      [types = std::move(types), fallback = model::published_types(config)](const std::string& id) {
        const auto found = types.find(id);
        return found == types.end() ? fallback(id) : found->second;
      };
}

}  // namespace

WeightFolderModel read_folder_model(const model::ModelConfig& config,
                                    const model::LayoutSpec& name,
                                    const WeightFolderReader& input,
                                    const model::CheckpointOrigin* origin) {
  const model::CheckpointForm form = form_of(config, name, input);
  const model::Extras extras = extras_of(config, name, input, origin);
  // A draft of the layout gives the names of the tensors, and the folder says their dtypes.
  const auto draft = logical_model(config, extras, model::published_types(config));
  return {logical_model(config, extras,
                        types_of(config, make_layout(draft, form, name), input, origin)),
          form};
}

}  // namespace lockstep::cli
