// The gated delta rule's recurrence and its backward: shapes, memory and threads around the kernels
// of cpu/gated_delta.h.
// SPDX-License-Identifier: Apache-2.0
#include "ops/gated_delta.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <set>

#include <fmt/ranges.h>

#include "base/check.h"
#include "base/op_timer.h"
#include "ops/cpu/gated_delta.h"
#include "ops/kernel_data.h"
#include "tensor/aten.h"
#include "tensor/autograd.h"
#include "tensor/parallel.h"

namespace lockstep::ops {
namespace {

// Work below which another thread costs more than it gives: rows of keys, and states' elements
// times tokens.
constexpr int64_t kRowGrain = 256, kStateGrain = 1 << 18;

/// A tensor [T, heads, dim] whose heads lie one behind the other, as the kernels read it; a copy if
/// need be.
at::Tensor with_whole_rows(const at::Tensor& x) {
  const bool whole = x.stride(2) == 1 && x.stride(1) == x.size(2);
  return whole ? x : x.contiguous();
}

cpu::DeltaSource source_of(const at::Tensor& x) {
  return {x.const_data_ptr(), x.stride(0), x.scalar_type() == at::kBFloat16};
}

cpu::DeltaTarget target_of(const at::Tensor& x) {
  return {x.mutable_data_ptr(), x.stride(0), x.scalar_type() == at::kBFloat16};
}

/// The inputs as the kernels read them; `tokens` and `keys` point into the tensors.
struct Prepared {
  at::Tensor raw_q, raw_k, v, q, k, qk, decay, beta;
  cpu::DeltaTokens tokens;
  cpu::DeltaKeys keys;

  cpu::DeltaKeys keys_of(int64_t first_token, int64_t end_token) const {
    cpu::DeltaKeys part = keys;
    part.first_token = first_token, part.end_token = end_token;
    return part;
  }
  int64_t token_grain() const { return std::max<int64_t>(1, kRowGrain / keys.heads); }
};

/// exp of a float32 tensor, each element by itself: ATen's loops treat the ends of a thread's range
/// by other instructions, so that there an element's bits depend on its place.
at::Tensor exp_of(const at::Tensor& x) {
  const at::Tensor from = x.contiguous(), to = at::empty_like(from);
  const float* in = from.const_data_ptr<float>();
  float* out = to.mutable_data_ptr<float>();
  parallel_for(0, from.numel(), kRowGrain * 16, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) out[i] = std::exp(in[i]);
  });
  return to;
}

Prepared prepare(const GatedDeltaInputs& inputs) {
  Prepared p;
  p.raw_q = with_whole_rows(inputs.q), p.raw_k = with_whole_rows(inputs.k),
  p.v = with_whole_rows(inputs.v);
  p.decay = exp_of(inputs.log_decay), p.beta = inputs.beta.contiguous();
  cpu::DeltaTokens& tokens = p.tokens;
  tokens.v = source_of(p.v);
  tokens.decay = p.decay.const_data_ptr<float>(), tokens.beta = p.beta.const_data_ptr<float>();
  tokens.key_heads = inputs.q.size(1), tokens.value_heads = inputs.v.size(1);
  tokens.key_dim = inputs.q.size(2), tokens.value_dim = inputs.v.size(2);
  const int64_t num_tokens = inputs.q.size(0);
  p.keys = {source_of(p.raw_q), source_of(p.raw_k), tokens.key_heads, tokens.key_dim,
            tokens.padded_key_dim()};
  p.q = at::empty({num_tokens, tokens.key_heads, tokens.padded_key_dim()}, at::kFloat);
  p.k = at::empty_like(p.q), p.qk = at::empty({num_tokens, tokens.key_heads}, at::kFloat);
  float *q = p.q.mutable_data_ptr<float>(), *k = p.k.mutable_data_ptr<float>();
  float* qk = p.qk.mutable_data_ptr<float>();
  parallel_for(0, num_tokens, p.token_grain(), [&](int64_t begin, int64_t end) {
    cpu::delta_normalize(p.keys_of(begin, end), q, k, qk);
  });
  tokens.q = q, tokens.k = k, tokens.qk = qk;
  return p;
}

/// How many of `units` equal parts of the recurrence a thread should at least get.
int64_t grain_of(const Prepared& p, int64_t units) {
  const int64_t work = p.v.size(0) * p.tokens.value_heads * p.tokens.key_dim * p.tokens.value_dim;
  const int64_t unit_work = std::max<int64_t>(1, work / std::max<int64_t>(1, units));
  return std::max<int64_t>(1, kStateGrain / unit_work);
}

