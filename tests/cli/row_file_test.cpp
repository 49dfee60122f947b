// Outputs of rows that are there whole or not at all.
// SPDX-License-Identifier: Apache-2.0
#include "cli/row_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/file.h"
#include "base/json.h"
#include "tests/support/expect_error.h"
#include "tests/support/temp_dir.h"

namespace lockstep::cli {
namespace {

class RowFile : public ::testing::Test {
 protected:
  testing::TempDir directory;
};

TEST_F(RowFile, TheTextModelsVocabularyCounts) {
  const auto size = [this](const char* config) {
    write_file(directory.path() / "config.json", config);
    return read_vocab_size(directory.path());
  };
  EXPECT_EQ(size(R"({"vocab_size": 100, "text_config": {"vocab_size": 50}})"), 50);
  EXPECT_EQ(size(R"({"vocab_size": 100, "text_config": {}})"), 100);
  EXPECT_ERROR(size(R"({"vocab_size": "100"})"), FormatError, "bad-config",
               "expected a whole number >= 1 in vocab_size, got \"100\"");
  EXPECT_ERROR(size(R"([])"), FormatError, "bad-config", "vocab_size, got none");
}

TEST_F(RowFile, AnOutputAppearsAtCommit) {
  const std::filesystem::path path = directory.path() / "out.jsonl";
  {
    RowWriter dropped(path.string(), /*overwrite=*/false, "--output", {});
    dropped.write(Json{{"a", 1}});
  }
  EXPECT_TRUE(std::filesystem::is_empty(directory.path()));
  RowWriter writer(path.string(), /*overwrite=*/false, "--output", {});
  writer.write(Json{{"text", "é"}});
  writer.write(Json{{"ids", {1, 2}}});
  writer.commit();
  EXPECT_EQ(read_file(path), "{\"text\":\"é\"}\n{\"ids\":[1,2]}\n");
  EXPECT_ERROR(RowWriter(path.string(), /*overwrite=*/false, "--output", {}), ConfigError,
               "output-exists", "--output");
  EXPECT_NO_THROW(RowWriter(path.string(), /*overwrite=*/true, "--output", {}));
}

}  // namespace
}  // namespace lockstep::cli
