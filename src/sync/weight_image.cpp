// SPDX-License-Identifier: Apache-2.0
#include "sync/weight_image.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <numeric>
#include <optional>

#include <fmt/ranges.h>

#include "base/check.h"
#include "base/json.h"
#include "io/safetensors_dtype.h"
#include "layout/chunk_digests.h"
#include "layout/run_parallel.h"
#include "tensor/aten.h"

namespace lockstep::sync {
namespace {

constexpr const char* kKey = "lockstep";
constexpr size_t kLengthBytes = sizeof(uint64_t);

/// The indices of sizes, largest first: threads that take them in turn end together.
std::vector<size_t> largest_first(size_t count, const std::function<size_t(size_t)>& size_of) {
  std::vector<size_t> order(count);
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return size_of(a) > size_of(b); });
  return order;
}

/// What a digest of all tensors says of one.
std::string form_of(const std::string& name,
                    std::string_view dtype,
                    at::IntArrayRef shape,
                    const Digest& digest) {
  return fmt::format("{} {} {} {}\n", name, dtype, fmt::join(shape, ","), digest.hex());
}

Digest digest_of_forms(std::vector<std::string> forms) {
  std::sort(forms.begin(), forms.end());
  return digest_of(fmt::format("{}", fmt::join(forms, "")));
}

/// 32 hexadecimal digits, as Digest::hex() writes them.
std::optional<Digest> parse_digest(const Json& text) {
  if (!text.is_string()) return {};
  const auto& digits = text.get_ref<const std::string&>();
  if (digits.size() != 32) return {};
  Digest digest;
  for (const char c : digits) {
    const size_t value = std::string_view("0123456789abcdef").find(c);
    if (value == std::string_view::npos) return {};
    digest.high = digest.high << 4 | digest.low >> 60;
    digest.low = digest.low << 4 | value;
  }
  return digest;
}

}  // namespace

ImageWriter::ImageWriter(std::vector<io::NamedTensor> tensors,
                         std::map<std::string, std::string> metadata)
    : tensors_(std::move(tensors)), metadata_(std::move(metadata)) {
  std::stable_sort(tensors_.begin(), tensors_.end(),
                   [](const io::NamedTensor& a, const io::NamedTensor& b) {
                     return a.tensor.element_size() > b.tensor.element_size();
                   });
  for (const io::NamedTensor& named : tensors_) specs_.push_back(io::spec_of(named));
  size_t at = header(std::vector<Digest>(tensors_.size())).size();
  for (const io::TensorSpec& spec : specs_) {
    begins_.push_back(at);
    at += spec.bytes;
  }
  begins_.push_back(at);
}

/// Its size does not depend on the digests.
std::string ImageWriter::header(const std::vector<Digest>& digests) const {
  std::string list;
  for (size_t i = 0; i < specs_.size(); ++i)
    list += fmt::format(R"({}{}:"{}")", i ? "," : "", dump_json(Json(specs_[i].name)),
                        digests[i].hex());
  auto metadata = metadata_;
  metadata[kKey] = fmt::format(R"({{"protocol":{},"digests":{{{}}}}})", kImageProtocol, list);
  return io::safetensors_header(specs_, metadata);
}

Digest ImageWriter::write(std::span<std::byte> block,
                          int num_threads,
                          const OnReplace& on_replace) const {
  LOCKSTEP_CHECK(block.size() == bytes(), "a block of {} bytes for {}", block.size(), bytes());
  std::memset(block.data(), 0, kLengthBytes);
  std::vector<Digest> digests(tensors_.size());
  const auto order = largest_first(specs_.size(), [&](size_t i) { return specs_[i].bytes; });
  layout::run_parallel(num_threads, order.size(), [&](size_t number) {
    const at::NoGradGuard no_grad;
    const size_t i = order[number];
    const io::NamedTensor& named = tensors_[i];
    const at::Tensor tensor = named.make ? named.make() : named.tensor;
    LOCKSTEP_CHECK(tensor.sizes() == named.tensor.sizes() &&
                       tensor.scalar_type() == named.tensor.scalar_type(),
                   "{} is not what was said of it", named.name);
    const at::Tensor plain = tensor.detach().to(at::kCPU).contiguous();
    const auto* const from = static_cast<const std::byte*>(plain.const_data_ptr());
    const std::span<const std::byte> bytes(from, specs_[i].bytes);
    if (on_replace) on_replace(i, block.subspan(begins_[i], bytes.size()), bytes);
    digests[i] = layout::digest_and_copy(bytes, block.data() + begins_[i]);
  });
  const std::string text = header(digests);
  LOCKSTEP_CHECK(text.size() == begins_.front(), "a header of another size");
  std::memcpy(block.data() + kLengthBytes, text.data() + kLengthBytes, text.size() - kLengthBytes);
  std::atomic_thread_fence(std::memory_order_release);
  std::memcpy(block.data(), text.data(), kLengthBytes);
  std::vector<std::string> forms;
  for (size_t i = 0; i < specs_.size(); ++i)
    forms.push_back(form_of(specs_[i].name, specs_[i].dtype, specs_[i].shape, digests[i]));
  return digest_of_forms(std::move(forms));
}

