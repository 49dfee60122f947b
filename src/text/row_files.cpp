// One reader for each form of file; all give rows with their lines to the same collector.
// SPDX-License-Identifier: Apache-2.0
#include "text/row_files.h"

#include <algorithm>
#include <cctype>
#include <charconv>
#include <optional>

#include "base/check.h"
#include "base/file.h"
#include "base/interrupt.h"
#include "text/row.h"
#include "text/unicode.h"

namespace lockstep::text {
namespace {

std::string lower_extension(const std::filesystem::path& path) {
  std::string extension = path.extension().string();
  std::transform(extension.begin(), extension.end(), extension.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return extension;
}

bool is_blank(std::string_view text) {
  return text.find_first_not_of(" \t\r\n") == std::string_view::npos;
}

/// Hands on good rows, and keeps the errors of bad ones unless they are to stop everything.
class Collector {
 public:
  using Sink = std::function<void(RawRow&&)>;
  Collector(const std::filesystem::path& path, bool strict, Sink sink)
      : path_(path), strict_(strict), sink_(std::move(sink)) {}

  std::string where(int64_t line) const { return fmt::format("{}:{}", path_.string(), line); }

  /// `make()` gives the row that starts at `line`.
  template <class Make>
  void add(int64_t line, const Make& make) {
    ++num_rows_;
    std::string at = where(line);
    Json row;
    try {
      row = make(at);
      if (!row.is_object())
        fail<FormatError>("bad-row", at, "expected a JSON object, got {}", row.type_name());
    } catch (const FormatError& error) {
      if (strict_) throw;
      bad_rows_.emplace_back(error.what());
      return;
    }
    sink_({std::move(row), std::move(at)});
  }
  void add_json(int64_t line, std::string_view text) {
    add(line, [text](const std::string& at) {
      return parse_json(text, at, "bad-row", {.keep_digits = true});
    });
  }

  /// What was wrong with the bad rows.
  std::vector<std::string> finish() {
    if (num_rows_ == 0)
      fail<FormatError>("bad-row", path_.string(), "expected at least one row, got none");
    return std::move(bad_rows_);
  }

 private:
  std::filesystem::path path_;
  bool strict_;
  Sink sink_;
  int64_t num_rows_ = 0;
  std::vector<std::string> bad_rows_;
};

void read_json_lines(std::string_view text, Collector& rows) {
  int64_t line = 1;
  for (size_t begin = 0; begin < text.size(); ++line) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    const std::string_view row = text.substr(begin, end - begin);
    if (!is_blank(row)) rows.add_json(line, row);
    begin = end + 1;
  }
}

/// One past the end of the value at `begin`: the first comma or closing bracket outside of strings
/// and nesting.
size_t element_end(std::string_view text, size_t begin) {
  int depth = 0;
  bool in_string = false;
  for (size_t at = begin; at < text.size(); ++at) {
    const char c = text[at];
    if (in_string) {
      if (c == '\\') ++at;
      if (c == '"') in_string = false;
    } else if (c == '"') {
      in_string = true;
    } else if (c == '[' || c == '{') {
      ++depth;
    } else if (depth > 0 && (c == ']' || c == '}')) {
      --depth;
    } else if (depth == 0 && (c == ',' || c == ']')) {
      return at;
    }
  }
  return text.size();
}

/// A list is cut into its elements first, so that each row knows its line.
void read_json_list(std::string_view text, Collector& rows) {
  int64_t line = 1;
  size_t counted = 0;
  const auto line_at = [&](size_t at) {
    line += std::count(text.begin() + static_cast<ptrdiff_t>(counted),
                       text.begin() + static_cast<ptrdiff_t>(at), '\n');
    counted = at;
    return line;
  };
  size_t at = text.find('[') + 1;
  if (const size_t first = text.find_first_not_of(" \t\r\n", at);
      first != text.npos && text[first] == ']') {
    at = first;
  } else {
    while (true) {
      const size_t end = element_end(text, at);
      const size_t begin = std::min(text.find_first_not_of(" \t\r\n", at), end);
      const int64_t begin_line = line_at(begin);
      if (end == text.size())
        fail<FormatError>("bad-row", rows.where(begin_line),
                          "expected \",\" or \"]\" behind this row, got the end of the file");
      rows.add_json(begin_line, text.substr(begin, end - begin));
      at = end;
      if (text[at] == ']') break;
      ++at;
    }
  }
  if (!is_blank(text.substr(at + 1)))
    fail<FormatError>("bad-row", rows.where(line_at(at)),
                      "expected nothing behind the list, got more");
}

/// Records of comma-separated fields by RFC 4180: quotes around fields with commas, quotes or line
/// ends.
class CsvReader {
 public:
  struct Field {
    std::string text;
    bool is_quoted = false;
  };
  struct Record {
    std::vector<Field> fields;
    int64_t line = 0;
  };

