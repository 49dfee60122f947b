// Files that must be refused, each with its message.
// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include "io/safetensors.h"
#include "tests/io/safetensors_bytes.h"
#include "tests/support/expect_error.h"
#include "tests/support/temp_dir.h"

namespace lockstep::io {
namespace {

using lockstep::testing::length_bytes;
using lockstep::testing::safetensors_bytes;
using lockstep::testing::TempDir;

void expect_refused(const std::string& bytes, const char* words) {
  SCOPED_TRACE(bytes.substr(0, 300));
  EXPECT_ERROR(parse_safetensors(std::as_bytes(std::span(bytes)), "m.safetensors"), FormatError,
               "bad-safetensors", words);
  EXPECT_ERROR(parse_safetensors(std::as_bytes(std::span(bytes)), "m.safetensors"), FormatError,
               "bad-safetensors", "m.safetensors: ");
}

TEST(SafetensorsHostile, FramesAreRefused) {
  const struct {
    std::string bytes;
    const char* words;
  } table[] = {
      {"", "expected 8 bytes of header length, got a file of 0 bytes"},
      {"1234567", "got a file of 7 bytes"},
      {length_bytes(0), "expected '{' at byte 8, got an empty header"},
      {length_bytes(2), "expected 2 bytes of header at byte 8, got 0 (truncated file?)"},
      {length_bytes(3) + "{}", "expected 3 bytes of header at byte 8, got 2"},
      {length_bytes(100'000'001) + "{}",
       "expected a header of at most 100000000 bytes, got length "
       "100000001 at byte 0"},
      {length_bytes(UINT64_MAX) + "{}", "got length 18446744073709551615 at byte 0"},
      {length_bytes(UINT64_MAX - 7) + "{}", "at most 100000000 bytes"},
      {length_bytes(uint64_t{1} << 63) + "{}", "at most 100000000 bytes"},
      {safetensors_bytes("[]", 0), "expected '{' at byte 8, got \"[\""},
      {safetensors_bytes(" {}", 0), "expected '{' at byte 8, got \" \""},
      {safetensors_bytes("\xEF\xBB\xBF{}", 0), "expected '{' at byte 8"},
      {safetensors_bytes("{", 0), "m.safetensors: header: expected JSON, got an error at byte 1"},
      {safetensors_bytes("{}x", 0), "error at byte 2"},
      {safetensors_bytes(std::string("{}\0", 3), 0), "got a NUL at byte 2"},
      {safetensors_bytes("{\"\xff\":1}", 0), "invalid string"},
      {safetensors_bytes(R"({"a":[[[[[]]]]]})", 0), "at most 4 levels of nesting"},
      {safetensors_bytes("{}", 1),
       "expected the file to end at byte 10 with its last tensor, got 11"},
      {safetensors_bytes(R"({"__metadata__":[]})", 0),
       "expected __metadata__ to be an object, got array"},
      {safetensors_bytes(R"({"__metadata__":{"a":1}})", 0),
       "expected __metadata__[\"a\"] to be a string, got number"},
      {safetensors_bytes(R"({"__metadata__":{},"__metadata__":{}})", 0), "second \"__metadata__\""},
  };
  for (const auto& row : table) expect_refused(row.bytes, row.words);
}

/// One tensor "w" with these members over eight bytes of data.
std::string with_entry(const std::string& members) {
  return safetensors_bytes("{\"w\":{" + members + "}}", 8);
}

TEST(SafetensorsHostile, EntriesAreRefused) {
  const struct {
    std::string bytes;
    const char* words;
  } table[] = {
      {safetensors_bytes(R"({"w":1})", 0), "tensor \"w\": expected an object of dtype, shape"},
      {with_entry(R"("dtype":"F32","shape":[2])"),
       "expected an object of dtype, shape and data_offsets"},
      {with_entry(R"("dtype":"F32","shape":[2],"data_offsets":[0,8],"x":1)"),
       "expected an object of"},
      {with_entry(R"("dtype":"F32","shape":[2],"shape":[2],"data_offsets":[0,8])"),
       "second \"shape\""},
      {with_entry(R"("dtype":"F4","shape":[2],"data_offsets":[0,8])"),
       "expected a known dtype, got \"F4\""},
      {with_entry(R"("dtype":"f32","shape":[2],"data_offsets":[0,8])"), "got \"f32\""},
      {with_entry(R"("dtype":7,"shape":[2],"data_offsets":[0,8])"),
       "dtype to be a string, got number"},
      {with_entry(R"("dtype":"F32","shape":2,"data_offsets":[0,8])"),
       "shape to be a list, got number"},
      {with_entry(R"("dtype":"F32","shape":[-2],"data_offsets":[0,8])"),
       "integers >= 0, got \"-2\""},
      {with_entry(R"("dtype":"F32","shape":[2.0],"data_offsets":[0,8])"),
       "integers >= 0, got \"2.0\""},
      {with_entry(R"("dtype":"F32","shape":["2"],"data_offsets":[0,8])"), "integers >= 0"},
      {with_entry(R"("dtype":"F32","shape":[18446744073709551615],"data_offsets":[0,8])"),
       "integers >= 0, got \"18446744073709551615\""},
      {with_entry(R"("dtype":"F32","shape":[4611686018427387904],"data_offsets":[0,8])"),
       "less than 2^63 bytes"},
      {with_entry(R"("dtype":"U8","shape":[4294967296,4294967296],"data_offsets":[0,0])"),
       "less than 2^63 bytes"},
      {with_entry(R"("dtype":"U8","shape":[0,4294967296,4294967296],"data_offsets":[0,0])"),
       "less than 2^63 bytes"},
      {with_entry(R"("dtype":"F32","shape":[2],"data_offsets":[8,0])"),
       "0 <= begin <= end, got \"[8,0]\""},
      {with_entry(R"("dtype":"F32","shape":[2],"data_offsets":[-8,0])"), "0 <= begin <= end"},
      {with_entry(R"("dtype":"F32","shape":[2],"data_offsets":[0.0,8.0])"), "0 <= begin <= end"},
      {with_entry(R"("dtype":"F32","shape":[2],"data_offsets":[0])"), "0 <= begin <= end"},
      {with_entry(R"("dtype":"F32","shape":[2],"data_offsets":[0,8,8])"), "0 <= begin <= end"},
      {with_entry(R"("dtype":"F32","shape":[2],"data_offsets":{"0":0})"), "0 <= begin <= end"},
      {with_entry(R"("dtype":"F32","shape":[2],"data_offsets":[0,18446744073709551615])"),
       "0 <= begin <= end"},
      {with_entry(R"("dtype":"F32","shape":[3],"data_offsets":[0,12])"),
       "data_offsets inside 8 bytes of data, got [0, 12] (truncated file?)"},
      {with_entry(R"("dtype":"F32","shape":[3],"data_offsets":[0,8])"),
       "expected 12 bytes for its dtype and shape, got offsets of 8"},
      {with_entry(R"("dtype":"F32","shape":[0],"data_offsets":[0,8])"), "expected 0 bytes"},
      {with_entry(R"("dtype":"F32","shape":[1],"data_offsets":[4,8])"),
       "expected its data to begin at byte 62, got byte 66 (a hole before it)"},
      {with_entry(R"("dtype":"F32","shape":[1],"data_offsets":[0,4])"), "got 70 bytes"},
  };
  for (const auto& row : table) expect_refused(row.bytes, row.words);
}

TEST(SafetensorsHostile, PairsOfTensorsAreRefused) {
  const auto pair = [](const char* first, const char* second, const char* name = "b") {
    return safetensors_bytes(std::string(R"({"a":{"dtype":"U8","shape":[4],"data_offsets":)") +
                                 first + "},\"" + name +
                                 R"(":{"dtype":"U8","shape":[4],"data_offsets":)" + second + "}}",
                             8);
  };
  const std::string any_order = pair("[4,8]", "[0,4]");
  EXPECT_NO_THROW(parse_safetensors(std::as_bytes(std::span(any_order)), "m"));
  expect_refused(pair("[0,4]", "[0,4]"), "(it overlaps another tensor)");
  expect_refused(pair("[0,4]", "[2,6]"), "tensor \"b\": expected its data to begin at byte ");
  expect_refused(pair("[0,4]", "[4,8]", "a"), "expected each key once, got a second \"a\"");
}

