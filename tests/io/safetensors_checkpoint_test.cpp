// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include "base/json.h"
#include "io/safetensors.h"
#include "tensor/aten.h"
#include "tests/support/expect_close.h"
#include "tests/support/expect_error.h"
#include "tests/support/temp_dir.h"

namespace lockstep::io {
namespace {

using lockstep::testing::same_bits;
using lockstep::testing::slurp;
using lockstep::testing::TempDir;
using Names = std::set<std::string>;

constexpr const char* kIndexName = "model.safetensors.index.json";

/// Tensors of 24, 40, 8, 200, 16 and 6 bytes.
std::vector<NamedTensor> six_tensors() {
  return {{"z", at::arange(6, at::kFloat)},  {"a", at::arange(10, at::kFloat)},
          {"m.1", at::arange(4, at::kHalf)}, {"large", at::arange(50, at::kFloat)},
          {"m.0", at::arange(2, at::kLong)}, {"b", at::arange(3, at::kBFloat16)}};
}

TEST(SafetensorsCheckpoint, OneShardHasNoIndexAndWideTypesFirst) {
  TempDir dir;
  const auto tensors = six_tensors();
  write_safetensors_checkpoint(dir.path(), tensors, 1000);
  EXPECT_EQ(dir.names(), Names{"model.safetensors"});
  const SafetensorsCheckpoint checkpoint(dir.path());
  EXPECT_EQ(checkpoint.names(), (std::vector<std::string>{"m.0", "z", "a", "large", "m.1", "b"}));
  for (const NamedTensor& named : tensors) {
    EXPECT_TRUE(same_bits(checkpoint.tensor(named.name), named.tensor)) << named.name;
    EXPECT_EQ(checkpoint.entry(named.name).shape, named.tensor.sizes().vec());
  }
  EXPECT_FALSE(checkpoint.contains("none"));
  EXPECT_ERROR(checkpoint.tensor("none"), FormatError, "missing-tensor",
               dir.path().string() + ": expected tensor \"none\"");
}

TEST(SafetensorsCheckpoint, ShardsAreCutAsTransformersCutsThem) {
  TempDir dir;
  const auto tensors = six_tensors();
  write_safetensors_checkpoint(dir.path(), tensors, 64);
  // 24 + 40 fill a shard; `large` is above the limit and comes at once; the rest stays together.
  const Json index = parse_json_file(dir / kIndexName);
  const Json expected = parse_json(R"({
    "metadata": {"total_size": 294},
    "weight_map": {
      "a": "model-00001-of-00003.safetensors", "b": "model-00003-of-00003.safetensors",
      "large": "model-00002-of-00003.safetensors", "m.0": "model-00003-of-00003.safetensors",
      "m.1": "model-00003-of-00003.safetensors", "z": "model-00001-of-00003.safetensors"}})",
                                   "expected");
  EXPECT_EQ(slurp(dir / kIndexName), expected.dump(2) + "\n");
  const SafetensorsCheckpoint checkpoint(dir.path());
  EXPECT_EQ(checkpoint.names().size(), tensors.size());
  for (const NamedTensor& named : tensors)
    EXPECT_TRUE(same_bits(checkpoint.tensor(named.name), named.tensor)) << named.name;
}

TEST(SafetensorsCheckpoint, ATensorThatIsMadeIsMadeOnceWhenItsTurnComes) {
  TempDir dir;
  auto tensors = six_tensors(), made = tensors;
  std::vector<std::string> turns;
  for (NamedTensor& named : made) {
    named.make = [&turns, original = named] {
      turns.push_back(original.name);
      return original.tensor;
    };
    named.tensor = tensor_like(named.tensor.sizes(), named.tensor.scalar_type());
  }
  TempDir other;
  write_safetensors_checkpoint(dir.path(), tensors, 64);
  write_safetensors_checkpoint(other.path(), made, 64);
  EXPECT_EQ(turns.size(), tensors.size());
  for (const std::string& name : dir.names())
    EXPECT_EQ(slurp(dir / name), slurp(other / name)) << name;
}

