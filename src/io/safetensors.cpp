// The header of a safetensors file, and tensors over its mapped bytes.
// SPDX-License-Identifier: Apache-2.0
#include "io/safetensors.h"

#include <algorithm>
#include <cstring>
#include <optional>
#include <string_view>
#include <tuple>
#include <utility>

#include "base/check.h"
#include "base/json.h"
#include "io/safetensors_dtype.h"
#include "tensor/aten.h"

namespace lockstep::io {
namespace {

constexpr size_t kLengthBytes = 8;
constexpr std::string_view kCode = "bad-safetensors";

/// `text` in quotes for a message: in printable ASCII and of bounded length.
std::string quoted(const std::string& text) {
  constexpr size_t kLongest = 200;
  return Json(text.substr(0, kLongest)).dump(-1, ' ', true, Json::error_handler_t::replace) +
         (text.size() > kLongest ? "..." : "");
}

uint64_t little_endian(std::span<const std::byte> bytes) {
  uint64_t value = 0;
  for (size_t i = 0; i < kLengthBytes; ++i)
    value |= static_cast<uint64_t>(std::to_integer<uint8_t>(bytes[i])) << (8 * i);
  return value;
}

/// The header's text. Throws FormatError unless it lies inside the file and begins as an object
/// does.
std::string_view header_text(std::span<const std::byte> bytes, std::string_view where) {
  if (bytes.size() < kLengthBytes)
    fail<FormatError>(kCode, where, "expected 8 bytes of header length, got a file of {} bytes",
                      bytes.size());
  const uint64_t length = little_endian(bytes);
  if (length > kMaxHeaderBytes)
    fail<FormatError>(kCode, where,
                      "expected a header of at most {} bytes, got length {} at byte 0",
                      kMaxHeaderBytes, length);
  if (length > bytes.size() - kLengthBytes)
    fail<FormatError>(kCode, where,
                      "expected {} bytes of header at byte 8, got {} (truncated file?)", length,
                      bytes.size() - kLengthBytes);
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()) + kLengthBytes, length);
  if (text.empty() || text.front() != '{')
    fail<FormatError>(kCode, where, "expected '{{' at byte 8, got {}",
                      text.empty() ? "an empty header" : quoted(std::string(text.substr(0, 1))));
  return text;
}

/// The value if it is a non-negative integer that fits int64; else nothing.
std::optional<int64_t> count_of(const Json& value) {
  if (!value.is_number_integer()) return std::nullopt;
  if (value.is_number_unsigned()) {
    const auto number = value.get<uint64_t>();
    if (number > static_cast<uint64_t>(INT64_MAX)) return std::nullopt;
    return static_cast<int64_t>(number);
  }
  const auto number = value.get<int64_t>();
  return number < 0 ? std::nullopt : std::optional(number);
}

std::map<std::string, std::string> parse_metadata(const Json& value, std::string_view where) {
  if (!value.is_object())
    fail<FormatError>(kCode, where, "expected __metadata__ to be an object, got {}",
                      value.type_name());
  std::map<std::string, std::string> metadata;
  for (const auto& [key, text] : value.items()) {
    if (!text.is_string())
      fail<FormatError>(kCode, where, "expected __metadata__[{}] to be a string, got {}",
                        quoted(key), text.type_name());
    metadata.emplace(key, text.get<std::string>());
  }
  return metadata;
}

at::ScalarType parse_dtype(const Json& value, std::string_view where) {
  if (!value.is_string())
    fail<FormatError>(kCode, where, "expected dtype to be a string, got {}", value.type_name());
  const auto& name = value.get_ref<const std::string&>();
  if (const auto type = element_type_of_name(name)) return scalar_type(*type);
  fail<FormatError>(kCode, where, "expected a known dtype, got {}", quoted(name));
}

/// The shape, and the bytes that it takes. A dimension of zero does not excuse others that
/// overflow.
std::pair<std::vector<int64_t>, size_t> parse_shape(const Json& value,
                                                    size_t element_size,
                                                    std::string_view where) {
  if (!value.is_array())
    fail<FormatError>(kCode, where, "expected shape to be a list, got {}", value.type_name());
  std::vector<int64_t> shape;
  bool is_empty = false;
  auto bytes = static_cast<int64_t>(element_size);
  for (const Json& dimension : value) {
    const auto size = count_of(dimension);
    if (!size)
      fail<FormatError>(kCode, where, "expected shape of integers >= 0, got {}",
                        quoted(dimension.dump(-1, ' ', true, Json::error_handler_t::replace)));
    is_empty |= *size == 0;
    if (__builtin_mul_overflow(bytes, std::max<int64_t>(*size, 1), &bytes))
      fail<FormatError>(kCode, where, "expected shape of less than 2^63 bytes, got {}",
                        quoted(value.dump()));
    shape.push_back(*size);
  }
  return {std::move(shape), is_empty ? 0 : static_cast<size_t>(bytes)};
}

