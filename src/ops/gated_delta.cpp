// The gated delta rule's recurrence and its backward: shapes, memory and threads around the kernels of cpu/gated_delta.h.
// SPDX-License-Identifier: Apache-2.0
#include "ops/gated_delta.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <set>

#include <fmt/ranges.h>

#include "base/check.h"
#include "ops/cpu/gated_delta.h"
#include "ops/gated_delta_check.h"
#include "tensor/aten.h"
#include "tensor/autograd.h"

namespace lockstep::ops {
namespace {

// Work below which another thread costs more than it gives: rows of keys, and states' elements times tokens.
constexpr int64_t kRowGrain = 256, kStateGrain = 1 << 18;

/// float32, contiguous, the last dimension filled up with zeros to `padded`.
at::Tensor padded_float(const at::Tensor& x, int64_t padded) {
  if (x.size(-1) == padded) return x.to(at::kFloat).contiguous();
  auto sizes = x.sizes().vec();
  sizes.back() = padded;
  at::Tensor out = at::zeros(sizes, at::kFloat);
  out.narrow(-1, 0, x.size(-1)).copy_(x);
  return out;
}

/// The inputs as the kernels read them; `tokens` points into the tensors.
struct Prepared {
  at::Tensor raw_q, raw_k, q, k, qk, v, decay, beta;
  cpu::DeltaTokens tokens;

  cpu::DeltaKeys keys(int64_t first_row, int64_t rows) const {
    const int64_t padded = tokens.padded_key_dim(), at = first_row * padded;
    return {raw_q.const_data_ptr<float>() + at, raw_k.const_data_ptr<float>() + at, rows,
            tokens.key_dim, padded};
  }
};

/// exp of a float32 tensor, each element by itself: ATen's loops treat the ends of a thread's range by other instructions,
/// so that there an element's bits depend on its place.
at::Tensor exp_of(const at::Tensor& x) {
  const at::Tensor from = x.contiguous(), to = at::empty_like(from);
  const float* in = from.const_data_ptr<float>();
  float* out = to.mutable_data_ptr<float>();
  at::parallel_for(0, from.numel(), kRowGrain * 16, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) out[i] = std::exp(in[i]);
  });
  return to;
}

Prepared prepare(const GatedDeltaInputs& inputs) {
  Prepared p;
  p.tokens.key_heads = inputs.q.size(1), p.tokens.value_heads = inputs.v.size(1);
  p.tokens.key_dim = inputs.q.size(2), p.tokens.value_dim = inputs.v.size(2);
  p.raw_q = padded_float(inputs.q, p.tokens.padded_key_dim());
  p.raw_k = padded_float(inputs.k, p.tokens.padded_key_dim());
  p.q = at::empty_like(p.raw_q), p.k = at::empty_like(p.raw_k);
  p.qk = at::empty({inputs.q.size(0), inputs.q.size(1)}, at::kFloat);
  p.v = padded_float(inputs.v, p.tokens.padded_value_dim());
  p.decay = exp_of(inputs.log_decay), p.beta = inputs.beta.contiguous();
  const int64_t padded = p.tokens.padded_key_dim();
  float *q = p.q.mutable_data_ptr<float>(), *k = p.k.mutable_data_ptr<float>();
  float* qk = p.qk.mutable_data_ptr<float>();
  at::parallel_for(0, p.qk.numel(), kRowGrain, [&](int64_t begin, int64_t end) {
    cpu::delta_normalize(p.keys(begin, end - begin), q + begin * padded, k + begin * padded,
                         qk + begin);
  });
  p.tokens.q = q, p.tokens.k = k, p.tokens.qk = qk;
  p.tokens.v = p.v.const_data_ptr<float>();
  p.tokens.decay = p.decay.const_data_ptr<float>(), p.tokens.beta = p.beta.const_data_ptr<float>();
  return p;
}

/// How many of `units` equal parts of the recurrence a thread should at least get.
int64_t grain_of(const Prepared& p, int64_t units) {
  const int64_t work = p.v.size(0) * p.tokens.value_heads * p.tokens.key_dim * p.tokens.value_dim;
  return std::max<int64_t>(1, kStateGrain / std::max<int64_t>(1, work / units));
}

/// The states of sequence b and value head h.
using StatesOf = std::function<cpu::DeltaStates(int64_t b, int64_t h)>;

