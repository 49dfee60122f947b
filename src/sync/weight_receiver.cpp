// SPDX-License-Identifier: Apache-2.0
#include "sync/weight_receiver.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <optional>
#include <thread>

#include "base/check.h"
#include "layout/run_parallel.h"
#include "sync/weight_delta.h"

namespace lockstep::sync {
namespace {

constexpr size_t kLengthBytes = sizeof(uint64_t);
/// What is digested while it is in the second cache.
constexpr size_t kPieceBytes = size_t{64} << 10;
/// Small tensors are asked for together.
constexpr size_t kRangeBytes = size_t{8} << 20;

std::string where_of(const OfferedBlock& offered) {
  return fmt::format("{}:{}", offered.from.host, offered.from.port);
}

RangeRequest request_of(const OfferedBlock& offered, size_t begin, size_t end) {
  return {.token = offered.from.token,
          .weights = offered.digest,
          .base = "",
          .begin = begin,
          .end = end};
}

void receive_range(Connection& connection,
                   const OfferedBlock& offered,
                   size_t begin,
                   std::span<std::byte> to) {
  ask_for(connection, request_of(offered, begin, begin + to.size()));
  connection.receive_all(to);
}

/// Neighbours among a block's tensors: [first, end) of its entries.
struct TensorRange {
  size_t first, end, bytes;
};

/// Cuts the tensors into ranges, the largest first: connections that take them in turn end
/// together.
std::vector<TensorRange> ranges_of(const std::vector<io::TensorEntry>& entries) {
  std::vector<TensorRange> ranges;
  for (size_t i = 0; i < entries.size(); ++i) {
    const size_t bytes = entries[i].end - entries[i].begin;
    if (ranges.empty() || ranges.back().bytes + bytes > kRangeBytes) ranges.push_back({i, i, 0});
    ranges.back().end = i + 1;
    ranges.back().bytes += bytes;
  }
  std::stable_sort(ranges.begin(), ranges.end(),
                   [](const TensorRange& a, const TensorRange& b) { return a.bytes > b.bytes; });
  return ranges;
}

/// Takes a tensor's bytes from a connection and digests them on the way.
Digest receive_tensor(Connection& connection, std::span<std::byte> to) {
  DigestStream digest;
  while (!to.empty()) {
    const size_t got = connection.receive(to.first(std::min(to.size(), kPieceBytes)));
    digest.update(to.data(), got);
    to = to.subspan(got);
  }
  return digest.finish();
}

}  // namespace

/// Memory that is not touched until it is used.
class WeightReceiver::Buffer {
 public:
  explicit Buffer(size_t bytes) : size_(bytes), bytes_(new std::byte[bytes]) {}
  std::span<std::byte> bytes() { return {bytes_.get(), size_}; }

 private:
  size_t size_;
  std::unique_ptr<std::byte[]> bytes_;
};

void WeightReceiver::forget() {
  held_.clear();
  buffer_.reset();
}

WeightImage WeightReceiver::image(const std::string& where) const {
  return {buffer_, buffer_->bytes(), where};
}

WeightImage WeightReceiver::receive(const OfferedBlock& offered,
                                    size_t most_bytes,
                                    const CheckTensors& check) {
  if (std::max(offered.bytes, offered.delta_bytes) > most_bytes)
    fail<FormatError>("too-large", where_of(offered),
                      "expected weights of at most {} bytes, got {}", most_bytes,
                      std::max(offered.bytes, offered.delta_bytes));
  if (offered.base.empty()) {
    held_.clear();
    receive_block(offered, check);
  } else {
    if (held_ != offered.base || buffer_->bytes().size() != offered.bytes)
      fail<FormatError>("wrong-base", where_of(offered),
                        "expected a delta from weights {}, got one from {}",
                        held_.empty() ? "(none)" : held_, offered.base);
    held_.clear();
    receive_delta(offered);
  }
  held_ = offered.digest;
  return image(where_of(offered));
}

void WeightReceiver::receive_block(const OfferedBlock& offered, const CheckTensors& check) {
  const std::string where = where_of(offered);
  if (offered.bytes < kLengthBytes)
    fail<FormatError>("bad-image", where, "expected a block of weights, got {} bytes",
                      offered.bytes);
  if (!buffer_ || buffer_->bytes().size() != offered.bytes) {
    // The old one goes first.
    buffer_.reset();
    buffer_ = std::make_shared<Buffer>(offered.bytes);
  }
  const std::span<std::byte> bytes = buffer_->bytes();
  Connection connection(offered.from.host, offered.from.port, limits_.idle);
  receive_range(connection, offered, 0, bytes.first(kLengthBytes));
  uint64_t length = 0;
  std::memcpy(&length, bytes.data(), kLengthBytes);
  if (const size_t most = std::min<size_t>(bytes.size() - kLengthBytes, io::kMaxHeaderBytes);
      length > most)
    fail<FormatError>("bad-image", where, "expected a header of at most {} bytes, got one of {}",
                      most, length);
  receive_range(connection, offered, kLengthBytes, bytes.subspan(kLengthBytes, length));
  const WeightImage header = image(where);
  if (const std::string found = header.digest().hex(); found != offered.digest)
    fail<FormatError>("digest-mismatch", where, "expected weights of digest {}, got {}",
                      offered.digest, found);
  check(header);
  receive_tensors(offered, header);
}

void WeightReceiver::receive_tensors(const OfferedBlock& offered, const WeightImage& image) const {
  const std::vector<TensorRange> ranges = ranges_of(image.entries());
  const auto count = std::min<size_t>(static_cast<size_t>(limits_.connections), ranges.size());
  std::atomic<size_t> next{0};
  layout::run_parallel(static_cast<int>(count), count, [&](size_t) {
    try {
      std::optional<Connection> connection;
      for (size_t i = next++; i < ranges.size(); i = next++) {
        if (!connection) connection.emplace(offered.from.host, offered.from.port, limits_.idle);
        const io::TensorEntry* const entries = image.entries().data();
        const TensorRange& range = ranges[i];
        ask_for(*connection,
                request_of(offered, entries[range.first].begin, entries[range.end - 1].end));
        for (size_t k = range.first; k < range.end; ++k) {
          const io::TensorEntry& entry = entries[k];
          const auto to = buffer_->bytes().subspan(entry.begin, entry.end - entry.begin);
          try {
            image.expect_digest(entry, receive_tensor(*connection, to));
          } catch (const PeerError& error) {
            throw PeerError(error.code(), error.where() + ": " + entry.name,
                            std::string(error.what()).substr(error.where().size() + 2));
          }
        }
      }
    } catch (...) {
      next = ranges.size();
      throw;
    }
  });
}

void WeightReceiver::receive_delta(const OfferedBlock& offered) {
  const std::string where = where_of(offered);
  std::vector<std::byte> delta(offered.delta_bytes);
  Connection connection(offered.from.host, offered.from.port, limits_.idle);
  RangeRequest request = request_of(offered, 0, delta.size());
  request.base = offered.base;
  ask_for(connection, request);
  connection.receive_all(delta);
  const std::string digest =
      apply_delta(delta, image(where), buffer_->bytes(), where, limits_.connections);
  if (digest != offered.digest)
    fail<FormatError>("digest-mismatch", where, "expected weights of digest {}, got {}",
                      offered.digest, digest);
}

}  // namespace lockstep::sync
