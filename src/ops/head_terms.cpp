// SPDX-License-Identifier: Apache-2.0
#include "ops/head_terms.h"

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "ops/kernel_data.h"
#include "tensor/aten.h"

namespace lockstep::ops {
namespace {

void check_term(const at::Tensor& hidden,
                const VocabularyHead& head,
                const HeadTerm& term,
                const char* op) {
  const at::Tensor &a = term.pair->a.weight, &b = term.pair->b.weight;
  const bool is_right = a.dim() == 2 && b.dim() == 2 && a.size(1) == hidden.size(1) &&
                        b.size(0) == head.weight.size(0) && b.size(1) == a.size(0) &&
                        a.scalar_type() == at::kFloat && b.scalar_type() == at::kFloat;
  if (!is_right)
    fail<ShapeError>("bad-shape", op,
                     "expected A [R, D] and B [V, R] float32 beside a head {}, got {}, {}",
                     shape_text(head.weight), shape_text(a), shape_text(b));
  check_dropout(term.dropout, hidden, op);
}

}  // namespace

HeadTerms::HeadTerms(const at::Tensor& hidden, const AdaptedHead& head, const char* op) {
  for (const HeadTerm& term : head.terms) {
    check_term(hidden, head.head, term, op);
    LowRankRows part{.rows = term.rows,
                     .a = term.pair->a.weight,
                     .b = term.pair->b.weight,
                     .scale = term.pair->scale,
                     .name = term.pair->name,
                     .dropout = term.dropout};
    part.runs.push_back({.a = &term.pair->a, .count = part.count(hidden)});
    parts_.push_back(std::move(part));
    pairs_.push_back(term.pair);
  }
  check_apart(parts_, op);
  const at::NoGradGuard no_grad;
  low_ = low_products(hidden.detach(), parts_);
}

std::vector<HeadTerms::Slice> HeadTerms::slices(int64_t first_row, int64_t rows) const {
  std::vector<Slice> found;
  for (size_t i = 0; i < parts_.size(); ++i) {
    const at::Tensor& all = parts_[i].rows;
    if (!all.defined()) {
      found.push_back({.term = i, .first = first_row, .count = rows, .rows = {}});
      continue;
    }
    const std::span listed(all.const_data_ptr<int64_t>(), static_cast<size_t>(all.numel()));
    const auto begin = std::lower_bound(listed.begin(), listed.end(), first_row),
               end = std::lower_bound(begin, listed.end(), first_row + rows);
    if (begin == end) continue;
    const int64_t first = begin - listed.begin(), count = end - begin;
    found.push_back({.term = i,
                     .first = first,
                     .count = count,
                     .rows = all.narrow(0, first, count).sub(first_row)});
  }
  return found;
}

LowRankRows HeadTerms::part_of(const Slice& slice, size_t block) const {
  const LinearWeight& b = pairs_[slice.term]->b.blocks[block];
  LowRankRows part{.rows = slice.rows,
                   .a = parts_[slice.term].a,
                   .b = b.weight,
                   .scale = parts_[slice.term].scale};
  part.runs.push_back({.b = &b, .count = slice.count});
  return part;
}

void HeadTerms::add(const at::Tensor& logits,
                    const std::vector<Slice>& slices,
                    size_t block) const {
  std::vector<LowRankRows> parts;
  std::vector<at::Tensor> low;
  for (const Slice& slice : slices) {
    parts.push_back(part_of(slice, block));
    low.push_back(low_[slice.term].narrow(0, slice.first, slice.count));
  }
  add_outputs(logits, low, parts);
}

HeadTermGradients::HeadTermGradients(const HeadTerms& terms) : terms_(terms) {
  for (size_t i = 0; i < terms.parts_.size(); ++i) {
    dlow_.push_back(at::zeros_like(terms.low_[i]));
    db_.push_back(at::zeros_like(terms.parts_[i].b.detach()));
  }
}

void HeadTermGradients::begin_block(size_t block) {
  block_ = block;
  operands_.clear();
  for (const HeadLowRank* pair : terms_.pairs_)
    operands_.emplace_back(pair->b.blocks[block].weight);
}

void HeadTermGradients::add(const at::Tensor& dlogits,
                            const std::vector<HeadTerms::Slice>& slices) {
  std::vector<BackwardProduct> products;
  for (const HeadTerms::Slice& slice : slices) {
    const LowRankRows part = terms_.part_of(slice, block_);
    const at::Tensor own = rows_of_part(dlogits, part);
    const auto rows = [&](const at::Tensor& table) {
      return table.narrow(0, slice.first, slice.count);
    };
    const at::Tensor db =
        db_[slice.term].narrow(0, static_cast<int64_t>(block_) * kVocabularyBlock, part.outputs());
    products.push_back({rows(dlow_[slice.term]), own, operands_[slice.term], true});
    products.push_back({db, own.t(), rows(terms_.low_[slice.term]), true});
  }
  backward_products(products);
}

std::vector<PairGradients> HeadTermGradients::finish(const at::Tensor& hidden,
                                                     const at::Tensor& dhidden) {
  for (size_t i = 0; i < dlow_.size(); ++i) dlow_[i].mul_(terms_.parts_[i].scale);
  if (dhidden.defined()) add_input_gradients(dlow_, terms_.parts_, dhidden);
  const std::vector<at::Tensor> da = a_gradients(hidden.detach(), dlow_, terms_.parts_);
  std::vector<PairGradients> gradients;
  for (size_t i = 0; i < da.size(); ++i) gradients.push_back({da[i], db_[i]});
  return gradients;
}

}  // namespace lockstep::ops
