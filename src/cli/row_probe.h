// Does a row of a matrix product depend on how many rows are computed with it? Exactness rests on
// "no".
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "model/config.h"

namespace lockstep::cli {

/// One kind of product of a model: x [rows, inputs] by a weight [outputs, inputs], or by the
/// experts of a layer.
struct ProductShape {
  int64_t inputs = 0, outputs = 0;
  /// `outputs` is then the width of one expert.
  bool is_experts = false;
  /// The first parameter of this shape.
  std::string example;
};

/// The different products of the checkpoint's text model, as the program computes them.
/// Throws ConfigError, FormatError and IoError for a checkpoint that cannot be read.
std::vector<ProductShape> product_shapes(const std::filesystem::path& model);

/// The kernel that computes them on this machine: "Highway panels", "oneDNN packed".
const char* product_kernel(const ProductShape& shape, model::WeightDtype dtype);

/// The row counts of 1, 2, 15, 16 and 64 whose first or last rows differ in a bit from the same
/// rows among 512.
std::vector<int64_t> dependent_row_counts(const ProductShape& shape, model::WeightDtype dtype);

}  // namespace lockstep::cli
