// SPDX-License-Identifier: Apache-2.0
#include "cli/row_file.h"

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <poll.h>
#include <signal.h>
#include <unistd.h>

#include <fmt/format.h>

#include "base/check.h"
#include "base/file.h"
#include "base/json.h"

namespace lockstep::cli {
int64_t read_vocab_size(const std::filesystem::path& model) {
  const std::filesystem::path path = model / "config.json";
  const Json config = parse_json_file(path, "bad-config");
  const bool has_text_config = config.is_object() && config.contains("text_config") &&
                               config["text_config"].is_object() &&
                               config["text_config"].contains("vocab_size");
  const Json& owner = has_text_config ? config["text_config"] : config;
  if (!owner.is_object() || !owner.contains("vocab_size") ||
      !owner["vocab_size"].is_number_integer() || owner["vocab_size"].get<int64_t>() < 1)
    fail<FormatError>(
        "bad-config", path.string(), "expected a whole number >= 1 in vocab_size, got {}",
        owner.is_object() && owner.contains("vocab_size") ? dump_json(owner["vocab_size"])
                                                          : "none");
  return owner["vocab_size"].get<int64_t>();
}

RowWriter::RowWriter(const std::string& output,
                     bool overwrite,
                     std::string_view flag,
                     std::span<const InputPath> inputs) {
  if (output.empty()) return;
  check_output_apart(output, flag, inputs);
  check_output_path(output, overwrite, flag);
  file_ = std::make_unique<AtomicFile>(output);
}
RowWriter::~RowWriter() = default;

void RowWriter::write(const Json& row) {
  const std::string line = dump_json(row) + "\n";
  if (file_) return file_->write(line);
  held_ += line;
}

void RowWriter::commit() {
  if (file_) return file_->commit();
  // Written only now: a command that refuses a row must not have written anything.
  if (std::fwrite(held_.data(), 1, held_.size(), stdout) != held_.size() ||
      std::fflush(stdout) != 0)
    fail_stdout("all rows");
}

void fail_stdout(std::string_view wanted) {
  const int error = errno;
  pollfd out{.fd = STDOUT_FILENO, .events = 0, .revents = 0};
  if (::poll(&out, 1, 0) == 1 && (out.revents & POLLERR)) {
    ::signal(SIGPIPE, SIG_DFL);
    ::raise(SIGPIPE);
  }
  fail<IoError>("unwritable-output", "stdout", "expected to write {}, got {}", wanted,
                std::strerror(error));
}

}  // namespace lockstep::cli