TEST(SafetensorsCheckpoint, IndexesAreChecked) {
  TempDir dir;
  const std::string one = "one.safetensors", two = "two.safetensors";
  write_safetensors(dir / one, {{"a", at::ones({2})}, {"b", at::ones({2})}});
  write_safetensors(dir / two, {{"c", at::ones({2})}});
  const std::string rest = R"("b":"one.safetensors","c":"two.safetensors")";
  const auto index = [](const std::string& map) { return "{\"weight_map\":{" + map + "}}"; };
  const auto whole = index("\"a\":\"one.safetensors\"," + rest);
  dir.write(kIndexName, whole);
  EXPECT_EQ(SafetensorsCheckpoint(dir.path()).names(), (std::vector<std::string>{"a", "b", "c"}));

  const struct {
    std::string text;
    const char* words;
  } table[] = {
      {"{", "expected JSON"},
      {"[]", "expected an object with the object weight_map, got array"},
      {"{}", "expected an object with the object weight_map, got none"},
      {"{\"weight_map\":[]}", "expected an object with the object weight_map"},
      {index(""), "expected a weight_map with tensors"},
      {index("\"a\":1," + rest), "expected weight_map[\"a\"] to name a file beside it, got \"1\""},
      {index("\"a\":\"../one.safetensors\"," + rest), "to name a file beside it"},
      {index("\"a\":\"/one.safetensors\"," + rest), "to name a file beside it"},
      {index("\"a\":\"sub/one.safetensors\"," + rest), "to name a file beside it"},
      {index("\"a\":\"sub\\\\one.safetensors\"," + rest), "to name a file beside it"},
      {index("\"a\":\"one.safetensors\\u0000x\"," + rest), "to name a file beside it"},
      {index("\"a\":\"..\"," + rest), "to name a file beside it"},
      {index("\"a\":\"\"," + rest), "to name a file beside it"},
      {index("\"a\":\"three.safetensors\"," + rest),
       "expected the shard \"three.safetensors\", got no such file"},
      {index(rest), "expected only tensors that the index names, got unknown tensor \"a\""},
      {index("\"a\":\"two.safetensors\"," + rest),
       "expected tensor \"a\" in two.safetensors only, got it here too"},
      {index("\"a\":\"one.safetensors\",\"d\":\"two.safetensors\"," + rest),
       "expected tensor \"d\" in two.safetensors, got no such tensor there"},
      {index("\"a\":\"one.safetensors\",\"a\":\"one.safetensors\"," + rest), "second \"a\""},
  };
  for (const auto& row : table) {
    SCOPED_TRACE(row.text);
    dir.write(kIndexName, row.text);
    EXPECT_ERROR(SafetensorsCheckpoint(dir.path()), FormatError, "bad-safetensors-index",
                 row.words);
  }
}

TEST(SafetensorsCheckpoint, ATensorInTwoShardsIsRefused) {
  TempDir dir;
  write_safetensors(dir / "one.safetensors", {{"a", at::ones({2})}});
  write_safetensors(dir / "two.safetensors", {{"a", at::ones({2})}, {"b", at::ones({2})}});
  dir.write(kIndexName, R"({"weight_map":{"a":"one.safetensors","b":"two.safetensors"}})");
  EXPECT_ERROR(SafetensorsCheckpoint(dir.path()), FormatError, "bad-safetensors-index",
               "two.safetensors: expected tensor \"a\" in one.safetensors only");
}