  CsvReader(std::string_view text, const Collector& rows) : text_(text), rows_(rows) {}

  std::optional<Record> next() {
    skip_blank_lines();
    if (at_ >= text_.size()) return std::nullopt;
    Record record{{}, line_};
    while (true) {
      record.fields.push_back(field(record.line));
      if (at_ >= text_.size()) break;
      const char separator = text_[at_++];
      if (separator == ',') continue;
      if (separator == '\r' && at_ < text_.size() && text_[at_] == '\n') ++at_;
      ++line_;
      break;
    }
    return record;
  }

 private:
  void skip_blank_lines() {
    for (; at_ < text_.size() && (text_[at_] == '\n' || text_[at_] == '\r'); ++at_)
      line_ += text_[at_] == '\n';
  }

  Field field(int64_t first_line) {
    Field result;
    if (at_ >= text_.size() || text_[at_] != '"') {
      const size_t end = std::min(text_.find_first_of(",\r\n", at_), text_.size());
      result.text = text_.substr(at_, end - at_);
      at_ = end;
      return result;
    }
    result.is_quoted = true;
    for (++at_; at_ < text_.size(); ++at_) {
      if (text_[at_] == '"') {
        ++at_;
        const bool is_escaped = at_ < text_.size() && text_[at_] == '"';
        if (!is_escaped) {
          if (at_ < text_.size() && text_.substr(at_).find_first_of(",\r\n") != 0)
            fail<FormatError>(
                "bad-row", rows_.where(line_),
                "expected a comma or the end of the line behind a closing quote, got \"{}\"",
                static_cast<unsigned char>(text_[at_]) < 0x80 ? text_.substr(at_, 1) : "…");
          return result;
        }
      }
      line_ += text_[at_] == '\n';
      result.text += text_[at_];
    }
    fail<FormatError>("bad-row", rows_.where(first_line),
                      "expected a closing quote, got the end of the file");
  }