/// The states of sequence b and value head h.
using StatesOf = std::function<cpu::DeltaStates(int64_t b, int64_t h)>;

/// The units of a run: value heads of sequences, in an order in which a thread's share is a range.
/// With one token a sequence, states are read in the order in which they lie in memory; else each
/// thread gets whole heads of all sequences, long and short.
struct Units {
  int64_t heads;
  std::vector<int64_t> sequences;
  bool one_token;

  int64_t size() const { return static_cast<int64_t>(sequences.size()); }
  int64_t count() const { return heads * size(); }
  int64_t head(int64_t unit) const { return one_token ? unit % heads : unit / size(); }
  int64_t sequence(int64_t unit) const {
    return sequences[static_cast<size_t>(one_token ? unit / heads : unit % size())];
  }
};

/// The sequences that have a parent, or those that have none: the latter's states come first.
Units units_of(const Prepared& p, const PackedSequences& sequences, bool with_parent) {
  Units units{p.tokens.value_heads, {}, sequences.tokens() == sequences.count()};
  for (int64_t b = 0; b < sequences.count(); ++b)
    if ((sequences.parent(b) != PackedSequences::kNoParent) == with_parent)
      units.sequences.push_back(b);
  return units;
}

/// Runs the recurrence over all sequences and heads; returns the output [T, Hv, Dv] in v's dtype.
at::Tensor run_forward(const Prepared& p,
                       const PackedSequences& sequences,
                       const StatesOf& states_of) {
  const cpu::DeltaTokens& tokens = p.tokens;
  const at::Tensor output = at::empty(p.v.sizes(), p.v.options());
  const cpu::DeltaTarget target = target_of(output);
  for (const bool with_parent : {false, true}) {
    const Units units = units_of(p, sequences, with_parent);
    // Few units are cut into tiles, which do not meet in the forward.
    const int64_t parts = units.count() >= 4 * at::get_num_threads() ? 1 : tokens.num_tiles();
    const int64_t total = units.count() * parts;
    parallel_for(0, total, grain_of(p, total), [&](int64_t begin, int64_t end) {
      const auto scratch = at::empty({cpu::delta_forward_scratch(tokens.key_dim)}, at::kFloat);
      for (int64_t i = begin; i < end; ++i) {
        const int64_t b = units.sequence(i / parts), head = units.head(i / parts), tile = i % parts;
        const cpu::DeltaSpan span{sequences.first_token(b), sequences.length(b), head, tile,
                                  parts == 1 ? tokens.num_tiles() : tile + 1};
        cpu::delta_forward(tokens, span, states_of(b, head), target,
                           scratch.mutable_data_ptr<float>());
      }
    });
  }
  return output;
}

/// Where each sequence's checkpoints begin among all of them; the last entry is their number.
std::vector<int64_t> checkpoint_offsets(const PackedSequences& sequences) {
  std::vector<int64_t> offsets{0};
  for (int64_t b = 0; b < sequences.count(); ++b)
    offsets.push_back(offsets.back() + (sequences.length(b) - 1) / cpu::kGatedDeltaCheckpoint);
  return offsets;
}

/// The states that a run reads, [*, Hv, Dk, Dv] each, and the checkpoints that the forward writes.
struct RunStates {
  /// The initial states of the B sequences; undefined if they are zero.
  at::Tensor initial;
  /// Final states with which sequences that have a parent begin,
  at::Tensor of_parents;
  /// and which of them each of the B sequences takes.
  std::vector<int64_t> parent_rows;
  /// Undefined: none are kept.
  at::Tensor checkpoints;
};

/// A run's states; each sequence's last one goes to `target` [B, Hv, Dk, Dv].
StatesOf states_in(const RunStates& states,
                   const at::Tensor& target,
                   const PackedSequences& sequences) {
  const int64_t heads = target.size(1), size = target.size(2) * target.size(3);
  const auto data = [](const at::Tensor& x) {
    return x.defined() ? x.mutable_data_ptr<float>() : nullptr;
  };
  const float *from = data(states.initial), *of_parents = data(states.of_parents);
  float *to = data(target), *kept = data(states.checkpoints);
  return [=, &sequences, rows = states.parent_rows, offsets = checkpoint_offsets(sequences)](
             int64_t b, int64_t h) {
    const int64_t at = (b * heads + h) * size;
    float* own = kept ? kept + (offsets[static_cast<size_t>(b)] * heads + h) * size : nullptr;
    const float* before = from ? from + at : nullptr;
    if (sequences.parent(b) != PackedSequences::kNoParent)
      before = of_parents + (rows[static_cast<size_t>(b)] * heads + h) * size;
    return cpu::DeltaStates{before, to + at, own, heads * size};
  };
}

