// Do the rows of a model's matrix products depend on one another? Exactness rests on "no".
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "model/config.h"
#include "ops/row_independence.h"

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

/// What a probe of one shape found.
struct RowProbe {
  /// The most rows that were computed together.
  int64_t rows = 0;
  std::vector<ops::RowCase> dependent;
};

/// Probes a shape with random values. With oneDNN's products up to as many rows as they ever get
/// (ops::kLibraryRows), which takes about 6 * 2 * 4,096 * inputs * outputs operations: a tenth of a
/// second on two cores with bfloat16 instructions for the largest shape of Qwen3-0.6B.
RowProbe probe_rows(const ProductShape& shape, model::WeightDtype dtype);

}  // namespace lockstep::cli
