// SPDX-License-Identifier: Apache-2.0
#include "sync/weight_delta.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <memory>
#include <type_traits>
#include <zstd.h>

#include "base/check.h"
#include "layout/run_parallel.h"
#include "sync/weight_image.h"
#include "tensor/aten.h"

static_assert(std::endian::native == std::endian::little);

namespace lockstep::sync {
namespace {

constexpr std::string_view kMagic = "LSDELTA1";
constexpr size_t kHexDigits = 32;
constexpr size_t kChunkHead = 32;
constexpr std::byte kLongGap{255};
/// Changes are one or two values over and over: more effort packs them no better.
constexpr int kPackLevel = 1;

template <class Integer>
void append(std::vector<std::byte>& to, Integer value) {
  const auto* const bytes = reinterpret_cast<const std::byte*>(&value);
  to.insert(to.end(), bytes, bytes + sizeof(value));
}

void append(std::vector<std::byte>& to, std::string_view text) {
  const auto bytes = std::as_bytes(std::span(text));
  to.insert(to.end(), bytes.begin(), bytes.end());
}

std::vector<std::byte> pack(std::span<const std::byte> bytes) {
  std::vector<std::byte> packed(ZSTD_compressBound(bytes.size()));
  const size_t size =
      ZSTD_compress(packed.data(), packed.size(), bytes.data(), bytes.size(), kPackLevel);
  LOCKSTEP_CHECK(!ZSTD_isError(size), "zstd: {}", ZSTD_getErrorName(size));
  packed.resize(size);
  packed.shrink_to_fit();
  return packed;
}

template <class Word>
Word load(const std::byte* from) {
  Word word;
  std::memcpy(&word, from, sizeof(word));
  return word;
}

template <class Word>
Word zigzag(Word difference) {
  using Signed = std::make_signed_t<Word>;
  const auto sign = static_cast<Word>(static_cast<Signed>(difference) >> (8 * sizeof(Word) - 1));
  return static_cast<Word>(static_cast<Word>(difference << 1) ^ sign);
}

template <class Word>
Word unzigzag(Word value) {
  return static_cast<Word>((value >> 1) ^ static_cast<Word>(-(value & 1)));
}

/// Gaps and changes of one chunk, as they are packed.
struct Changes {
  std::vector<std::byte> gaps, planes;
  uint32_t count = 0;
};

template <class Word>
Changes changes_of(const std::byte* before, const std::byte* after, size_t count) {
  constexpr size_t kWords = sizeof(uint64_t) / sizeof(Word);
  std::vector<Word> values;
  Changes changes;
  size_t next = 0;
  const auto look_at = [&](size_t i) {
    const auto old_word = load<Word>(before + i * sizeof(Word)),
               new_word = load<Word>(after + i * sizeof(Word));
    if (old_word == new_word) return;
    size_t gap = i - next;
    for (; gap >= 255; gap -= 255) changes.gaps.push_back(kLongGap);
    changes.gaps.push_back(static_cast<std::byte>(gap));
    values.push_back(zigzag(static_cast<Word>(new_word - old_word)));
    next = i + 1;
  };
  size_t i = 0;
  // Most elements are passed over eight bytes at a time.
  for (; i + kWords <= count; i += kWords) {
    if (load<uint64_t>(before + i * sizeof(Word)) == load<uint64_t>(after + i * sizeof(Word)))
      continue;
    for (size_t k = i; k < i + kWords; ++k) look_at(k);
  }
  for (; i < count; ++i) look_at(i);
  changes.count = static_cast<uint32_t>(values.size());
  changes.planes.reserve(values.size() * sizeof(Word));
  for (size_t k = 0; k < sizeof(Word); ++k)
    for (const Word value : values)
      changes.planes.push_back(static_cast<std::byte>(value >> (8 * k)));
  return changes;
}

Changes changes_of(size_t width, const std::byte* before, const std::byte* after, size_t count) {
  switch (width) {
    case 1:
      return changes_of<uint8_t>(before, after, count);
    case 2:
      return changes_of<uint16_t>(before, after, count);
    case 4:
      return changes_of<uint32_t>(before, after, count);
    default:
      LOCKSTEP_CHECK(width == 8, "an element of {} bytes", width);
      return changes_of<uint64_t>(before, after, count);
  }
}

/// Reads a delta from its beginning to its end.
class Reader {
 public:
  Reader(std::span<const std::byte> bytes, std::string_view where) : bytes_(bytes), where_(where) {}