/// What the backward keeps from the forward.
struct Saved {
  GatedDeltaInputs inputs;
  PackedSequences sequences;
  RunStates states;
};

/// Keeps of all final states [B, Hv, Dk, Dv] those that are read again: one of several B in a group
/// of completions.
void keep_parents(const at::Tensor& final_states, const PackedSequences& sequences, RunStates& to) {
  if (!sequences.has_parents()) {
    to.of_parents.reset();
    return;
  }
  std::vector<int64_t> parents;
  for (int64_t b = 0; b < sequences.count(); ++b) {
    const int64_t parent = sequences.parent(b);
    if (parent == PackedSequences::kNoParent) continue;
    auto at = std::find(parents.begin(), parents.end(), parent);
    if (at == parents.end()) at = parents.insert(at, parent);
    to.parent_rows[static_cast<size_t>(b)] = at - parents.begin();
  }
  at::Tensor rows = at::empty({std::ssize(parents)}, at::TensorOptions().dtype(at::kLong));
  std::copy(parents.begin(), parents.end(), rows.mutable_data_ptr<int64_t>());
  to.of_parents = final_states.index_select(0, rows);
}

/// Gradients of the recurrence: q and k of the normalised ones, float32 and apart for each value
/// head.
struct RawGradients {
  at::Tensor q, k, v, log_decay, beta, state;
};

RawGradients run_backward(const Prepared& p,
                          const Saved& saved,
                          const at::Tensor& output_gradient,
                          const at::Tensor& state_gradient) {
  const cpu::DeltaTokens& tokens = p.tokens;
  const int64_t heads = tokens.value_heads;
  const PackedSequences& sequences = saved.sequences;
  RawGradients raw;
  raw.q = at::zeros({p.v.size(0), heads, tokens.padded_key_dim()}, at::kFloat),
  raw.k = at::zeros_like(raw.q);
  raw.v = at::empty(p.v.sizes(), p.v.options());
  raw.log_decay = at::zeros_like(p.beta), raw.beta = at::zeros_like(p.beta);
  raw.state =
      state_gradient.defined()
          ? state_gradient.clone(at::MemoryFormat::Contiguous)
          : at::zeros({sequences.count(), heads, tokens.key_dim, tokens.value_dim}, at::kFloat);
  const at::Tensor output =
      output_gradient.defined() ? with_whole_rows(output_gradient) : output_gradient;
  const cpu::DeltaGradients gradients{output.defined() ? source_of(output) : cpu::DeltaSource{},
                                      raw.q.mutable_data_ptr<float>(),
                                      raw.k.mutable_data_ptr<float>(),
                                      target_of(raw.v),
                                      raw.log_decay.mutable_data_ptr<float>(),
                                      raw.beta.mutable_data_ptr<float>()};
  const StatesOf states_of = states_in(saved.states, raw.state, sequences);
  for (const bool with_parent : {true, false}) {
    const Units units = units_of(p, sequences, with_parent);
    parallel_for(0, units.count(), grain_of(p, units.count()), [&](int64_t begin, int64_t end) {
      const auto scratch = at::empty({cpu::delta_backward_scratch(tokens.key_dim)}, at::kFloat);
      for (int64_t unit = begin; unit < end; ++unit) {
        const int64_t b = units.sequence(unit), head = units.head(unit);
        const cpu::DeltaSpan span{sequences.first_token(b), sequences.length(b), head, 0,
                                  tokens.num_tiles()};
        cpu::delta_backward(tokens, span, states_of(b, head), gradients,
                            scratch.mutable_data_ptr<float>());
      }
    });
    if (!with_parent) continue;
    // What the state before each of them gets is what its parent's last state gets.
    for (const int64_t b : units.sequences)
      raw.state.select(0, sequences.parent(b)).add_(raw.state.select(0, b));
  }
  return raw;
}

/// Gradients of the raw q and k from those of the normalised ones.
std::pair<at::Tensor, at::Tensor> key_gradients(const Prepared& p, const RawGradients& raw) {
  const at::Tensor q = at::empty(p.raw_q.sizes(), p.raw_q.options());
  const at::Tensor k = at::empty(p.raw_k.sizes(), p.raw_k.options());
  const cpu::DeltaKeyGradients rows{raw.q.const_data_ptr<float>(), raw.k.const_data_ptr<float>(),
                                    p.tokens.value_heads, target_of(q), target_of(k)};
  parallel_for(0, q.size(0), p.token_grain(), [&](int64_t begin, int64_t end) {
    std::vector<float> scratch(static_cast<size_t>(2 * p.keys.padded_dim));
    cpu::delta_normalize_backward(p.keys_of(begin, end), rows, scratch.data());
  });
  return {q, k};
}