/// One tensor's entry, its offsets checked against its shape and against the data's `data_size`
/// bytes.
TensorEntry parse_entry(const std::string& name,
                        const Json& value,
                        size_t data_begin,
                        size_t data_size,
                        std::string_view file) {
  const std::string where = fmt::format("{}: tensor {}", file, quoted(name));
  if (!value.is_object() || value.size() != 3 || !value.contains("dtype") ||
      !value.contains("shape") || !value.contains("data_offsets"))
    fail<FormatError>(kCode, where, "expected an object of dtype, shape and data_offsets, got {}",
                      quoted(value.dump(-1, ' ', true, Json::error_handler_t::replace)));
  TensorEntry entry;
  entry.name = name;
  entry.dtype = parse_dtype(value["dtype"], where);
  auto [shape, bytes] = parse_shape(value["shape"], c10::elementSize(entry.dtype), where);
  entry.shape = std::move(shape);

  const Json& offsets = value["data_offsets"];
  const bool is_pair = offsets.is_array() && offsets.size() == 2;
  const auto begin = is_pair ? count_of(offsets[0]) : std::nullopt;
  const auto end = is_pair ? count_of(offsets[1]) : std::nullopt;
  if (!begin || !end || *begin > *end)
    fail<FormatError>(kCode, where, "expected data_offsets [begin, end], 0 <= begin <= end, got {}",
                      quoted(offsets.dump(-1, ' ', true, Json::error_handler_t::replace)));
  if (static_cast<size_t>(*end) > data_size)
    fail<FormatError>(
        kCode, where,
        "expected data_offsets inside {} bytes of data, got [{}, {}] (truncated file?)", data_size,
        *begin, *end);
  if (static_cast<size_t>(*end - *begin) != bytes)
    fail<FormatError>(kCode, where, "expected {} bytes for its dtype and shape, got offsets of {}",
                      bytes, *end - *begin);
  entry.begin = data_begin + static_cast<size_t>(*begin);
  entry.end = data_begin + static_cast<size_t>(*end);
  return entry;
}

/// Throws FormatError unless the entries, sorted by place, cover the data without hole or overlap.
void check_cover(const std::vector<TensorEntry>& entries,
                 size_t data_begin,
                 size_t file_size,
                 std::string_view where) {
  size_t covered = data_begin;
  for (const TensorEntry& entry : entries) {
    if (entry.begin != covered)
      fail<FormatError>(kCode, fmt::format("{}: tensor {}", where, quoted(entry.name)),
                        "expected its data to begin at byte {}, got byte {} ({})", covered,
                        entry.begin,
                        entry.begin < covered ? "it overlaps another tensor" : "a hole before it");
    covered = entry.end;
  }
  if (covered != file_size)
    fail<FormatError>(kCode, where,
                      "expected the file to end at byte {} with its last tensor, got {} bytes",
                      covered, file_size);
}

}  // namespace

SafetensorsHeader parse_safetensors(std::span<const std::byte> bytes, std::string_view where) {
  const std::string_view text = header_text(bytes, where);
  constexpr int kDepth = 4;
  const Json header = parse_json(text, fmt::format("{}: header", where), kCode,
                                 {.max_depth = kDepth, .max_bytes = kMaxHeaderBytes});
  const size_t data_begin = kLengthBytes + text.size();
  SafetensorsHeader result;
  for (const auto& [name, value] : header.items()) {
    if (name == "__metadata__") {
      result.metadata = parse_metadata(value, where);
    } else {
      result.entries.push_back(
          parse_entry(name, value, data_begin, bytes.size() - data_begin, where));
    }
  }
  std::stable_sort(result.entries.begin(), result.entries.end(),
                   [](const TensorEntry& a, const TensorEntry& b) {
                     return std::tie(a.begin, a.end) < std::tie(b.begin, b.end);
                   });
  check_cover(result.entries, data_begin, bytes.size(), where);
  return result;
}

SafetensorsFile::SafetensorsFile(const std::filesystem::path& path)
    : file_(std::make_shared<const MappedFile>(path)) {
  SafetensorsHeader header = parse_safetensors(file_->bytes(), path.string());
  entries_ = std::move(header.entries);
  metadata_ = std::move(header.metadata);
}

const std::filesystem::path& SafetensorsFile::path() const { return file_->path(); }

at::Tensor SafetensorsFile::tensor(const TensorEntry& entry) const {
  const auto options = at::TensorOptions().dtype(entry.dtype);
  if (entry.begin == entry.end) return at::empty(entry.shape, options);
  const std::byte* data = file_->bytes().data() + entry.begin;
  if (entry.begin % c10::elementSize(entry.dtype) != 0) {
    at::Tensor copy = at::empty(entry.shape, options);
    std::memcpy(copy.mutable_data_ptr(), data, entry.end - entry.begin);
    return copy;
  }
  // libtorch has no read-only tensors. Writing to this one crashes; the header forbids it.
  return at::from_blob(
      const_cast<std::byte*>(data), entry.shape, [keep = file_](void*) mutable { keep.reset(); },
      options);
}

}  // namespace lockstep::io