TEST(SafetensorsCheckpoint, FindsTheOnlyFileOrSaysWhatItSaw) {
  TempDir dir;
  EXPECT_ERROR(SafetensorsCheckpoint(dir.path()), IoError, "unreadable-file",
               "expected model.safetensors.index.json or model.safetensors, got 0 other");
  write_safetensors(dir / "adapter_model.safetensors", {{"a", at::ones({2})}});
  EXPECT_TRUE(SafetensorsCheckpoint(dir.path()).contains("a"));
  write_safetensors(dir / "another.safetensors", {{"b", at::ones({2})}});
  EXPECT_ERROR(SafetensorsCheckpoint(dir.path()), IoError, "unreadable-file", "got 2 other");
  write_safetensors(dir / "model.safetensors", {{"c", at::ones({2})}});
  EXPECT_TRUE(SafetensorsCheckpoint(dir.path()).contains("c"));
  EXPECT_ERROR(SafetensorsCheckpoint(dir / "none"), IoError, "unreadable-file", "none");
}

TEST(SafetensorsCheckpoint, ASingleFileGoesBeforeAnIndexOfOthers) {
  TempDir dir;
  write_safetensors(dir / "model.safetensors", {{"a", at::zeros({2})}});
  write_safetensors(dir / "model-00001-of-00002.safetensors", {{"a", at::ones({2})}});
  write_safetensors(dir / "model-00002-of-00002.safetensors", {{"b", at::ones({2})}});
  const std::string shards =
      R"("b":"model-00002-of-00002.safetensors","a":"model-00001-of-00002.safetensors")";
  const auto expect_single = [&] {
    const SafetensorsCheckpoint checkpoint(dir.path());
    EXPECT_EQ(checkpoint.names(), std::vector<std::string>{"a"});
    EXPECT_TRUE(same_bits(checkpoint.tensor("a"), at::zeros({2})));
    EXPECT_NE(checkpoint.notice().find("model.safetensors is loaded, as transformers does"),
              std::string::npos);
  };
  dir.write(kIndexName, "{\"weight_map\":{" + shards + "}}");
  expect_single();
  // An index that nobody would have read does no harm.
  dir.write(kIndexName, "{");
  expect_single();

  // The index of a checkpoint that the single file belongs to.
  dir.write(kIndexName,
            R"({"weight_map":{"a":"model.safetensors","b":"model-00002-of-00002.safetensors"}})");
  const SafetensorsCheckpoint both(dir.path());
  EXPECT_EQ(both.names(), (std::vector<std::string>{"b", "a"}));
  EXPECT_TRUE(same_bits(both.tensor("a"), at::zeros({2})));
  EXPECT_EQ(both.notice(), "");

  std::filesystem::remove(dir / "model.safetensors");
  dir.write(kIndexName, "{\"weight_map\":{" + shards + "}}");
  const SafetensorsCheckpoint sharded(dir.path());
  EXPECT_TRUE(same_bits(sharded.tensor("a"), at::ones({2})));
  EXPECT_EQ(sharded.notice(), "");
}

TEST(SafetensorsCheckpoint, PicklesAreNotReadAndTheErrorSaysSo) {
  TempDir dir;
  dir.write("pytorch_model.bin", "x");
  EXPECT_ERROR(SafetensorsCheckpoint(dir.path()), IoError, "unreadable-file",
               "pytorch_model.bin is not read: load it with transformers");
}

TEST(ParseSize, ReadsDecimalUnits) {
  EXPECT_EQ(parse_size("5GB", "--max_shard_size"), 5'000'000'000u);
  EXPECT_EQ(parse_size("1.5 mb", "--max_shard_size"), 1'500'000u);
  EXPECT_EQ(parse_size("200KB", "--max_shard_size"), 200'000u);
  EXPECT_EQ(parse_size("2TB", "--max_shard_size"), 2'000'000'000'000u);
  EXPECT_EQ(parse_size("12345", "--max_shard_size"), 12345u);
  for (const char* text : {"", "GB", "-5GB", "5GiB", "0", "0.5", "5 G B", "nan", "inf", "1e400GB",
                           "9999999TB", "5GB5"})
    EXPECT_ERROR(parse_size(text, "--max_shard_size"), ConfigError, "bad-value",
                 std::string("--max_shard_size: expected a size such as 5GB"));
}

}  // namespace
}  // namespace lockstep::io
