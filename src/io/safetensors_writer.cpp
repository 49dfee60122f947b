// Writes safetensors files, one tensor in memory at a time.
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <charconv>
#include <set>
#include <string_view>
#include <utility>

#include <fmt/ranges.h>

#include "base/check.h"
#include "base/json.h"
#include "io/safetensors.h"
#include "io/safetensors_dtype.h"
#include "tensor/aten.h"

namespace lockstep::io {
namespace {

constexpr size_t kAlignment = 8;

std::string dtype_of(const at::Tensor& tensor) {
  if (const auto type = element_type(tensor.scalar_type())) return std::string(element_name(*type));
  throw InternalError(
      "internal", "write_safetensors",
      fmt::format("expected a dtype of the format, got {}", c10::toString(tensor.scalar_type())));
}

std::string json_text(const std::string& text) { return dump_json(Json(text)); }

void write_file_of(const std::filesystem::path& path,
                   const std::vector<const NamedTensor*>& tensors,
                   const std::map<std::string, std::string>& metadata) {
  AtomicFile file(path);
  std::vector<TensorSpec> specs;
  for (const NamedTensor* named : tensors) specs.push_back(spec_of(*named));
  file.write(safetensors_header(specs, metadata));
  for (const NamedTensor* named : tensors) {
    const at::Tensor tensor = named->make ? named->make() : named->tensor;
    LOCKSTEP_CHECK(tensor.sizes() == named->tensor.sizes() &&
                       tensor.scalar_type() == named->tensor.scalar_type(),
                   "{} is not what was said of it", named->name);
    // Copies this one tensor, and only if it is strided or on a device.
    const at::Tensor plain = tensor.detach().to(at::kCPU).contiguous();
    if (plain.nbytes() > 0) file.write(plain.const_data_ptr(), plain.nbytes());
  }
  file.commit();
}

/// Shares tensors out over shards as transformers does: shards are filled in order, and a tensor
/// above the limit has a shard of its own.
///
/// Source: huggingface_hub, serialization/_base.py, split_state_dict_into_shards_factory.
std::vector<std::vector<const NamedTensor*>> split_into_shards(
    const std::vector<NamedTensor>& tensors, size_t max_shard_bytes) {
  std::vector<std::vector<const NamedTensor*>> shards;
  std::vector<const NamedTensor*> current;
  size_t current_bytes = 0;
  for (const NamedTensor& named : tensors) {
    const size_t bytes = named.tensor.nbytes();
    if (bytes > max_shard_bytes) {
      shards.push_back({&named});
      continue;
    }
    if (current_bytes + bytes > max_shard_bytes) {
      shards.push_back(std::exchange(current, {}));
      current_bytes = 0;
    }
    current.push_back(&named);
    current_bytes += bytes;
  }
  if (!current.empty() || shards.empty()) shards.push_back(std::move(current));
  return shards;
}

/// Sorts wide elements first and keeps the order otherwise, so that every tensor lies at a multiple
/// of its element size.
void align(std::vector<const NamedTensor*>& shard) {
  std::stable_sort(shard.begin(), shard.end(), [](const NamedTensor* a, const NamedTensor* b) {
    return a->tensor.element_size() > b->tensor.element_size();
  });
}

/// The index as transformers writes it: json.dumps(index, indent=2, sort_keys=True) and a newline.
std::string index_text(const std::map<std::string, std::string>& weight_map, size_t total_bytes) {
  std::string text = fmt::format(
      "{{\n  \"metadata\": {{\n    \"total_size\": {}\n  }},\n  \"weight_map\": {{", total_bytes);
  bool is_first = true;
  for (const auto& [tensor, file] : weight_map) {
    text += fmt::format("{}\n    {}: {}", is_first ? "" : ",", json_text(tensor), json_text(file));
    is_first = false;
  }
  return text + "\n  }\n}\n";
}

}  // namespace

std::string safetensors_header(const std::vector<TensorSpec>& tensors,
                               const std::map<std::string, std::string>& metadata) {
  // The text is put together by hand, since Json's insertion takes time quadratic in the number of
  // tensors.
  std::string header = R"({"__metadata__":{"format":"pt")";
  for (const auto& [key, value] : metadata) {
    LOCKSTEP_CHECK(key != "format", "the writer sets it to pt");
    header += fmt::format(",{}:{}", json_text(key), json_text(value));
  }
  header += "}";
  std::set<std::string_view> names{"__metadata__"};
  size_t offset = 0;
  for (const TensorSpec& tensor : tensors) {
    LOCKSTEP_CHECK(names.insert(tensor.name).second, "the name {} is given twice", tensor.name);
    const size_t end = offset + tensor.bytes;
    header += fmt::format(R"(,{}:{{"dtype":"{}","shape":[{}],"data_offsets":[{},{}]}})",
                          json_text(tensor.name), tensor.dtype, fmt::join(tensor.shape, ","),
                          offset, end);
    offset = end;
  }
  header += '}';
  header.resize((header.size() + kAlignment - 1) / kAlignment * kAlignment, ' ');
  std::string length(sizeof(uint64_t), '\0');
  for (size_t i = 0; i < length.size(); ++i)
    length[i] = static_cast<char>(static_cast<uint64_t>(header.size()) >> (8 * i));
  return length + header;
}

TensorSpec spec_of(const NamedTensor& named) {
  return {named.name, dtype_of(named.tensor), named.tensor.sizes().vec(), named.tensor.nbytes()};
}

at::Tensor tensor_like(at::IntArrayRef shape, at::ScalarType dtype) {
  return at::empty({1}, at::TensorOptions().dtype(dtype))
      .as_strided(shape, std::vector<int64_t>(shape.size(), 0));
}

void write_safetensors(const std::filesystem::path& path,
                       const std::vector<NamedTensor>& tensors,
                       const std::map<std::string, std::string>& metadata) {
  std::vector<const NamedTensor*> order;
  order.reserve(tensors.size());
  for (const NamedTensor& named : tensors) order.push_back(&named);
  write_file_of(path, order, metadata);
}

namespace {

/// Makes the files of a checkpoint, each by write(path, tensors), and their index.
template <class Write>
void make_checkpoint(const std::filesystem::path& directory,
                     const std::vector<NamedTensor>& tensors,
                     size_t max_shard_bytes,
                     const Write& write) {
  auto shards = split_into_shards(tensors, max_shard_bytes);
  std::map<std::string, std::string> weight_map;
  size_t total_bytes = 0;
  for (size_t i = 0; i < shards.size(); ++i) {
    const std::string name =
        shards.size() == 1 ? std::string("model.safetensors")
                           : fmt::format("model-{:05}-of-{:05}.safetensors", i + 1, shards.size());
    align(shards[i]);
    write(directory / name, shards[i]);
    for (const NamedTensor* named : shards[i]) {
      LOCKSTEP_CHECK(weight_map.emplace(named->name, name).second, "the name {} is given twice",
                     named->name);
      total_bytes += named->tensor.nbytes();
    }
  }
  // The index is written last: a reader that finds it finds its shards.
  if (shards.size() > 1) write_safetensors_index(directory, weight_map, total_bytes);
}

}  // namespace

void write_safetensors_checkpoint(const std::filesystem::path& directory,
                                  const std::vector<NamedTensor>& tensors,
                                  size_t max_shard_bytes) {
  make_checkpoint(directory, tensors, max_shard_bytes,
                  [](const auto& path, const auto& shard) { write_file_of(path, shard, {}); });
}

void write_safetensors_index(const std::filesystem::path& directory,
                             const std::map<std::string, std::string>& weight_map,
                             size_t total_bytes) {
  write_file(directory / "model.safetensors.index.json", index_text(weight_map, total_bytes));
}

SafetensorsWriter::SafetensorsWriter(const std::filesystem::path& path,
                                     const std::vector<TensorSpec>& tensors)
    : file_(path) {
  const std::string header = safetensors_header(tensors, {});
  file_.write(header);
  size_ = header.size();
  for (const TensorSpec& tensor : tensors) {
    begins_.push_back(size_);
    size_ += tensor.bytes;
  }
  file_.resize(size_);
}

void SafetensorsWriter::write(size_t index, size_t begin, std::span<const std::byte> bytes) {
  file_.write_at(begins_[index] + begin, bytes.data(), bytes.size());
}

void SafetensorsWriter::commit() { file_.commit(); }

void lay_out_safetensors(const std::filesystem::path& path, std::span<const TensorPart> parts) {
  std::vector<TensorSpec> specs;
  for (const TensorPart& part : parts)
    specs.push_back(
        {part.name, dtype_of(part.values), part.shape,
         static_cast<size_t>(c10::multiply_integers(part.shape)) * part.values.element_size()});
  SafetensorsWriter(path, specs).commit();
}

void write_parts(const std::filesystem::path& path, std::span<const TensorPart> parts) {
  const SafetensorsFile laid_out(path);
  std::map<std::string_view, const TensorEntry*> entries;
  for (const TensorEntry& entry : laid_out.entries()) entries[entry.name] = &entry;
  FileParts file(path);
  for (const TensorPart& part : parts) {
    const auto found = entries.find(part.name);
    const at::Tensor& values = part.values;
    if (found == entries.end() || found->second->shape != part.shape ||
        found->second->dtype != values.scalar_type())
      fail<FormatError>("bad-part", path.string(), "expected {} {} of shape [{}], got {}",
                        c10::toString(values.scalar_type()), part.name, fmt::join(part.shape, ","),
                        found == entries.end() ? "none" : "another shape or dtype");
    LOCKSTEP_CHECK(
        values.is_contiguous() && part.first + values.numel() <= c10::multiply_integers(part.shape),
        "{}: {} elements from {} on", part.name, values.numel(), part.first);
    file.write_at(found->second->begin + static_cast<size_t>(part.first) * values.element_size(),
                  values.const_data_ptr(), values.nbytes());
  }
  file.commit();
}

void lay_out_checkpoint(const std::filesystem::path& directory,
                        const std::vector<NamedTensor>& tensors,
                        size_t max_shard_bytes) {
  make_checkpoint(directory, tensors, max_shard_bytes, [](const auto& path, const auto& shard) {
    std::vector<TensorSpec> specs;
    for (const NamedTensor* named : shard) specs.push_back(spec_of(*named));
    SafetensorsWriter(path, specs).commit();
  });
}

void write_checkpoint_parts(const std::filesystem::path& directory,
                            std::span<const TensorPart> parts) {
  const SafetensorsCheckpoint laid_out(directory);
  std::map<std::string, std::vector<TensorPart>> by_file;
  for (const TensorPart& part : parts) {
    if (!laid_out.contains(part.name))
      fail<FormatError>("bad-part", directory.string(), "expected a tensor {}, got none",
                        part.name);
    by_file[laid_out.file_name(part.name)].push_back(part);
  }
  for (const auto& [name, own] : by_file) write_parts(directory / name, own);
}

size_t parse_size(std::string_view text, std::string_view where) {
  double number = 0;
  const auto parsed =
      std::from_chars(text.data(), text.data() + text.size(), number, std::chars_format::fixed);
  std::string unit(parsed.ptr, text.data() + text.size());
  unit.erase(0, unit.find_first_not_of(' '));
  std::transform(unit.begin(), unit.end(), unit.begin(),
                 [](unsigned char c) { return static_cast<char>(std::toupper(c)); });
  double scale = 0;
  for (const auto& [name, bytes] :
       {std::pair("", 1e0), std::pair("B", 1e0), std::pair("KB", 1e3), std::pair("MB", 1e6),
        std::pair("GB", 1e9), std::pair("TB", 1e12)}) {
    if (unit == name) scale = bytes;
  }
  const double size = number * scale;
  // The bound is 2^53: a double holds every whole number below it, and no disk is larger.
  if (parsed.ec != std::errc() || scale == 0 || !(size >= 1 && size < 0x1p53))
    fail<ConfigError>("bad-value", where, "expected a size such as 5GB, 500MB or bytes, got {}",
                      text);
  return static_cast<size_t>(size);
}

}  // namespace lockstep::io