  std::string_view text_;
  const Collector& rows_;
  size_t at_ = 0;
  int64_t line_ = 1;
};

void read_csv(std::string_view text, Collector& rows) {
  if (const size_t valid = valid_prefix(text); valid < text.size()) {
    const auto line =
        1 + std::count(text.begin(), text.begin() + static_cast<ptrdiff_t>(valid), '\n');
    fail<FormatError>("bad-row", rows.where(line),
                      "expected UTF-8, got an invalid byte at offset {}", valid);
  }
  CsvReader reader(text, rows);
  const auto header = reader.next();
  if (!header) return;
  const std::string& first = header->fields[0].text;
  if (header->fields.size() == 1 && first.find_first_of(";\t") != first.npos)
    fail<FormatError>("bad-row", rows.where(header->line),
                      "expected commas between the names of columns, got \"{}\"", first);
  for (size_t i = 0; i < header->fields.size(); ++i) {
    for (size_t j = 0; j < i; ++j) {
      if (header->fields[i].text == header->fields[j].text)
        fail<FormatError>("bad-row", rows.where(header->line),
                          "expected each column once, got \"{}\" twice", header->fields[i].text);
    }
  }
  while (const auto record = reader.next()) {
    rows.add(record->line, [&](const std::string& at) {
      if (record->fields.size() != header->fields.size())
        fail<FormatError>("bad-row", at, "expected {} fields, got {}", header->fields.size(),
                          record->fields.size());
      Json row = Json::object();
      for (size_t i = 0; i < record->fields.size(); ++i) {
        const CsvReader::Field& field = record->fields[i];
        row[header->fields[i].text] =
            field.text.empty() && !field.is_quoted ? Json() : Json(field.text);
      }
      return row;
    });
  }
}

/// Whether a text has the form of a hub's ids, "organisation/name".
bool looks_like_hub_id(std::string_view name) {
  const size_t slash = name.find('/');
  return slash != name.npos && slash > 0 && name[0] != '.' && name[0] != '~' &&
         name.find('/', slash + 1) == name.npos;
}

[[noreturn]] void refuse_hub_id(std::string_view name) {
  const std::string_view id = name.substr(0, name.find(':'));
  fail<FormatError>("unsupported-dataset", name,
                    "expected a local .jsonl, .json or .csv file, got what looks like a hub id "
                    "(download and convert "
                    "it: python -c \"from datasets import load_dataset; load_dataset('{}', "
                    "split='train').to_json('train.jsonl')\")",
                    id);
}

}  // namespace

void check_row_file(const std::filesystem::path& path) {
  const std::string extension = lower_extension(path);
  if (!std::filesystem::exists(path)) {
    const bool is_file_name = extension == ".jsonl" || extension == ".json" ||
                              extension == ".csv" || extension == ".parquet" ||
                              extension == ".arrow";
    if (!is_file_name && looks_like_hub_id(path.string())) refuse_hub_id(path.string());
    fail<IoError>("unreadable-file", path.string(),
                  "expected a file of rows, got nothing of that name");
  }
  if (extension == ".parquet" || extension == ".arrow")
    fail<FormatError>(
        "unsupported-dataset", path.string(),
        "expected a .jsonl, .json or .csv file, got {} (convert it: python -c \"import pandas; "
        "pandas.read_{}('{}').to_json('train.jsonl', orient='records', lines=True, "
        "force_ascii=False)\")",
        extension, extension == ".parquet" ? "parquet" : "feather", path.string());
  if (std::filesystem::is_directory(path))
    fail<FormatError>("unsupported-dataset", path.string(),
                      "expected a .jsonl, .json or .csv file, got a folder (name the files in it)");
}

namespace {

/// Whether the first object goes on behind its line: the text is no JSON lines.
bool is_spread_over_lines(std::string_view text) {
  const auto take_line = [&] {
    text.remove_prefix(std::min(text.find_first_not_of(" \t\r\n"), text.size()));
    const std::string_view line = text.substr(0, text.find('\n'));
    text.remove_prefix(line.size());
    return line.substr(0, line.find_last_not_of(" \t\r") + 1);
  };
  const std::string_view first = take_line(), second = take_line();
  if (!first.starts_with('{') || second.empty()) return false;
  // A row that is broken off is followed by another one.
  return first.ends_with('[') ||
         (std::string_view("{,:").find(first.back()) != first.npos && !second.starts_with('{'));
}

void read_file_of_rows(const std::filesystem::path& path, Collector& rows) {
  const std::string bytes = read_file(path);
  std::string_view text = bytes;
  if (text.substr(0, 3) == "\xef\xbb\xbf") text.remove_prefix(3);
  const std::string extension = lower_extension(path);
  const size_t first = text.find_first_not_of(" \t\r\n");
  if (extension == ".csv") {
    read_csv(text, rows);
  } else if (extension == ".json" && first != text.npos && text[first] == '[') {
    read_json_list(text, rows);
  } else {
    if (is_spread_over_lines(text))
      fail<FormatError>(
          "bad-row", rows.where(1),
          "expected an object a line, or a .json file with a list of objects, got an "
          "object that goes on behind its line (hint: jq -c . '{}' writes one a line)",
          path.string());
    read_json_lines(text, rows);
  }
}

}  // namespace

RawFile read_rows(const std::filesystem::path& path, bool strict) {
  RawFile file;
  Collector rows(path, strict, [&](RawRow&& row) { file.rows.push_back(std::move(row)); });
  read_file_of_rows(path, rows);
  file.bad_rows = rows.finish();
  return file;
}

void for_each_row(const std::filesystem::path& path,
                  const std::function<void(const std::string& where, Json&& row)>& visit) {
  check_row_file(path);
  Collector rows(path, /*strict=*/true, [&](RawRow&& row) {
    throw_if_interrupted();
    check_text_only(row.object, row.where);
    visit(row.where, std::move(row.object));
  });
  read_file_of_rows(path, rows);
  rows.finish();
}

std::filesystem::path dataset_path(std::string_view name) {
  std::error_code ignored;
  const size_t mark = std::filesystem::exists(name, ignored) ? name.npos : name.rfind('#');
  return name.substr(0, mark);
}

DatasetName parse_dataset_name(std::string_view name) {
  DatasetName result{dataset_path(name)};
  if (const size_t mark = result.path.native().size(); mark < name.size()) {
    const std::string_view digits = name.substr(mark + 1);
    const auto parsed =
        std::from_chars(digits.data(), digits.data() + digits.size(), result.num_samples);
    if (parsed.ec != std::errc() || parsed.ptr != digits.data() + digits.size() ||
        result.num_samples < 1)
      fail<ConfigError>("bad-config", "--dataset",
                        "expected a number of rows of at least 1 behind \"#\", got \"{}\"", name);
  }
  check_row_file(result.path);
  const std::string extension = lower_extension(result.path);
  if (extension != ".jsonl" && extension != ".json" && extension != ".csv")
    fail<FormatError>("unsupported-dataset", result.path.string(),
                      "expected a .jsonl, .json or .csv file, got \"{}\"",
                      result.path.filename().string());
  return result;
}

}  // namespace lockstep::text
