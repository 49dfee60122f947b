// SPDX-License-Identifier: Apache-2.0
#include "io/event_file.h"

#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include <gtest/gtest.h>

#include "io/crc32c.h"
#include "tests/support/expect_error.h"
#include "tests/support/temp_dir.h"

namespace lockstep::io {
namespace {

using lockstep::testing::slurp;
using lockstep::testing::TempDir;

TEST(Crc32c, GivesThePublishedValues) {
  // RFC 3720, appendix B.4, and the check value of the CRC catalogue.
  EXPECT_EQ(crc32c(std::string(32, '\0')), 0x8a9136aau);
  EXPECT_EQ(crc32c(std::string(32, '\xff')), 0x62a8ab43u);
  std::string ascending;
  for (char c = 0; c < 32; ++c) ascending += c;
  EXPECT_EQ(crc32c(ascending), 0x46dd794eu);
  EXPECT_EQ(crc32c("123456789"), 0xe3069283u);
  EXPECT_EQ(crc32c(""), 0u);
}

template <class T>
T number_at(const std::string& bytes, size_t at) {
  T value;
  std::memcpy(&value, bytes.data() + at, sizeof(T));
  return value;
}

/// The payloads of a TFRecord file, their checksums checked.
std::vector<std::string> records_of(const std::string& bytes) {
  std::vector<std::string> records;
  for (size_t at = 0; at < bytes.size();) {
    const auto size = number_at<uint64_t>(bytes, at);
    EXPECT_EQ(number_at<uint32_t>(bytes, at + 8), masked_crc32c(bytes.substr(at, 8)));
    records.push_back(bytes.substr(at + 12, size));
    EXPECT_EQ(number_at<uint32_t>(bytes, at + 12 + size), masked_crc32c(records.back()));
    at += 12 + size + 4;
  }
  return records;
}

std::string only_file(const TempDir& dir) {
  const auto names = dir.names();
  EXPECT_EQ(names.size(), 1u);
  EXPECT_EQ(names.begin()->rfind("events.out.tfevents.", 0), 0u) << *names.begin();
  return slurp(dir / *names.begin());
}

TEST(EventFile, HoldsAVersionAndOneRecordForEachScalar) {
  TempDir dir;
  {
    EventFile events(dir.path());
    events.add_scalar("train/loss", 0.5, 1);
    events.add_scalar("train/loss", 0.25, 300);
  }
  const auto records = records_of(only_file(dir));
  ASSERT_EQ(records.size(), 3u);
  // Wall time (key 0x09 and eight bytes), then what follows from event.proto by hand.
  EXPECT_EQ(records[0].substr(9),
            "\x1a\x0d"
            "brain.Event:2");
  EXPECT_EQ(records[1].substr(9), std::string("\x10\x01\x2a\x13\x0a\x11\x0a\x0a"
                                              "train/loss"
                                              "\x15\x00\x00\x00\x3f",
                                              23));
  EXPECT_EQ(records[2].substr(9), std::string("\x10\xac\x02\x2a\x13\x0a\x11\x0a\x0a"
                                              "train/loss"
                                              "\x15\x00\x00\x80\x3e",
                                              24));
  EXPECT_GT(number_at<double>(records[1], 1), 1.6e9);
}

TEST(EventFile, ARestartIsASessionLog) {
  TempDir dir;
  {
    EventFile events(dir.path());
    events.restart_at(7);
  }
  const auto records = records_of(only_file(dir));
  ASSERT_EQ(records.size(), 2u);
  // Event.step 7, Event.session_log { status: START }.
  EXPECT_EQ(records[1].substr(9), "\x10\x07\x3a\x02\x08\x01");
}

TEST(EventFile, IsThereAfterFlushAndTakesAnyNumber) {
  TempDir dir;
  EventFile events(dir / "runs/tb");
  for (const double value : {std::nan(""), std::numeric_limits<double>::infinity(), -1e300, 1e-300})
    events.add_scalar("x", value, -1);
  events.flush();
  events.flush();
  const auto names = std::filesystem::directory_iterator(dir / "runs/tb");
  EXPECT_EQ(records_of(slurp(names->path())).size(), 5u);
}

TEST(EventFile, TwoInOneFolderDoNotCollide) {
  TempDir dir;
  EventFile first(dir.path());
  EventFile second(dir.path());
  EXPECT_EQ(dir.names().size(), 2u);
}

TEST(EventFile, NamesAFolderThatCannotBe) {
  TempDir dir;
  dir.write("file", "");
  EXPECT_ERROR(EventFile(dir / "file/tb"), IoError, "unwritable-output",
               "file/tb: expected to make");
}

}  // namespace
}  // namespace lockstep::io
