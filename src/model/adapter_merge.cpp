// SPDX-License-Identifier: Apache-2.0
#include "model/adapter_merge.h"

#include <algorithm>

#include "base/check.h"
#include "tensor/aten.h"

namespace lockstep::model {
namespace {

/// Rows that are summed in float64 at once, so that a large tensor is never held in it whole.
constexpr int64_t kBlockRows = 1024;
constexpr const char* kHead = "lm_head.weight";

}  // namespace

MergedWeights::MergedWeights(const std::vector<Parameter>& parameters, const Adapter& adapter)
    : adapter_(adapter),
      is_tied_(std::none_of(parameters.begin(), parameters.end(), [](const Parameter& each) {
        return each.id == "head";
      })) {
  take_saved(parameters);
  for (size_t pair = 0; pair < adapter.targets().size(); ++pair) {
    const AdapterTarget& target = adapter.targets()[pair];
    const Parameter& parameter = parameters[static_cast<size_t>(target.weight)];
    if (target.part != AdapterTarget::Part::kLayer) {
      take_outer(target, parameter, pair);
      continue;
    }
    for (int64_t e = 0; e < std::max<int64_t>(1, target.num_experts); ++e) {
      // Rows of the storage, in which the tensors lie behind one another.
      const int64_t begin = target.first_row + e * target.out, end = begin + target.out;
      for (const CheckpointPiece& piece : parameter.pieces) {
        const int64_t first = piece.offset / target.in, last = first + piece.numel() / target.in;
        const int64_t from = std::max(begin, first), to = std::min(end, last);
        if (from >= to) continue;
        LOCKSTEP_CHECK(piece.offset % target.in == 0, "{} does not begin with a row", piece.name);
        places_[piece.name].push_back({.pair = pair,
                                       .expert = e,
                                       .first_row = from - begin,
                                       .first_tensor_row = from - first,
                                       .rows = to - from});
      }
    }
  }
}

void MergedWeights::take_outer(const AdapterTarget& target,
                               const Parameter& parameter,
                               size_t pair) {
  const bool is_head = target.part == AdapterTarget::Part::kHead;
  places_[is_head ? kHead : parameter.pieces[0].name] = {
      {.pair = pair, .rows = is_head ? target.out : target.in}};
  // Of both, each has its own.
  if (is_tied_ && !adapter_.config().ensure_weight_tying) unties_head_ = true;
}

void MergedWeights::take_saved(const std::vector<Parameter>& parameters) {
  for (const SavedTensor& saved : adapter_.saved()) {
    if (!saved.place.parameter) {
      saved_[kHead] = saved.value;
      unties_head_ = true;
      continue;
    }
    const Parameter& owner = parameters[*saved.place.parameter];
    for (size_t i = 0; i < owner.pieces.size(); ++i) {
      if (saved.place.piece && *saved.place.piece != i) continue;
      const CheckpointPiece& piece = owner.pieces[i];
      saved_[piece.name] = saved.place.piece ? saved.value : piece.view(saved.value.contiguous());
    }
    if (!is_tied_ || owner.id != "embedding") continue;
    if (adapter_.config().ensure_weight_tying)
      saved_[kHead] = saved.value;
    else
      unties_head_ = true;
  }
}

at::Tensor MergedWeights::merge(const std::string& name,
                                const at::Tensor& base,
                                at::ScalarType dtype) const {
  const at::NoGradGuard no_grad;
  if (const auto saved = saved_.find(name); saved != saved_.end()) return saved->second.to(dtype);
  at::Tensor merged = at::empty(base.sizes(), base.options().dtype(dtype));
  const std::vector<Part>& parts = places_.at(name);
  int64_t covered = 0;
  for (const Part& part : parts) {
    const AdapterTarget& target = adapter_.targets()[part.pair];
    const bool is_embedding = target.part == AdapterTarget::Part::kEmbedding;
    const int64_t width = is_embedding ? target.out : target.in;
    const at::Tensor from = base.view({-1, width}), to = merged.view({-1, width});
    at::Tensor a = adapter_.parameters()[2 * part.pair].value.detach(),
               b = adapter_.parameters()[2 * part.pair + 1].value.detach();
    if (target.num_experts) {
      a = a.select(0, part.expert);
      b = b.select(0, part.expert);
    }
    // The embedding's rows are the columns of B A.
    if (is_embedding) {
      const at::Tensor rows = a.t();
      a = b.t();
      b = rows;
    }
    a = a.to(at::kDouble).mul(adapter_.config().scale_of(target.path));
    for (int64_t row = 0; row < part.rows; row += kBlockRows) {
      const int64_t rows = std::min(kBlockRows, part.rows - row),
                    place = part.first_tensor_row + row;
      const at::Tensor delta =
          at::matmul(b.narrow(0, part.first_row + row, rows).to(at::kDouble), a);
      to.narrow(0, place, rows).copy_(delta.add_(from.narrow(0, place, rows)));
    }
    covered += part.rows * width;
  }
  LOCKSTEP_CHECK(covered == base.numel(), "{}: {} of {} elements are merged", name, covered,
                 base.numel());
  return merged;
}

}  // namespace lockstep::model