/// Runs the recurrence over all sequences and heads; returns the output [T, Hv, Dvp] in float32.
/// Heads are the slow index: each thread gets whole heads of all sequences, long and short.
at::Tensor run_forward(const Prepared& p,
                       const PackedSequences& sequences,
                       const StatesOf& states_of) {
  const cpu::DeltaTokens& tokens = p.tokens;
  const at::Tensor output = at::empty_like(p.v);
  float* out = output.mutable_data_ptr<float>();
  const int64_t tiles = tokens.padded_value_dim() / cpu::kDeltaTileColumns;
  const int64_t units = tokens.value_heads * sequences.count();
  const int64_t parts = units >= 4 * at::get_num_threads() ? 1 : tiles;
  at::parallel_for(0, units * parts, grain_of(p, units * parts), [&](int64_t begin, int64_t end) {
    const at::Tensor scratch = at::empty({cpu::delta_forward_scratch(tokens.key_dim)}, at::kFloat);
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t b = unit % sequences.count(), part = unit / sequences.count();
      const int64_t head = part / parts, tile = part % parts;
      const cpu::DeltaSpan span{sequences.offsets[static_cast<size_t>(b)], sequences.length(b),
                                head, tile, parts == 1 ? tiles : tile + 1};
      cpu::delta_forward(tokens, span, states_of(b, head), out, scratch.mutable_data_ptr<float>());
    }
  });
  return output;
}

at::Tensor output_of(const at::Tensor& padded, const at::Tensor& v) {
  return padded.narrow(2, 0, v.size(2)).to(v.scalar_type()).contiguous();
}

/// Where each sequence's checkpoints begin among all of them; the last entry is their number.
std::vector<int64_t> checkpoint_offsets(const PackedSequences& sequences) {
  std::vector<int64_t> offsets{0};
  for (int64_t b = 0; b < sequences.count(); ++b)
    offsets.push_back(offsets.back() + (sequences.length(b) - 1) / cpu::kGatedDeltaCheckpoint);
  return offsets;
}

/// States [B, Hv, Dk, Dv] before and after, and checkpoints [C, Hv, Dk, Dv] (undefined: none are kept).
StatesOf states_in(const at::Tensor& initial,
                   const at::Tensor& final_state,
                   const at::Tensor& checkpoints,
                   const PackedSequences& sequences) {
  const int64_t heads = final_state.size(1), size = final_state.size(2) * final_state.size(3);
  const float* from = initial.defined() ? initial.const_data_ptr<float>() : nullptr;
  float* to = final_state.mutable_data_ptr<float>();
  float* kept = checkpoints.defined() ? checkpoints.mutable_data_ptr<float>() : nullptr;
  return [=, offsets = checkpoint_offsets(sequences)](int64_t b, int64_t h) {
    const int64_t at = (b * heads + h) * size;
    float* own = kept ? kept + (offsets[static_cast<size_t>(b)] * heads + h) * size : nullptr;
    return cpu::DeltaStates{from ? from + at : nullptr, to + at, own, heads * size};
  };
}

/// What the backward keeps from the forward.
struct Saved {
  GatedDeltaInputs inputs;
  PackedSequences sequences;
  at::Tensor initial_state, checkpoints;
};

/// Gradients of the recurrence, summed into zeroed float32 tensors of the kernels' shapes.
struct RawGradients {
  at::Tensor q, k, v, log_decay, beta, state;
};

