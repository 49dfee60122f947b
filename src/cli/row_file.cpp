// Reading rows with the checks that every command shares, and writing results whole or not at all.
// SPDX-License-Identifier: Apache-2.0
#include "cli/row_file.h"

#include <cerrno>
#include <cstdio>
#include <cstring>

#include <fmt/format.h>

#include "base/file.h"
#include "base/interrupt.h"
#include "base/json.h"
#include "text/dataset_files.h"

namespace lockstep::cli {
namespace {

void check_text_only(const Json& row, const std::string& where) {
  for (const char* key : {"images", "videos", "audios"}) {
    const auto found = row.find(key);
    if (found == row.end() || found->is_null() || (found->is_structured() && found->empty()))
      continue;
    fail<FormatError>("bad-row", where,
                      "expected text only, got {} (the vision tower is carried through, not run)",
                      key);
  }
}

}  // namespace

void for_each_row(const std::filesystem::path& path,
                  const std::function<void(const std::string& where, Json&& row)>& visit) {
  text::check_row_file(path);
  int64_t num_rows = 0;
  for_each_json_line(path, [&](int64_t line, Json&& row) {
    throw_if_interrupted();
    const std::string where = fmt::format("{}:{}", path.string(), line);
    if (!row.is_object())
      fail<FormatError>("bad-row", where, "expected a JSON object, got {}", row.type_name());
    check_text_only(row, where);
    ++num_rows;
    visit(where, std::move(row));
  });
  if (num_rows == 0)
    fail<FormatError>("bad-row", path.string(), "expected at least one row, got none");
}

std::vector<int64_t> ids_of(const Json& row,
                            std::string_view key,
                            int64_t vocab_size,
                            std::string_view where) {
  const Json& list = row.at(std::string(key));
  if (!list.is_array())
    fail<FormatError>("bad-row", where, "expected a list of ids in {}, got {}", key,
                      list.type_name());
  std::vector<int64_t> ids;
  ids.reserve(list.size());
  for (const Json& element : list) {
    if (!element.is_number_integer())
      fail<FormatError>("bad-row", where, "expected whole numbers in {}, got {}", key,
                        dump_json(element));
    // A number beyond int64 is an unsigned one for the reader.
    const bool is_huge =
        element.is_number_unsigned() && element.get<uint64_t>() > uint64_t{INT64_MAX};
    const int64_t id = is_huge ? INT64_MAX : element.get<int64_t>();
    if (id < 0 || id >= vocab_size)
      fail<FormatError>("bad-row", where, "expected ids in [0, {}) in {}, got {}", vocab_size, key,
                        dump_json(element));
    ids.push_back(id);
  }
  return ids;
}

int64_t read_vocab_size(const std::filesystem::path& model) {
  const std::filesystem::path path = model / "config.json";
  const Json config = parse_json_file(path, "bad-config");
  const bool has_text_config = config.is_object() && config.contains("text_config") &&
                               config["text_config"].is_object() &&
                               config["text_config"].contains("vocab_size");
  const Json& owner = has_text_config ? config["text_config"] : config;
  if (!owner.is_object() || !owner.contains("vocab_size") ||
      !owner["vocab_size"].is_number_integer() || owner["vocab_size"].get<int64_t>() < 1)
    fail<FormatError>("bad-config", path.string(), "expected a whole number >= 1 in vocab_size");
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
  // A command that refuses a row has written nothing.
  if (std::fwrite(held_.data(), 1, held_.size(), stdout) != held_.size() ||
      std::fflush(stdout) != 0)
    fail<IoError>("unwritable-output", "stdout", "expected to write all rows, got: {}",
                  std::strerror(errno));
}

}  // namespace lockstep::cli