std::vector<at::Tensor> backward(const Saved& saved,
                                 const std::vector<at::Tensor>& gradients,
                                 const std::vector<bool>& needs) {
  const Prepared p = prepare(saved.inputs);
  const RawGradients raw = run_backward(p, saved, gradients[0], gradients[1]);
  const auto [q, k] = key_gradients(p, raw);
  return {q, k, raw.v, raw.log_decay, raw.beta, needs[5] ? raw.state : at::Tensor()};
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
  if (sequences.has_parents())
    fail<ShapeError>("bad-shape", "gated_delta_rule_cached", "expected sequences without parents");
  if (static_cast<int64_t>(slots.size()) != sequences.count())
    fail<ShapeError>("bad-shape", "gated_delta_rule_cached",
                     "slots: expected {}, one a sequence, got {}", sequences.count(), slots.size());
  if (slots.empty()) return;
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
                           bool is_float32) {
    if (x.sizes() != at::IntArrayRef(sizes) || (is_float32 && x.scalar_type() != at::kFloat))
      fail<ShapeError>("bad-shape", op, "{}: expected{} [{}], got {} [{}]", name,
                       is_float32 ? " float32" : "", fmt::join(sizes, ", "),
                       c10::toString(x.scalar_type()), fmt::join(x.sizes(), ", "));
    check_dtype(x.scalar_type(), op);
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
  if (!initial_state.defined()) return;
  expect("initial_state", initial_state,
         {sequences.count(), heads, inputs.q.size(2), inputs.v.size(2)}, true);
  if (sequences.has_parents())
    fail<ShapeError>("bad-shape", op, "expected initial states or parents, got both");
}

GatedDeltaOutputs gated_delta_rule(const GatedDeltaInputs& inputs,
                                   const PackedSequences& sequences,
                                   const at::Tensor& initial_state) {
  const OpTimer timer("gated_delta_rule");
  check_gated_delta("gated_delta_rule", inputs, sequences, initial_state);
  const bool trains =
      wants_gradient({inputs.q, inputs.k, inputs.v, inputs.log_decay, inputs.beta, initial_state});
  const at::NoGradGuard no_grad;
  const Prepared p = prepare(inputs);
  const auto& tokens = p.tokens;
  const auto new_states = [&](int64_t count) {
    return at::empty({count, tokens.value_heads, tokens.key_dim, tokens.value_dim}, at::kFloat);
  };
  RunStates states;
  if (initial_state.defined()) states.initial = initial_state.contiguous();
  const at::Tensor final_state = new_states(sequences.count());
  states.of_parents = final_state;
  states.parent_rows = sequences.parents();
  if (trains) states.checkpoints = new_states(checkpoint_offsets(sequences).back());
  const at::Tensor output = run_forward(p, sequences, states_in(states, final_state, sequences));
  if (!trains) return {output, final_state};
  keep_parents(final_state, sequences, states);
  const auto outputs = attach_backward(
      {inputs.q, inputs.k, inputs.v, inputs.log_decay, inputs.beta, initial_state},
      {output, final_state},
      [saved = Saved{inputs, sequences, states}](const auto& gradients, const auto& needs) {
        return backward(saved, gradients, needs);
      });
  return {outputs[0], outputs[1]};
}

at::Tensor gated_delta_rule_cached(const GatedDeltaInputs& inputs,
                                   const PackedSequences& sequences,
                                   const at::Tensor& pool,
                                   std::span<const int64_t> slots) {
  const OpTimer timer("gated_delta_rule_cached");
  check_gated_delta("gated_delta_rule_cached", inputs, sequences, {});
  check_slots(pool, inputs, sequences, slots);
  const at::NoGradGuard no_grad;
  const Prepared p = prepare(inputs);
  float* states = pool.mutable_data_ptr<float>();
  const int64_t heads = pool.size(1), size = pool.size(2) * pool.size(3);
  return run_forward(p, sequences, [&](int64_t b, int64_t h) {
    float* state = states + (slots[static_cast<size_t>(b)] * heads + h) * size;
    return cpu::DeltaStates{state, state, nullptr, 0};
  });
}

}  // namespace lockstep::ops
