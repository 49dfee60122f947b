// Runs of the program that must be refused: what is expected of them, and what they are given.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/e2e/program_files.h"

namespace lockstep::testing {
namespace fs = std::filesystem;

inline constexpr int kBadInput = 2, kFailed = 1, kInterrupted = 130, kTerminated = 143;

/// The line that begins as an error does; fails unless there is exactly one and it is the last.
inline std::string error_line(const std::string& err) {
  const size_t begin = err.find("lockstep: error[");
  if (begin == std::string::npos) {
    ADD_FAILURE() << "no error in: " << err;
    return "";
  }
  EXPECT_TRUE(begin == 0 || err[begin - 1] == '\n') << err;
  EXPECT_EQ(err.find('\n', begin), err.size() - 1) << "more than one line: " << err;
  return err.substr(begin);
}

/// What is expected of one run that fails.
struct Refusal {
  /// "": any.
  std::string code;
  /// Part of the line.
  std::string words;
  int exit_code = kBadInput;
  /// Another part of it.
  std::string where = {};
};

/// Runs with --quiet, so that the error is all there is on stderr, and compares the output's folder
/// before and after.
inline void expect_refused(const Arguments& arguments,
                           const fs::path& outputs,
                           const Refusal& refusal,
                           const ProgramWorld& world = {}) {
  std::string shown;
  for (const auto& argument : arguments) shown += argument.substr(0, 200) + " ";
  SCOPED_TRACE(shown);
  const auto before = tree_of(outputs);
  const ProgramResult result = run_program(arguments + Arguments{"--quiet"}, world);
  EXPECT_EQ(result.exit_code, refusal.exit_code) << result.err;
  EXPECT_THAT(result.err,
              ::testing::StartsWith("lockstep: error[" +
                                    (refusal.code.empty() ? "" : refusal.code + "]: ")));
  EXPECT_THAT(error_line(result.err), ::testing::AllOf(::testing::HasSubstr(refusal.words),
                                                       ::testing::HasSubstr(refusal.where)));
  const auto after = tree_of(outputs);
  EXPECT_TRUE(before == after) << "left behind: " << ::testing::PrintToString([&] {
    std::vector<std::string> names;
    for (const auto& [name, bytes] : after)
      if (!before.count(name) || before.at(name) != bytes) names.push_back(name);
    return names;
  }());
}

/// A model, rows of each kind and an empty folder for outputs. The model is made once.
class BadInput : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    shared_ = new TempDir;
    new_model(*shared_, "model", {"--like", "qwen3_5"});
    new_model(*shared_, "moe", {"--like", "qwen3_moe"});
  }
  static void TearDownTestSuite() {
    delete shared_;
    shared_ = nullptr;
  }

  BadInput() {
    fs::create_directories(outputs);
    ids = write_rows(inputs, "ids.jsonl", id_rows({5, 9}, 2048, 1));
    chats = write_rows(inputs, "chats.jsonl", sum_rows(4));
    batch =
        write_rows(inputs, "batch.jsonl",
                   {{{"input_ids", {5, 6, 7}}, {"completion_mask", {0, 1, 1}}, {"advantage", 1}}});
  }

  static std::string model() { return (*shared_ / "model").string(); }
  std::string out(const std::string& name = "out") const { return (outputs / name).string(); }

  Arguments score(const std::string& model, const std::string& rows) const {
    return {"score", "--model", model, "--dataset", rows, "--output", out()};
  }
  Arguments infer(const std::string& model, const std::string& rows) const {
    return {"infer", "--model",          model, "--dataset", rows, "--result_path",
            out(),   "--max_new_tokens", "2"};
  }
  Arguments grad(const std::string& model, const std::string& rows) const {
    return {"grad", "--model", model, "--batch", rows, "--output", out()};
  }
  Arguments sft(const std::string& model, const std::string& rows) const {
    return {"sft", "--model",      model, "--tuner_type", "full", "--dataset",
            rows,  "--output_dir", out(), "--max_steps",  "2"};
  }
  Arguments grpo(const std::string& model, const std::string& rows) const {
    return {"grpo", "--model",           model,    "--tuner_type",
            "full", "--dataset",         rows,     "--output_dir",
            out(),  "--reward_funcs",    "format", "--max_steps",
            "2",    "--num_generations", "2",      "--max_completion_length",
            "4"};
  }
  Arguments exported(const std::string& model) const {
    return {"export", "--model", model, "--output_dir", out()};
  }
  Arguments tokenize(const std::string& rows) const {
    return {"tokenize", "--model", model(), "--dataset", rows, "--output", out()};
  }
  /// Every command that reads a whole model, with rows that are good.
  std::vector<Arguments> all_on(const std::string& model) const {
    return {score(model, ids), infer(model, ids),  grad(model, batch),
            sft(model, chats), grpo(model, chats), exported(model)};
  }

  /// A copy of the model to be damaged.
  fs::path damaged(const std::string& from = "model") {
    const fs::path copy = inputs / fmt::format("damaged-{}", count_++);
    fs::copy(*shared_ / from, copy);
    return copy;
  }
  std::string rows_of(const std::string& text) {
    return inputs.write(fmt::format("rows-{}.jsonl", count_++), text).string();
  }

  static inline TempDir* shared_ = nullptr;
  TempDir inputs, output_folder;
  fs::path outputs = output_folder / "outputs";
  std::string ids, chats, batch;
  int count_ = 0;
};

/// Replaces the file's bytes.
inline void write_text(const fs::path& path, const std::string& text) {
  std::ofstream(path, std::ios::binary | std::ios::trunc) << text;
}

}  // namespace lockstep::testing
