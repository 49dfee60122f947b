// The products of a model's shapes, as ops::linear and ops::experts compute them, under the probe
// of ops/row_independence.h.
// SPDX-License-Identifier: Apache-2.0
#include "cli/row_probe.h"

#include <algorithm>

#include "cli/noise.h"
#include "model/weights.h"
#include "ops/library_product.h"  // kLibraryRows
#include "ops/linear.h"
#include "ops/moe.h"
#include "ops/token_logprob.h"
#include "tensor/aten.h"
#include "train/hf_checkpoint.h"

namespace lockstep::cli {
namespace {

// Our own products compute any number of rows in blocks of fewer than a hundred.
constexpr int64_t kPanelRows = 512;

/// With how many rows a probe of a weight's products compares.
int64_t rows_for(ops::PackedForm form) {
  return form == ops::PackedForm::kLibrary ? ops::kLibraryRows : kPanelRows;
}

void add_shape(std::vector<ProductShape>& shapes, ProductShape shape) {
  const auto same = [&](const ProductShape& other) {
    return other.inputs == shape.inputs && other.outputs == shape.outputs &&
           other.is_experts == shape.is_experts;
  };
  if (std::none_of(shapes.begin(), shapes.end(), same)) shapes.push_back(std::move(shape));
}

/// The head is computed in blocks of the vocabulary, the last one smaller.
void add_head(std::vector<ProductShape>& shapes, const model::Parameter& parameter) {
  const int64_t vocabulary = parameter.shape[0], inputs = parameter.shape[1];
  const int64_t block = std::min(vocabulary, ops::kVocabularyBlock), rest = vocabulary % block;
  add_shape(shapes, {.inputs = inputs, .outputs = block, .example = parameter.id});
  if (rest)
    add_shape(shapes,
              {.inputs = inputs, .outputs = rest, .example = parameter.id + " (last block)"});
}

RowProbe probe_experts(const ProductShape& shape, at::ScalarType dtype) {
  constexpr int64_t kExperts = 4, kChosen = 2;
  const auto gate_up =
      ops::ExpertBank::packed(noise({kExperts, 2 * shape.outputs, shape.inputs}, dtype, 2));
  const auto down =
      ops::ExpertBank::packed(noise({kExperts, shape.inputs, shape.outputs}, dtype, 3));
  const int64_t tokens = rows_for(gate_up.experts.front().form);
  const at::Tensor x = noise({tokens, shape.inputs}, dtype, 1);
  const ops::Routing routing =
      ops::route(noise({tokens, kExperts}, dtype, 4), kChosen, /*renormalize=*/true);
  return {tokens, ops::dependent_rows(tokens, [&](int64_t first, int64_t rows) {
            const ops::Routing part{routing.weights.narrow(0, first, rows).contiguous(),
                                    routing.experts.narrow(0, first, rows).contiguous()};
            return ops::experts(x.narrow(0, first, rows).contiguous(), part, gate_up, down);
          })};
}

}  // namespace

std::vector<ProductShape> product_shapes(const std::filesystem::path& model) {
  model::ModelConfig config = train::load_config(model);
  const train::CheckpointSource source(model);
  if (train::has_own_head(config, source, config.dtype)) config.tie_word_embeddings = false;
  std::vector<ProductShape> shapes;
  for (const model::Parameter& parameter :
       model::describe_parameters(config, model::detect_form(config, source))) {
    const bool is_head = parameter.id == (config.tie_word_embeddings ? "embedding" : "head");
    if (is_head)
      add_head(shapes, parameter);
    else if (parameter.is_expert && parameter.shape[1] == 2 * config.moe_intermediate_size)
      add_shape(shapes, {.inputs = config.hidden_size,
                         .outputs = config.moe_intermediate_size,
                         .is_experts = true,
                         .example = parameter.id});
    else if (parameter.shape.size() == 2 && parameter.id != "embedding")
      add_shape(
          shapes,
          {.inputs = parameter.shape[1], .outputs = parameter.shape[0], .example = parameter.id});
  }
  return shapes;
}

const char* product_kernel(const ProductShape& shape, model::WeightDtype dtype) {
  ops::LinearWeight weight(at::zeros({shape.outputs, shape.inputs},
                                     at::TensorOptions().dtype(model::scalar_type(dtype))));
  weight.pack();
  return ops::kernel_name(weight.form);
}

RowProbe probe_rows(const ProductShape& shape, model::WeightDtype dtype) {
  const at::NoGradGuard no_grad;
  const at::ScalarType type = model::scalar_type(dtype);
  if (shape.is_experts) return probe_experts(shape, type);
  ops::LinearWeight weight(noise({shape.outputs, shape.inputs}, type, 2));
  weight.pack();
  const int64_t rows = rows_for(weight.form);
  const at::Tensor x = noise({rows, shape.inputs}, type, 1);
  return {rows, ops::dependent_rows(rows, [&](int64_t first, int64_t count) {
            return ops::linear(x.narrow(0, first, count), weight);
          })};
}

}  // namespace lockstep::cli
