// Outputs that would destroy an input are found through links, and by what is not there yet.
// SPDX-License-Identifier: Apache-2.0
#include "base/output_path.h"

#include <gtest/gtest.h>

#include "base/file.h"
#include "tests/support/expect_error.h"
#include "tests/support/temp_dir.h"

namespace lockstep {
namespace {

namespace fs = std::filesystem;
using lockstep::testing::TempDir;

TEST(CheckOutputPath, RefusesWhatIsThere) {
  TempDir dir;
  EXPECT_NO_THROW(check_output_path(dir / "new", false, "--output_dir"));
  EXPECT_NO_THROW(check_output_path(dir.path(), false, "--output_dir"));  // an empty folder
  EXPECT_NO_THROW(check_output_path("/dev/null", false, "--output"));
  // Wherever the shell has put it.
  EXPECT_NO_THROW(check_output_path("/dev/stdout", false, "--output"));
  const auto file = dir.write("file", "");
  EXPECT_NO_THROW(check_output_path(file, true, "--output"));
  EXPECT_ERROR(check_output_path(file, false, "--output"), ConfigError, "output-exists",
               "--output: expected a path that is not there yet, got " + file.string() +
                   " (hint: --overwrite true)");
  EXPECT_ERROR(check_output_path(dir.path(), false, "--output_dir"), ConfigError, "output-exists",
               dir.path().string());
}

/// A model in run/checkpoint-1, data/rows.jsonl, and links to them.
class CheckOutputApart : public ::testing::Test {
 protected:
  CheckOutputApart() {
    fs::create_directories(dir_ / "run/checkpoint-1");
    fs::create_directories(dir_ / "data");
    fs::create_directories(dir_ / "blobs");
    dir_.write("run/checkpoint-1/config.json", "{}");
    dir_.write("data/rows.jsonl", "{}");
    dir_.write("blobs/1234", "weights");
    fs::create_symlink("../../blobs/1234", dir_ / "run/checkpoint-1/model.safetensors");
    fs::create_directory_symlink("checkpoint-1", dir_ / "run/last");
    fs::create_directory_symlink(dir_ / "run", dir_ / "link");
    fs::create_directory_symlink("run/checkpoint-1/made-later", dir_ / "dangling");
    fs::create_hard_link(dir_ / "data/rows.jsonl", dir_ / "data/same.jsonl");
  }

  void expect_refused(const std::string& output, const std::string& how) const {
    EXPECT_ERROR(check_output_apart(dir_ / output, "--output_dir", inputs_), ConfigError,
                 "output-is-input", "--output_dir: expected an output apart from every input");
    EXPECT_ERROR(check_output_apart(dir_ / output, "--output_dir", inputs_), ConfigError,
                 "output-is-input", how);
  }

  TempDir dir_;
  std::vector<InputPath> inputs_{
      {"--model", dir_ / "run/last"}, {"--dataset", dir_ / "data/rows.jsonl"}, {"--ref_model", ""}};
};

TEST_F(CheckOutputApart, WhatIsHoldsOrLiesInAnInputIsRefused) {
  for (const char* output : {"run/checkpoint-1", "run/last", "run/last/", "link/last",
                             "run/../run/checkpoint-1/.", "link/../run/last"})
    expect_refused(output, "which is --model");
  for (const char* output : {"run", "link", "link/", "run/.", "", "missing/../run"})
    expect_refused(output, "which holds --model");
  for (const char* output :
       {"run/last/out", "run/checkpoint-1/a/b/c", "link/last/../checkpoint-1/out", "dangling"})
    expect_refused(output, "which lies in --model");
  for (const char* output : {"data/rows.jsonl", "data/same.jsonl", "data/../data/rows.jsonl"})
    expect_refused(output, "which is --dataset");
  expect_refused("data", "which holds --dataset");
}

TEST_F(CheckOutputApart, WhereTheFilesOfAnInputLieIsRefusedToo) {
  expect_refused("blobs/1234", "is or holds a file of --model");
  expect_refused("blobs", "is or holds a file of --model");
  EXPECT_NO_THROW(check_output_apart(dir_ / "blobs/5678", "--output", inputs_));
}

TEST_F(CheckOutputApart, NeighboursPass) {
  for (const char* output :
       {"run/checkpoint-10", "run/checkpoint-1.jsonl", "run2", "data/out.jsonl", "other/run/last",
        "run/checkpoint", "data/rows.jsonl2"})
    EXPECT_NO_THROW(check_output_apart(dir_ / output, "--output_dir", inputs_)) << output;
  inputs_ = {{"--dataset", "/dev/null"}};
  EXPECT_NO_THROW(check_output_apart("/dev/null", "--output", inputs_));
}

TEST_F(CheckOutputApart, ALinkInTheInputsPlaceIsFollowedWhereverItStands) {
  // The input's own path leads through links, and the output is spelled without.
  inputs_ = {{"--model", dir_ / "link/last"}};
  expect_refused("run/checkpoint-1", "which is --model");
  // A relative output, seen from here.
  const fs::path before = fs::current_path();
  fs::current_path(dir_ / "run/checkpoint-1");
  EXPECT_ERROR(check_output_apart("out", "--output_dir", inputs_), ConfigError, "output-is-input",
               "which lies in --model");
  EXPECT_ERROR(check_output_apart("..", "--output_dir", inputs_), ConfigError, "output-is-input",
               "which holds --model");
  fs::current_path(before);
}

TEST_F(CheckOutputApart, ACircleOfLinksEnds) {
  fs::create_directory_symlink("b", dir_ / "a");
  fs::create_directory_symlink("a", dir_ / "b");
  EXPECT_NO_THROW(check_output_apart(dir_ / "a/out", "--output_dir", inputs_));
}

}  // namespace
}  // namespace lockstep
