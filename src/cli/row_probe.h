// Probes whether the rows of a model's matrix products depend on one another. For exactness they
// must not.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "model/config.h"
#include "ops/row_independence.h"

namespace lockstep::cli {

/// A kind of product that a model has: x [rows, inputs] with a weight [outputs, inputs], or with
/// the experts of a layer.
struct ProductShape {
  int64_t inputs = 0, outputs = 0;
  /// If it has experts, `outputs` is the width of one of them.
  bool is_experts = false;
  /// The first parameter that has this shape.
  std::string example;
};

/// The different kinds of products of the checkpoint's text model, as the program computes them.
/// Throws ConfigError, FormatError and IoError for a checkpoint that cannot be read.
std::vector<ProductShape> product_shapes(const std::filesystem::path& model);

/// The kernel that computes such products on this machine: "Highway panels" or "oneDNN packed".
const char* product_kernel(const ProductShape& shape, model::WeightDtype dtype);

/// What a probe of one shape found.
struct RowProbe {
  /// How many rows were computed together at most.
  int64_t rows = 0;
  std::vector<ops::RowCase> dependent;
};

/// Probes a shape with random values. For oneDNN's products with up to as many rows as they ever
/// get (ops::kLibraryRows), which takes about 6 * 2 * 4,096 * inputs * outputs operations: a tenth
/// of a second on two cores with bfloat16 instructions for the largest shape of Qwen3-0.6B.
RowProbe probe_rows(const ProductShape& shape, model::WeightDtype dtype);

}  // namespace lockstep::cli
