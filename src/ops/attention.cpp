// Attention over packed sequences, with its backward. The cache's form is in paged_attention.cpp.
// SPDX-License-Identifier: Apache-2.0
#include "ops/attention.h"

#include "base/check.h"
#include "base/op_timer.h"
#include "ops/attention_tiles.h"
#include "ops/kernel_data.h"
#include "tensor/aten.h"
#include "tensor/autograd.h"

namespace lockstep::ops {
namespace {

constexpr const char* kOp = "causal_attention";

/// x itself where each token's heads are contiguous (a slice of a fused projection), else a copy.
at::Tensor with_dense_tokens(const at::Tensor& x) {
  const bool dense = x.stride(2) == 1 && x.stride(1) == x.size(2);
  return dense ? x : x.contiguous();
}

template <class T>
std::vector<AttentionSequence<T>> packed_sequences(const at::Tensor& k,
                                                   const at::Tensor& v,
                                                   const PackedSequences& packed) {
  std::vector<AttentionSequence<T>> sequences(packed.count());
  for (int64_t b = 0; b < packed.count(); ++b) {
    const int64_t start = packed.first_token(b);
    auto& sequence = sequences[b];
    sequence.keys.data = const_elements<T>(k) + start * k.stride(0);
    sequence.keys.token_stride = k.stride(0);
    sequence.keys.head_stride = sequence.values.head_stride = k.size(2);
    sequence.values.data = const_elements<T>(v) + start * v.stride(0);
    sequence.values.token_stride = v.stride(0);
    sequence.first_token = start;
    sequence.num_tokens = packed.length(b);
    if (packed.parent(b) == PackedSequences::kNoParent) continue;
    const int64_t shared = packed.first_token(packed.parent(b));
    sequence.first_position = packed.history(b);
    sequence.keys.shared = const_elements<T>(k) + shared * k.stride(0);
    sequence.values.shared = const_elements<T>(v) + shared * v.stride(0);
    sequence.keys.shared_tokens = sequence.values.shared_tokens = packed.history(b);
  }
  return sequences;
}

void run_forward(const AttentionTensors& tensors,
                 const at::Tensor& k,
                 const at::Tensor& v,
                 const PackedSequences& packed) {
  for_dtype(tensors.q.scalar_type(), kOp, [&](auto tag) {
    using T = decltype(tag);
    attend_sequences<T>(tensors, packed_sequences<T>(k, v, packed));
  });
}

std::vector<at::Tensor> run_backward(const AttentionTensors& tensors,
                                     const at::Tensor& k,
                                     const at::Tensor& v,
                                     const PackedSequences& packed,
                                     const at::Tensor& doutput) {
  const AttentionGradients gradients{
      doutput.contiguous(), at::empty(tensors.q.sizes(), tensors.q.options()),
      at::empty(k.sizes(), k.options()), at::empty(v.sizes(), v.options())};
  for_dtype(tensors.q.scalar_type(), kOp, [&](auto tag) {
    using T = decltype(tag);
    attend_sequences_backward<T>(tensors, packed_sequences<T>(k, v, packed), packed, gradients);
  });
  return {gradients.dq, gradients.dk, gradients.dv};
}

void check(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, int64_t tokens) {
  const bool fits = q.dim() == 3 && k.dim() == 3 && k.sizes() == v.sizes() && q.size(0) == tokens &&
                    k.size(0) == tokens && q.size(2) == k.size(2) && k.size(1) > 0 &&
                    q.size(1) % k.size(1) == 0;
  if (!fits)
    fail<ShapeError>("bad-shape", kOp,
                     "expected q [T, H, Dh] and k, v [T, Hkv, Dh] of {} tokens, H a multiple of "
                     "Hkv, got {}, {} and {}",
                     tokens, shape_text(q), shape_text(k), shape_text(v));
  check_dtype(q.scalar_type(), kOp);
  if (k.scalar_type() != q.scalar_type() || v.scalar_type() != q.scalar_type())
    fail<ShapeError>("bad-dtype", kOp, "expected k and v in q's {}, got {} and {}",
                     at::toString(q.scalar_type()), at::toString(k.scalar_type()),
                     at::toString(v.scalar_type()));
}

}  // namespace

at::Tensor causal_attention(const at::Tensor& q,
                            const at::Tensor& k,
                            const at::Tensor& v,
                            const PackedSequences& sequences,
                            double scale) {
  const OpTimer timer("causal_attention");
  check(q, k, v, sequences.tokens());
  const bool differentiable = wants_gradient({q, k, v});
  at::NoGradGuard no_grad;
  const auto keys = with_dense_tokens(k.detach()), values = with_dense_tokens(v.detach());
  AttentionTensors tensors{
      q.detach().contiguous(), at::empty(q.sizes(), q.options()), {}, k.size(1), scale};
  if (differentiable)
    tensors.log_sum_exp = at::empty({q.size(0), q.size(1)}, q.options().dtype(at::kFloat));
  run_forward(tensors, keys, values, sequences);
  if (!differentiable) return tensors.output;
  auto output = tensors.output;
  // The backward has a handle of its own, since capturing the output itself would make a cycle.
  tensors.output = output.detach();
  return attach_backward({q, k, v}, {output}, [=](const auto& dy, const auto&) {
    if (!dy[0].defined()) return std::vector<at::Tensor>(3);
    return run_backward(tensors, keys, values, sequences, dy[0]);
  })[0];
}

}  // namespace lockstep::ops