  std::span<const std::byte> take(size_t count, const char* what) {
    if (bytes_.size() - at_ < count)
      refuse(fmt::format("{} ({} bytes)", what, count),
             fmt::format("the end after {}", bytes_.size() - at_));
    at_ += count;
    return bytes_.subspan(at_ - count, count);
  }
  template <class Integer>
  Integer number(const char* what) {
    return load<Integer>(take(sizeof(Integer), what).data());
  }
  std::string text(size_t count, const char* what) {
    const auto bytes = take(count, what);
    return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
  }
  /// A frame that holds `count` bytes, unpacked into `to`.
  void unpack(size_t packed, size_t count, std::vector<std::byte>& to, const char* what) {
    const auto bytes = take(packed, what);
    to.resize(count);
    const size_t size = ZSTD_decompress(to.data(), to.size(), bytes.data(), bytes.size());
    if (ZSTD_isError(size)) refuse(what, ZSTD_getErrorName(size));
    if (size != count) refuse(fmt::format("{} of {} bytes", what, count), fmt::format("{}", size));
  }
  bool is_at_end() const { return at_ == bytes_.size(); }
  void name_chunk(uint64_t chunk) { chunk_ = fmt::format(", chunk {}", chunk); }
  [[noreturn]] void refuse(const std::string& expected, const std::string& got) const {
    fail<FormatError>("bad-delta", fmt::format("{}: byte {} of a delta{}", where_, at_, chunk_),
                      "expected {}, got {}", expected, got);
  }

 private:
  std::span<const std::byte> bytes_;
  std::string_view where_;
  std::string chunk_;
  size_t at_ = 0;
};

/// Where a chunk's changes go.
struct Place {
  std::byte* elements;
  size_t width;
  uint32_t span, changed;
};

template <class Word>
bool apply_changes(const Place& place,
                   std::span<const std::byte> gaps,
                   std::span<const std::byte> planes) {
  size_t at = 0, next_gap = 0;
  for (size_t i = 0; i < place.changed; ++i) {
    while (next_gap < gaps.size() && gaps[next_gap] == kLongGap) {
      at += 255;
      ++next_gap;
    }
    if (next_gap == gaps.size()) return false;
    at += std::to_integer<size_t>(gaps[next_gap++]);
    if (at >= place.span) return false;
    Word value = 0;
    for (size_t k = 0; k < sizeof(Word); ++k)
      value = static_cast<Word>(
          value | static_cast<Word>(std::to_integer<Word>(planes[k * place.changed + i]) << 8 * k));
    if (value == 0) return false;
    std::byte* const to = place.elements + at * sizeof(Word);
    const auto word = static_cast<Word>(load<Word>(to) + unzigzag(value));
    std::memcpy(to, &word, sizeof(word));
    ++at;
  }
  return next_gap == gaps.size();
}

bool apply_changes(const Place& place,
                   std::span<const std::byte> gaps,
                   std::span<const std::byte> planes) {
  switch (place.width) {
    case 1:
      return apply_changes<uint8_t>(place, gaps, planes);
    case 2:
      return apply_changes<uint16_t>(place, gaps, planes);
    case 4:
      return apply_changes<uint32_t>(place, gaps, planes);
    default:
      return apply_changes<uint64_t>(place, gaps, planes);
  }
}

/// Reads one chunk after another and changes the block by it.
class ChunkReader {
 public:
  ChunkReader(Reader& reader, const WeightImage& base, std::span<std::byte> block)
      : reader_(reader), base_(base), block_(block), is_changed_(base.entries().size()) {}

  void apply(uint64_t number);
  const std::vector<bool>& is_changed() const { return is_changed_; }

 private:
  Place place_of(uint32_t tensor, uint32_t span, uint64_t first, uint32_t changed);