TEST(SafetensorsHostile, NamesInMessagesArePrintableAndShort) {
  const std::string bytes =
      safetensors_bytes("{\"" + std::string(100000, 'n') + "\u00e9\":{\"dtype\":\"F32\"}}", 0);
  try {
    parse_safetensors(std::as_bytes(std::span(bytes)), "m");
    FAIL() << "threw nothing";
  } catch (const FormatError& error) {
    EXPECT_LT(std::string(error.what()).size(), 600u);
  }
}

TEST(SafetensorsHostile, EveryTruncationOfAFileIsRefused) {
  const std::string whole =
      safetensors_bytes(R"({"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})", 8);
  EXPECT_NO_THROW(parse_safetensors(std::as_bytes(std::span(whole)), "m"));
  for (size_t size = 0; size < whole.size(); ++size) {
    const std::string cut = whole.substr(0, size);
    EXPECT_THROW(parse_safetensors(std::as_bytes(std::span(cut)), "m"), FormatError) << size;
  }
}

TEST(SafetensorsHostile, FilesNameTheirPath) {
  TempDir dir;
  EXPECT_ERROR(SafetensorsFile(dir.write("x.safetensors", "")), FormatError, "bad-safetensors",
               (dir / "x.safetensors").string() + ": expected 8 bytes");
  EXPECT_ERROR(SafetensorsFile(dir / "none"), IoError, "unreadable-file", "none");
}

}  // namespace
}  // namespace lockstep::io
