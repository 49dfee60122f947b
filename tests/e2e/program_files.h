// What tests of the whole program put in and look at: small models, rows, and everything in a
// folder.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "base/json.h"
#include "tests/support/run_program.h"

namespace lockstep::testing {

using Arguments = std::vector<std::string>;
/// Both lists one after the other.
Arguments operator+(Arguments first, const Arguments& second);

/// Runs the program, which must end with exit code 0.
ProgramResult run_well(const Arguments& arguments, const ProgramWorld& world = {});

/// Makes a tiny model in `folder`/`name` and returns its path.
std::string new_model(const TempDir& folder, const std::string& name, const Arguments& more);

/// A conversation of one question, with its answer where there is one, as a row.
Json chat_row(const std::string& question, const std::string& answer = "");
/// Rows that add two small numbers, with answer and solution.
std::vector<Json> sum_rows(int count);
/// Rows of ids below `vocab_size`, of these lengths.
std::vector<Json> id_rows(const std::vector<int64_t>& lengths, int64_t vocab_size, uint64_t seed);

/// Writes rows as JSON lines and returns the file's path.
std::string write_rows(const TempDir& folder,
                       const std::string& name,
                       const std::vector<Json>& rows);
std::vector<Json> read_rows(const std::filesystem::path& path);
/// How many lines a file has that is still written.
int64_t count_lines(const std::filesystem::path& path);
/// A run's logging.jsonl without what depends on the clock and the machine.
std::vector<Json> timeless_rows(const std::filesystem::path& run);
/// The lines of a text as JSON.
std::vector<Json> parse_rows(const std::string& text);

/// A safetensors file, read without the program's own reader.
struct TensorFile {
  Json header;
  std::string data;
};
TensorFile read_tensors(const std::filesystem::path& path);
/// The values of one of its tensors.
template <class T>
std::vector<T> values_of(const TensorFile& file, const std::string& name) {
  const Json& offsets = file.header.at(name).at("data_offsets");
  const size_t begin = offsets[0], end = offsets[1];
  std::vector<T> values((end - begin) / sizeof(T));
  std::memcpy(values.data(), file.data.data() + begin, values.size() * sizeof(T));
  return values;
}
/// The values of its F32 tensors, by name.
std::map<std::string, std::vector<float>> float_tensors(const std::filesystem::path& path);

/// Everything below `root`, hidden and temporary names too: relative path to bytes; a folder's end
/// in '/', a link's value is where it points.
std::map<std::string, std::string> tree_of(const std::filesystem::path& root);
/// Names in tree_of(root) that look like another writer's temporary ones.
std::vector<std::string> temporaries_in(const std::filesystem::path& root);

}  // namespace lockstep::testing