RawGradients run_backward(const Prepared& p,
                          const Saved& saved,
                          const at::Tensor& output_gradient,
                          const at::Tensor& state_gradient) {
  const cpu::DeltaTokens& tokens = p.tokens;
  const int64_t num_tokens = p.v.size(0), heads = tokens.value_heads,
                count = saved.sequences.count();
  RawGradients raw;
  raw.q = at::zeros({num_tokens, heads, tokens.padded_key_dim()}, at::kFloat),
  raw.k = at::zeros_like(raw.q);
  raw.v = at::empty_like(p.v);
  raw.log_decay = at::zeros_like(p.beta), raw.beta = at::zeros_like(p.beta);
  raw.state = state_gradient.defined()
                  ? state_gradient.to(at::kFloat).contiguous().clone()
                  : at::zeros({count, heads, tokens.key_dim, tokens.value_dim}, at::kFloat);
  const at::Tensor output = output_gradient.defined()
                                ? padded_float(output_gradient, tokens.padded_value_dim())
                                : at::zeros_like(p.v);
  const cpu::DeltaGradients gradients{
      output.const_data_ptr<float>(),          raw.q.mutable_data_ptr<float>(),
      raw.k.mutable_data_ptr<float>(),         raw.v.mutable_data_ptr<float>(),
      raw.log_decay.mutable_data_ptr<float>(), raw.beta.mutable_data_ptr<float>()};
  const StatesOf states_of =
      states_in(saved.initial_state, raw.state, saved.checkpoints, saved.sequences);
  const int64_t tiles = tokens.padded_value_dim() / cpu::kDeltaTileColumns;
  at::parallel_for(0, heads * count, grain_of(p, heads * count), [&](int64_t begin, int64_t end) {
    const at::Tensor scratch = at::empty({cpu::delta_backward_scratch(tokens.key_dim)}, at::kFloat);
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t b = unit % count, head = unit / count;
      const cpu::DeltaSpan span{saved.sequences.offsets[static_cast<size_t>(b)],
                                saved.sequences.length(b), head, 0, tiles};
      const cpu::DeltaStates states = states_of(b, head);
      cpu::delta_backward(tokens, span, states, gradients, states.final,
                          scratch.mutable_data_ptr<float>());
    }
  });
  return raw;
}

/// Gradients of the raw q and k from those of the normalised ones, which lie apart for each value head.
std::pair<at::Tensor, at::Tensor> key_gradients(const Prepared& p, const RawGradients& raw) {
  const at::Tensor q = at::empty_like(p.raw_q), k = at::empty_like(p.raw_k);
  const int64_t padded = p.tokens.padded_key_dim(),
                group = p.tokens.value_heads / p.tokens.key_heads;
  const float *dq = raw.q.const_data_ptr<float>(), *dk = raw.k.const_data_ptr<float>();
  float *to_q = q.mutable_data_ptr<float>(), *to_k = k.mutable_data_ptr<float>();
  at::parallel_for(0, p.qk.numel(), kRowGrain, [&](int64_t begin, int64_t end) {
    const cpu::DeltaKeyGradients rows{dq + begin * group * padded, dk + begin * group * padded,
                                      group};
    cpu::delta_normalize_backward(p.keys(begin, end - begin), rows, to_q + begin * padded,
                                  to_k + begin * padded);
  });
  return {q.narrow(2, 0, p.tokens.key_dim), k.narrow(2, 0, p.tokens.key_dim)};
}

std::vector<at::Tensor> backward(const Saved& saved,
                                 const std::vector<at::Tensor>& gradients,
                                 const std::vector<bool>& needs) {
  const Prepared p = prepare(saved.inputs);
  const RawGradients raw = run_backward(p, saved, gradients[0], gradients[1]);
  const auto [q, k] = key_gradients(p, raw);
  const auto& in = saved.inputs;
  return {q.to(in.q.scalar_type()),
          k.to(in.k.scalar_type()),
          output_of(raw.v, in.v),
          raw.log_decay,
          raw.beta,
          needs[5] ? raw.state : at::Tensor()};
}

void check_slots(const at::Tensor& pool,
                 const GatedDeltaInputs& inputs,
                 const PackedSequences& sequences,
                 std::span<const int64_t> slots) {
  const std::vector<int64_t> expected{pool.size(0), inputs.v.size(1), inputs.q.size(2),
                                      inputs.v.size(2)};
  if (pool.sizes() != at::IntArrayRef(expected) || pool.scalar_type() != at::kFloat ||
      !pool.is_contiguous())
    fail<ShapeError>("bad-shape", "gated_delta_rule_cached",
                     "pool: expected contiguous float32 [N, {}, {}, {}], got [{}]", expected[1],
                     expected[2], expected[3], fmt::join(pool.sizes(), ", "));
  if (static_cast<int64_t>(slots.size()) != sequences.count())
    fail<ShapeError>("bad-shape", "gated_delta_rule_cached",
                     "slots: expected {}, one a sequence, got {}", sequences.count(), slots.size());
  const std::set<int64_t> distinct(slots.begin(), slots.end());
  if (distinct.size() != slots.size() || *distinct.begin() < 0 ||
      *distinct.rbegin() >= pool.size(0))
    fail<ShapeError>("bad-slot", "gated_delta_rule_cached",
                     "slots: expected different rows of a pool of {}", pool.size(0));
}

}  // namespace

