// SPDX-License-Identifier: Apache-2.0
#include "io/event_file.h"

#include <array>
#include <atomic>
#include <bit>
#include <chrono>
#include <string>
#include <unistd.h>

#include "base/check.h"
#include "base/file.h"
#include "io/crc32c.h"

namespace lockstep::io {
namespace {

/// The wire types of protocol buffers, as far as scalar events need them.
enum class WireType : uint32_t { kVarint = 0, kFixed64 = 1, kBytes = 2, kFixed32 = 5 };

void append_little_endian(std::string& out, uint64_t value, size_t bytes) {
  for (size_t i = 0; i < bytes; ++i) out += static_cast<char>(value >> (8 * i));
}

void append_varint(std::string& out, uint64_t value) {
  for (; value >= 0x80; value >>= 7) out += static_cast<char>(value | 0x80);
  out += static_cast<char>(value);
}

void append_key(std::string& out, uint32_t field, WireType type) {
  append_varint(out, field << 3 | static_cast<uint32_t>(type));
}

void append_bytes(std::string& out, uint32_t field, std::string_view bytes) {
  append_key(out, field, WireType::kBytes);
  append_varint(out, bytes.size());
  out += bytes;
}

/// Event.wall_time: seconds since 1970.
void append_wall_time(std::string& event) {
  const std::chrono::duration<double> now = std::chrono::system_clock::now().time_since_epoch();
  append_key(event, 1, WireType::kFixed64);
  append_little_endian(event, std::bit_cast<uint64_t>(now.count()), 8);
}

/// The first fields of an event: its time and its step.
std::string event_at(int64_t step) {
  std::string event;
  append_wall_time(event);
  // Event.step
  append_key(event, 2, WireType::kVarint);
  append_varint(event, static_cast<uint64_t>(step));
  return event;
}

/// One TFRecord: length, its checksum, data, its checksum.
std::string framed(std::string_view data) {
  std::string record;
  append_little_endian(record, data.size(), 8);
  append_little_endian(record, masked_crc32c(record), 4);
  record += data;
  append_little_endian(record, masked_crc32c(data), 4);
  return record;
}

/// A file name that TensorBoard takes for an event file and that no other writer uses.
std::string unique_name() {
  static std::atomic<int> counter{0};
  std::array<char, 256> host{};
  if (::gethostname(host.data(), host.size() - 1) != 0) host = {"localhost"};
  const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(
      std::chrono::system_clock::now().time_since_epoch());
  return fmt::format("events.out.tfevents.{:010}.{}.{}.{}", seconds.count(), host.data(),
                     ::getpid(), counter.fetch_add(1));
}

std::filesystem::path made(const std::filesystem::path& directory) {
  std::error_code error;
  std::filesystem::create_directories(directory, error);
  if (error)
    fail<IoError>("unwritable-output", directory.string(), "expected to make the folder, got {}",
                  error.message());
  return directory;
}

}  // namespace

struct EventFile::Impl {
  explicit Impl(const std::filesystem::path& directory) : file(made(directory) / unique_name()) {}
  LineFile file;
  /// Records that are not written to the file yet.
  std::string pending;
};

EventFile::EventFile(const std::filesystem::path& directory)
    : impl_(std::make_unique<Impl>(directory)) {
  std::string event;
  append_wall_time(event);
  // Event.file_version
  append_bytes(event, 3, "brain.Event:2");
  impl_->pending = framed(event);
  flush();
}

void EventFile::restart_at(int64_t step) {
  std::string session;
  // SessionLog.status
  append_key(session, 1, WireType::kVarint);
  // START
  append_varint(session, 1);
  std::string event = event_at(step);
  // Event.session_log
  append_bytes(event, 7, session);
  impl_->pending += framed(event);
}

EventFile::~EventFile() {
  try {
    flush();
  } catch (const IoError&) {
    // A destructor must not throw. Who wants to know of errors calls flush().
  }
}

void EventFile::add_scalar(std::string_view tag, double value, int64_t step) {
  std::string summary_value;
  // Summary.Value.tag
  append_bytes(summary_value, 1, tag);
  // Summary.Value.simple_value
  append_key(summary_value, 2, WireType::kFixed32);
  append_little_endian(summary_value, std::bit_cast<uint32_t>(static_cast<float>(value)), 4);
  std::string summary;
  // Summary.value
  append_bytes(summary, 1, summary_value);
  std::string event = event_at(step);
  // Event.summary
  append_bytes(event, 5, summary);
  impl_->pending += framed(event);
  constexpr size_t kFlushBytes = 1 << 16;
  if (impl_->pending.size() >= kFlushBytes) flush();
}

void EventFile::flush() {
  if (impl_->pending.empty()) return;
  const std::string records = std::exchange(impl_->pending, {});
  impl_->file.append_bytes(records);
}

}  // namespace lockstep::io