  Reader& reader_;
  const WeightImage& base_;
  std::span<std::byte> block_;
  std::vector<bool> is_changed_;
  /// Chunks may begin here: a tensor, and an element of it.
  uint32_t tensor_ = 0;
  uint64_t element_ = 0;
  std::vector<std::byte> unpacked_;
};

Place ChunkReader::place_of(uint32_t tensor, uint32_t span, uint64_t first, uint32_t changed) {
  const auto& entries = base_.entries();
  if (tensor >= entries.size())
    reader_.refuse(fmt::format("one of {} tensors", entries.size()), fmt::format("{}", tensor));
  const io::TensorEntry& entry = entries[tensor];
  const size_t width = c10::elementSize(entry.dtype), count = (entry.end - entry.begin) / width;
  const bool is_behind = tensor > tensor_ || (tensor == tensor_ && first >= element_);
  if (!is_behind || span == 0 || span > kChunkElements || first > count || span > count - first)
    reader_.refuse(
        fmt::format("a range behind the chunk before, in the {} elements of {}", count, entry.name),
        fmt::format("[{}, {} + {}) of tensor {}", first, first, span, tensor));
  if (changed == 0 || changed > span)
    reader_.refuse(fmt::format("1 to {} changes", span), fmt::format("{}", changed));
  tensor_ = tensor;
  element_ = first + span;
  return {block_.data() + entry.begin + first * width, width, span, changed};
}

void ChunkReader::apply(uint64_t number) {
  reader_.name_chunk(number);
  const auto tensor = reader_.number<uint32_t>("a tensor"),
             span = reader_.number<uint32_t>("a number of elements");
  const auto first = reader_.number<uint64_t>("an element");
  const auto changed = reader_.number<uint32_t>("a number of changes"),
             gap_bytes = reader_.number<uint32_t>("the bytes of gaps"),
             zero = reader_.number<uint32_t>("0"),
             packed = reader_.number<uint32_t>("the packed bytes");
  const Place place = place_of(tensor, span, first, changed);
  if (zero) reader_.refuse("0", fmt::format("{}", zero));
  if (gap_bytes < changed || gap_bytes > changed + span / 255)
    reader_.refuse(fmt::format("{} to {} bytes of gaps", changed, changed + span / 255),
                   fmt::format("{}", gap_bytes));
  reader_.unpack(packed, gap_bytes + changed * place.width, unpacked_, "gaps and changes");
  const auto bytes = std::span<const std::byte>(unpacked_);
  if (!apply_changes(place, bytes.first(gap_bytes), bytes.subspan(gap_bytes)))
    reader_.refuse(fmt::format("{} changes in {} elements", changed, span), "others");
  is_changed_[tensor] = true;
}

/// The tensors that have other digests than before must have them.
void verify_changed(const WeightImage& base,
                    const WeightImage& image,
                    const std::vector<bool>& is_changed,
                    int num_threads) {
  std::vector<size_t> changed;
  for (size_t i = 0; i < is_changed.size(); ++i) {
    const std::string& name = base.entries()[i].name;
    if (is_changed[i])
      changed.push_back(i);
    else if (image.digests().at(name) != base.digests().at(name))
      fail<FormatError>("digest-mismatch", image.where() + ": " + name,
                        "expected the base's digest {} of a tensor without changes, got {}",
                        base.digests().at(name).hex(), image.digests().at(name).hex());
  }
  image.verify(changed, num_threads);
}

}  // namespace

void DeltaWriter::add(size_t tensor,
                      std::span<const std::byte> before,
                      std::span<const std::byte> after,
                      size_t width) {
  LOCKSTEP_CHECK(before.size() == after.size(), "{} bytes before, {} after", before.size(),
                 after.size());
  const size_t count = before.size() / width;
  for (size_t first = 0; first < count && !is_given_up(); first += kChunkElements) {
    const size_t span = std::min<size_t>(kChunkElements, count - first), at = first * width;
    Changes changes = changes_of(width, before.data() + at, after.data() + at, span);
    elements_ += static_cast<int64_t>(span);
    if (changes.count == 0) continue;
    changed_ += changes.count;
    const auto gap_bytes = static_cast<uint32_t>(changes.gaps.size());
    changes.gaps.insert(changes.gaps.end(), changes.planes.begin(), changes.planes.end());
    Chunk chunk{static_cast<uint32_t>(tensor),
                static_cast<uint32_t>(span),
                first,
                changes.count,
                gap_bytes,
                pack(changes.gaps)};
    bytes_ += kChunkHead + chunk.packed.size();
    const std::lock_guard lock(mutex_);
    chunks_.push_back(std::move(chunk));
  }
}

std::vector<std::byte> DeltaWriter::finish(std::string_view base_digest,
                                           std::string_view digest,
                                           size_t block_bytes,
                                           std::span<const std::byte> header) {
  if (is_given_up()) return {};
  LOCKSTEP_CHECK(base_digest.size() == kHexDigits && digest.size() == kHexDigits, "digests {}, {}",
                 base_digest, digest);
  std::sort(chunks_.begin(), chunks_.end(), [](const Chunk& a, const Chunk& b) {
    return std::pair(a.tensor, a.first) < std::pair(b.tensor, b.first);
  });
  const std::vector<std::byte> packed_header = pack(header);
  std::vector<std::byte> delta;
  append(delta, kMagic);
  append(delta, base_digest);
  append(delta, digest);
  append<uint64_t>(delta, block_bytes);
  append<uint64_t>(delta, header.size());
  append<uint64_t>(delta, packed_header.size());
  delta.insert(delta.end(), packed_header.begin(), packed_header.end());
  append<uint64_t>(delta, chunks_.size());
  for (const Chunk& chunk : chunks_) {
    append(delta, chunk.tensor);
    append(delta, chunk.elements);
    append(delta, chunk.first);
    append(delta, chunk.changed);
    append(delta, chunk.gap_bytes);
    append<uint32_t>(delta, 0);
    append<uint32_t>(delta, static_cast<uint32_t>(chunk.packed.size()));
    delta.insert(delta.end(), chunk.packed.begin(), chunk.packed.end());
  }
  return delta.size() > most_bytes_ ? std::vector<std::byte>() : delta;
}

std::string apply_delta(std::span<const std::byte> delta,
                        const WeightImage& base,
                        std::span<std::byte> block,
                        std::string_view where,
                        int num_threads) {
  Reader reader(delta, where);
  if (const auto magic = reader.text(kMagic.size(), "the beginning of a delta"); magic != kMagic)
    reader.refuse(std::string(kMagic), "another beginning");
  const std::string base_digest = reader.text(kHexDigits, "the base's digest"),
                    digest = reader.text(kHexDigits, "the digest");
  if (const std::string held = base.digest().hex(); base_digest != held)
    fail<FormatError>("wrong-base", where, "expected a delta from weights {}, got one from {}",
                      held, base_digest);
  if (const auto bytes = reader.number<uint64_t>("the bytes of a block"); bytes != block.size())
    reader.refuse(fmt::format("a block of {} bytes", block.size()), fmt::format("{}", bytes));
  const size_t header_bytes = base.header_bytes();
  if (const auto bytes = reader.number<uint64_t>("the bytes of a header"); bytes != header_bytes)
    reader.refuse(fmt::format("a header of {} bytes", header_bytes), fmt::format("{}", bytes));
  const auto packed_bytes = reader.number<uint64_t>("the packed bytes of a header");
  std::vector<std::byte> header;
  reader.unpack(packed_bytes, header_bytes, header, "a header");
  const auto num_chunks = reader.number<uint64_t>("the number of chunks");
  ChunkReader chunks(reader, base, block);
  for (uint64_t i = 0; i < num_chunks; ++i) chunks.apply(i);
  if (!reader.is_at_end()) reader.refuse("the end", "more bytes");
  std::memcpy(block.data(), header.data(), header.size());
  const WeightImage image(nullptr, block, std::string(where));
  if (const std::string found = image.digest().hex(); found != digest)
    fail<FormatError>("digest-mismatch", where, "expected weights of digest {}, got {}", digest,
                      found);
  if (!image.has_same_tensors(base))
    reader.refuse("the base's tensors at the same places", "others");
  verify_changed(base, image, chunks.is_changed(), num_threads);
  return digest;
}

}  // namespace lockstep::sync