void check_gated_delta(const char* op,
                       const GatedDeltaInputs& inputs,
                       const PackedSequences& sequences,
                       const at::Tensor& initial_state) {
  const auto expect = [op](const char* name, const at::Tensor& x, const std::vector<int64_t>& sizes,
                           bool float32) {
    if (x.sizes() != at::IntArrayRef(sizes) ||
        (float32 ? x.scalar_type() != at::kFloat : !x.is_floating_point()))
      fail<ShapeError>("bad-shape", op, "{}: expected {} [{}], got {} [{}]", name,
                       float32 ? "float32" : "floats", fmt::join(sizes, ", "),
                       c10::toString(x.scalar_type()), fmt::join(x.sizes(), ", "));
  };
  if (inputs.q.dim() != 3 || inputs.v.dim() != 3 || inputs.q.size(1) == 0 ||
      inputs.v.size(1) % inputs.q.size(1) != 0 || inputs.v.size(1) == 0)
    fail<ShapeError>(
        "bad-shape", op,
        "q and v: expected [T, Hk, Dk] and [T, Hv, Dv], Hv a multiple of Hk, got [{}] and [{}]",
        fmt::join(inputs.q.sizes(), ", "), fmt::join(inputs.v.sizes(), ", "));
  const int64_t tokens = sequences.tokens(), heads = inputs.v.size(1);
  expect("q", inputs.q, {tokens, inputs.q.size(1), inputs.q.size(2)}, false);
  expect("k", inputs.k, {tokens, inputs.q.size(1), inputs.q.size(2)}, false);
  expect("v", inputs.v, {tokens, heads, inputs.v.size(2)}, false);
  expect("log_decay", inputs.log_decay, {tokens, heads}, true);
  expect("beta", inputs.beta, {tokens, heads}, true);
  if (initial_state.defined())
    expect("initial_state", initial_state,
           {sequences.count(), heads, inputs.q.size(2), inputs.v.size(2)}, true);
}

GatedDeltaOutputs gated_delta_rule(const GatedDeltaInputs& inputs,
                                   const PackedSequences& sequences,
                                   const at::Tensor& initial_state) {
  check_gated_delta("gated_delta_rule", inputs, sequences, initial_state);
  const bool trains =
      wants_gradient({inputs.q, inputs.k, inputs.v, inputs.log_decay, inputs.beta, initial_state});
  const at::NoGradGuard no_grad;
  const Prepared p = prepare(inputs);
  const auto& tokens = p.tokens;
  const at::Tensor initial = initial_state.defined() ? initial_state.contiguous() : initial_state;
  const at::Tensor final_state = at::empty(
      {sequences.count(), tokens.value_heads, tokens.key_dim, tokens.value_dim}, at::kFloat);
  at::Tensor checkpoints;
  if (trains)
    checkpoints = at::empty({checkpoint_offsets(sequences).back(), tokens.value_heads,
                             tokens.key_dim, tokens.value_dim},
                            at::kFloat);
  const at::Tensor output = output_of(
      run_forward(p, sequences, states_in(initial, final_state, checkpoints, sequences)), inputs.v);
  if (!trains) return {output, final_state};
  const auto outputs = attach_backward(
      {inputs.q, inputs.k, inputs.v, inputs.log_decay, inputs.beta, initial_state},
      {output, final_state},
      [saved = Saved{inputs, sequences, initial, checkpoints}](
          const auto& gradients, const auto& needs) { return backward(saved, gradients, needs); });
  return {outputs[0], outputs[1]};
}

at::Tensor gated_delta_rule_cached(const GatedDeltaInputs& inputs,
                                   const PackedSequences& sequences,
                                   const at::Tensor& pool,
                                   std::span<const int64_t> slots) {
  check_gated_delta("gated_delta_rule_cached", inputs, sequences, {});
  check_slots(pool, inputs, sequences, slots);
  const at::NoGradGuard no_grad;
  const Prepared p = prepare(inputs);
  float* states = pool.mutable_data_ptr<float>();
  const int64_t heads = pool.size(1), size = pool.size(2) * pool.size(3);
  const at::Tensor output = run_forward(p, sequences, [&](int64_t b, int64_t h) {
    float* state = states + (slots[static_cast<size_t>(b)] * heads + h) * size;
    return cpu::DeltaStates{state, state, nullptr, 0};
  });
  return output_of(output, inputs.v);
}

}  // namespace lockstep::ops
