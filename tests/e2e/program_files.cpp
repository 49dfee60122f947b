// SPDX-License-Identifier: Apache-2.0
#include "tests/e2e/program_files.h"

#include <algorithm>
#include <cstring>
#include <random>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "tests/support/test_seed.h"

namespace lockstep::testing {

namespace fs = std::filesystem;

Arguments operator+(Arguments first, const Arguments& second) {
  first.insert(first.end(), second.begin(), second.end());
  return first;
}

ProgramResult run_well(const Arguments& arguments, const ProgramWorld& world) {
  ProgramResult result = run_program(arguments, world);
  EXPECT_EQ(result.exit_code, 0) << arguments[0] << ": " << result.err;
  return result;
}

std::string new_model(const TempDir& folder, const std::string& name, const Arguments& more) {
  const std::string path = (folder / name).string();
  run_well(Arguments{"new-model", "--size", "tiny", "--output_dir", path, "--quiet"} + more);
  return path;
}

Json chat_row(const std::string& question, const std::string& answer) {
  Json messages = Json::array({{{"role", "user"}, {"content", question}}});
  if (!answer.empty()) messages.push_back({{"role", "assistant"}, {"content", answer}});
  return {{"messages", std::move(messages)}};
}

std::vector<Json> sum_rows(int count) {
  std::vector<Json> rows;
  for (int i = 0; i < count; ++i) {
    const int a = i * 7 % 10, b = i * 3 % 10;
    rows.push_back(chat_row(fmt::format("{}+{}=", a, b), std::to_string(a + b)));
    rows.back()["solution"] = std::to_string(a + b);
  }
  return rows;
}

std::vector<Json> id_rows(const std::vector<int64_t>& lengths, int64_t vocab_size, uint64_t seed) {
  std::mt19937_64 random(test_seed(seed));
  std::vector<Json> rows;
  for (const int64_t length : lengths) {
    std::vector<int64_t> ids(static_cast<size_t>(length));
    for (auto& id : ids) id = static_cast<int64_t>(random() % static_cast<uint64_t>(vocab_size));
    rows.push_back({{"input_ids", ids}});
  }
  return rows;
}

std::string write_rows(const TempDir& folder,
                       const std::string& name,
                       const std::vector<Json>& rows) {
  std::string text;
  for (const Json& row : rows) text += dump_json(row) + "\n";
  return folder.write(name, text).string();
}

std::vector<Json> parse_rows(const std::string& text) {
  std::vector<Json> rows;
  size_t begin = 0;
  for (size_t end; (end = text.find('\n', begin)) != std::string::npos; begin = end + 1)
    rows.push_back(parse_json(std::string_view(text).substr(begin, end - begin), "rows"));
  EXPECT_EQ(begin, text.size()) << "a line without its end";
  return rows;
}

std::vector<Json> read_rows(const fs::path& path) { return parse_rows(slurp(path)); }

int64_t count_lines(const fs::path& path) {
  const std::string text = slurp(path);
  return std::count(text.begin(), text.end(), '\n');
}

std::vector<Json> timeless_rows(const fs::path& run) {
  std::vector<Json> rows = read_rows(run / "logging.jsonl");
  for (Json& row : rows) {
    Json kept = Json::object();
    for (const auto& [key, value] : row.items()) {
      const bool is_timed = key.find("time") != std::string::npos ||
                            key.find("speed") != std::string::npos ||
                            key.find("tokens_per_second") != std::string::npos ||
                            key == "memory(GiB)" || key.ends_with("_model_checkpoint");
      if (!is_timed) kept[key] = value;
    }
    row = std::move(kept);
  }
  return rows;
}

TensorFile read_tensors(const fs::path& path) {
  const std::string bytes = slurp(path);
  uint64_t length = 0;
  for (size_t i = 8; i-- > 0;) length = length << 8 | static_cast<unsigned char>(bytes.at(i));
  return {parse_json(std::string_view(bytes).substr(8, length), "header"),
          bytes.substr(8 + length)};
}

std::map<std::string, std::vector<float>> float_tensors(const fs::path& path) {
  const TensorFile file = read_tensors(path);
  std::map<std::string, std::vector<float>> tensors;
  for (const auto& [name, entry] : file.header.items()) {
    if (name == "__metadata__") continue;
    EXPECT_EQ(entry["dtype"], "F32") << name;
    tensors[name] = values_of<float>(file, name);
  }
  return tensors;
}

std::map<std::string, std::string> tree_of(const fs::path& root) {
  std::map<std::string, std::string> tree;
  for (const auto& entry : fs::recursive_directory_iterator(root)) {
    const std::string name = entry.path().lexically_relative(root).string();
    if (entry.is_symlink())
      tree[name] = "-> " + fs::read_symlink(entry.path()).string();
    else if (entry.is_directory())
      tree[name + "/"] = "";
    else
      tree[name] = slurp(entry.path());
  }
  return tree;
}

std::vector<std::string> temporaries_in(const fs::path& root) {
  std::vector<std::string> names;
  for (const auto& [name, bytes] : tree_of(root))
    if (name.find(".tmp") != std::string::npos) names.push_back(name);
  return names;
}

}  // namespace lockstep::testing
