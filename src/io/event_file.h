// TensorBoard event files (scalars only).
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string_view>

namespace lockstep::io {

/// Appends scalar summaries to an events.out.tfevents file in `directory` (made if missing).
///
/// Format: TFRecord framing (length, masked CRC-32C, data, masked CRC-32C) of Event protocol
/// buffers, first event file_version "brain.Event:2". Source: tensorflow/core/util/event.proto,
/// lib/io/record_writer.h. Not thread-safe. Throws IoError.
class EventFile {
 public:
  explicit EventFile(const std::filesystem::path& directory);
  /// Tells TensorBoard to forget what earlier files of the folder say of `step` and later steps,
  /// which a resumed run writes again.
  void restart_at(int64_t step);
  ~EventFile();
  void add_scalar(std::string_view tag, double value, int64_t step);
  void flush();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace lockstep::io
