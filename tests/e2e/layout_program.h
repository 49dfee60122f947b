// What tests of lockstep layout share: a model, its files, and the commands.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <ATen/CPUGeneratorImpl.h>

#include "base/file.h"
#include "io/safetensors.h"
#include "tensor/aten.h"
#include "tests/support/run_program.h"
#include "tests/support/test_seed.h"

namespace lockstep::testing {

namespace fs = std::filesystem;
using Tensors = std::map<std::string, at::Tensor>;

inline Tensors read(const fs::path& path) {
  const io::SafetensorsFile file(path);
  Tensors tensors;
  for (const auto& entry : file.entries()) tensors[entry.name] = file.tensor(entry).clone();
  return tensors;
}

inline void write(const fs::path& path, const Tensors& tensors) {
  std::vector<io::NamedTensor> list;
  for (const at::ScalarType wide : {at::kFloat, at::kBFloat16})
    for (const auto& [name, tensor] : tensors)
      if (tensor.scalar_type() == wide) list.push_back({name, tensor});
  io::write_safetensors(path, list);
}

inline std::string rank_file(int64_t rank, int64_t ranks) {
  return fmt::format("rank-{:05}-of-{:05}.safetensors", rank, ranks);
}

/// A checkpoint whose every tensor is unlike every other, in sizes that meet: F = D, so that an
/// expert of two ranks keeps its shape transposed.
inline fs::path make_checkpoint(const fs::path& folder) {
  const fs::path model = folder / "model";
  const auto made =
      run_program({"new-model", "--like", "qwen3_5_moe", "--nested", "true", "--torch_dtype",
                   "bfloat16", "--output_dir", model.string(), "--quiet", "true"});
  EXPECT_EQ(made.exit_code, 0) << made.err;
  Tensors tensors = read(model / "model.safetensors");
  at::Generator generator = at::detail::createCPUGenerator(test_seed(7));
  for (auto& [name, tensor] : tensors) {
    const at::Tensor noise =
        at::randn(tensor.sizes(), generator, at::TensorOptions().dtype(at::kFloat));
    // The delta rule's norm keeps values that survive w - 1.
    tensor =
        (name.ends_with("linear_attn.norm.weight") ? noise.mul(4).round().div(8).add(1) : noise)
            .to(tensor.scalar_type());
  }
  write(model / "model.safetensors", tensors);
  return model;
}

/// Without a `model`, what the folder remembers has to do.
inline ProgramResult convert(const std::string& from,
                             const std::string& to,
                             const fs::path& input,
                             const fs::path& output,
                             const fs::path& model = {},
                             const std::vector<std::string>& more = {}) {
  std::vector<std::string> arguments{
      "layout",  "convert", "--from",       from,           "--to",
      to,        "--input", input.string(), "--output_dir", output.string(),
      "--quiet", "true",    "--overwrite",  "true"};
  if (!model.empty()) arguments.insert(arguments.end(), {"--model", model.string()});
  arguments.insert(arguments.end(), more.begin(), more.end());
  return run_program(arguments);
}

inline ProgramResult verify(const std::string& layout,
                            const fs::path& input,
                            const fs::path& model) {
  return run_program({"layout", "verify", "--layout", layout, "--input", input.string(), "--model",
                      model.string()});
}

/// Names and bytes of the files of a folder.
inline std::map<std::string, std::string> contents(const fs::path& folder) {
  std::map<std::string, std::string> files;
  for (const auto& entry : fs::directory_iterator(folder))
    files[entry.path().filename().string()] = read_file(entry.path());
  return files;
}

/// One model for all tests of this program.
class LayoutCommand : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    folder_ = std::make_unique<TempDir>();
    model_ = make_checkpoint(*folder_ / "");
  }
  static void TearDownTestSuite() { folder_.reset(); }

  static inline std::unique_ptr<TempDir> folder_;
  static inline fs::path model_;
};

}  // namespace lockstep::testing
