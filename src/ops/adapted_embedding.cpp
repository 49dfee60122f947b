// SPDX-License-Identifier: Apache-2.0
#include "ops/adapted_embedding.h"

#include <utility>
#include <vector>

#include "base/check.h"
#include "base/op_timer.h"
#include "ops/kernel_data.h"
#include "ops/low_rank_rows.h"
#include "tensor/aten.h"
#include "tensor/autograd.h"
#include "tensor/parallel.h"

namespace lockstep::ops {
namespace {

void check_term(const at::Tensor& rows, const EmbeddingTerm& term) {
  const at::Tensor &a = term.pair->a, &b = term.pair->b.weight;
  const bool is_right = rows.dim() == 2 && a.dim() == 2 && b.dim() == 2 &&
                        b.size(0) == rows.size(1) && b.size(1) == a.size(0) &&
                        a.scalar_type() == at::kFloat && b.scalar_type() == at::kFloat;
  if (!is_right)
    fail<ShapeError>("bad-shape", "adapted_embedding",
                     "expected rows [T, D], A [R, V] and B [D, R] float32, got {}, {}, {}",
                     shape_text(rows), shape_text(a), shape_text(b));
}

/// What the backward keeps of the forward, of each term.
struct SavedTerms {
  std::vector<LowRankRows> parts;
  /// [N] int64
  std::vector<at::Tensor> ids;
  /// scale A[:, id], [N, R]
  std::vector<at::Tensor> low;
};

/// d/dA [R, V]: the columns of equal ids are added in the order of the tokens.
at::Tensor a_gradient(const at::Tensor& a, const at::Tensor& ids, const at::Tensor& dlow) {
  const at::Tensor da = at::zeros_like(a.detach());
  const int64_t rank = a.size(0), vocabulary = a.size(1), count = ids.numel();
  const int64_t* const id = ids.const_data_ptr<int64_t>();
  const float* const from = dlow.const_data_ptr<float>();
  float* const to = da.mutable_data_ptr<float>();
  parallel_for(0, rank, 1, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r)
      for (int64_t i = 0; i < count; ++i) to[r * vocabulary + id[i]] += from[i * rank + r];
  });
  return da;
}

std::vector<at::Tensor> backward(const SavedTerms& saved, const at::Tensor& dy) {
  std::vector<at::Tensor> gradients;
  const std::vector<at::Tensor> dlow = low_gradients(dy, saved.parts);
  for (size_t i = 0; i < saved.parts.size(); ++i) {
    const LowRankRows& part = saved.parts[i];
    const at::Tensor db = at::zeros_like(part.b.detach());
    backward_products({{db, rows_of_part(dy, part).t(), saved.low[i]}});
    gradients.push_back(a_gradient(part.a, saved.ids[i], dlow[i]));
    gradients.push_back(db);
  }
  return gradients;
}

}  // namespace

at::Tensor adapted_embedding(const at::Tensor& ids,
                             const at::Tensor& rows,
                             std::span<const EmbeddingTerm> terms) {
  if (terms.empty()) return rows;
  const OpTimer timer("adapted_embedding");
  std::vector<at::Tensor> inputs;
  SavedTerms saved;
  const at::Tensor y = rows.detach();
  {
    const at::NoGradGuard no_grad;
    for (const EmbeddingTerm& term : terms) {
      check_term(rows, term);
      inputs.push_back(term.pair->a);
      inputs.push_back(term.pair->b.weight);
      const at::Tensor own = term.rows.defined() ? ids.index_select(0, term.rows) : ids;
      LowRankRows part{.rows = term.rows,
                       .a = term.pair->a,
                       .b = term.pair->b.weight,
                       .scale = term.pair->scale};
      part.runs.push_back({.b = &term.pair->b, .count = own.numel()});
      saved.parts.push_back(std::move(part));
      saved.ids.push_back(own.contiguous());
      saved.low.push_back(
          term.pair->a.detach().index_select(1, own).t().contiguous().mul_(term.pair->scale));
    }
    check_apart(saved.parts, "adapted_embedding");
    add_outputs(y, saved.low, saved.parts);
  }
  if (!wants_gradient(inputs)) return y;
  return attach_backward(inputs, {y},
                         [saved = std::move(saved)](const auto& dy, const auto& needs) {
                           if (!dy[0].defined()) return std::vector<at::Tensor>(needs.size());
                           return backward(saved, dy[0]);
                         })[0];
}

}  // namespace lockstep::ops