WeightImage::WeightImage(std::shared_ptr<const void> owner,
                         std::span<const std::byte> bytes,
                         std::string where)
    : owner_(std::move(owner)), bytes_(bytes), where_(std::move(where)) {
  uint64_t length = 0;
  if (bytes.size() >= kLengthBytes) std::memcpy(&length, bytes.data(), kLengthBytes);
  if (!length)
    fail<FormatError>("bad-image", where_, "expected whole weights, got a block being written");
  io::SafetensorsHeader header = io::parse_safetensors(bytes, where_);
  entries_ = std::move(header.entries);
  metadata_ = std::move(header.metadata);
  const auto text = metadata_.find(kKey);
  if (text == metadata_.end())
    fail<FormatError>("bad-image", where_, "expected metadata \"{}\", got none", kKey);
  const Json about = parse_json(text->second, where_, "bad-image");
  const Json protocol = about.is_object() ? about.value("protocol", Json()) : Json();
  if (protocol != kImageProtocol)
    fail<FormatError>("wrong-protocol", where_, "expected weights of protocol {}, got {}",
                      kImageProtocol, dump_json(protocol));
  const Json digests = about.value("digests", Json());
  if (!digests.is_object() || digests.size() != entries_.size())
    fail<FormatError>("bad-image", where_, "expected digests of {} tensors, got {}",
                      entries_.size(), digests.is_object() ? digests.size() : 0);
  for (const io::TensorEntry& entry : entries_) {
    const auto digest = parse_digest(digests.value(entry.name, Json()));
    if (!digest)
      fail<FormatError>("bad-image", where_ + ": " + entry.name,
                        "expected the 32 hexadecimal digits of its digest, got others");
    digests_[entry.name] = *digest;
  }
}

Digest WeightImage::digest() const {
  std::vector<std::string> forms;
  for (const io::TensorEntry& entry : entries_)
    forms.push_back(form_of(entry.name, element_name(*io::element_type(entry.dtype)), entry.shape,
                            digests_.at(entry.name)));
  return digest_of_forms(std::move(forms));
}

void WeightImage::verify(int num_threads) const {
  std::vector<size_t> all(entries_.size());
  std::iota(all.begin(), all.end(), size_t{0});
  verify(std::move(all), num_threads);
}

void WeightImage::verify(std::vector<size_t> tensors, int num_threads) const {
  const auto size_of = [&](size_t number) { return bytes_of(entries_[tensors[number]]).size(); };
  const auto order = largest_first(tensors.size(), size_of);
  std::atomic<size_t> first{entries_.size()};
  layout::run_parallel(num_threads, order.size(), [&](size_t number) {
    const size_t i = tensors[order[number]];
    const auto bytes = bytes_of(entries_[i]);
    if (digest_of(bytes.data(), bytes.size()) == digests_.at(entries_[i].name)) return;
    for (size_t known = first; i < known && !first.compare_exchange_weak(known, i);) {
    }
  });
  if (first == entries_.size()) return;
  const auto bytes = bytes_of(entries_[first]);
  expect_digest(entries_[first], digest_of(bytes.data(), bytes.size()));
}

void WeightImage::expect_digest(const io::TensorEntry& entry, const Digest& found) const {
  if (const Digest& said = digests_.at(entry.name); found != said)
    fail<FormatError>("digest-mismatch", where_ + ": " + entry.name,
                      "expected bytes of digest {}, got those of {}", said.hex(), found.hex());
}

size_t WeightImage::header_bytes() const {
  return entries_.empty() ? bytes_.size() : entries_.front().begin;
}

bool WeightImage::has_same_tensors(const WeightImage& other) const {
  return std::equal(entries_.begin(), entries_.end(), other.entries_.begin(), other.entries_.end(),
                    [](const io::TensorEntry& a, const io::TensorEntry& b) {
                      return a.name == b.name && a.dtype == b.dtype && a.shape == b.shape &&
                             a.begin == b.begin && a.end == b.end;
                    });
}

at::Tensor WeightImage::tensor(const io::TensorEntry& entry) const {
  // from_blob wants a pointer that may be written; nobody does.
  auto* const data = const_cast<std::byte*>(bytes_of(entry).data());
  const auto options = at::TensorOptions().dtype(entry.dtype);
  return at::from_blob(
      data, entry.shape, [owner = owner_](void*) {}, options);
}

}  // namespace lockstep::sync
