// SPDX-License-Identifier: Apache-2.0
//
// Rows go in chunks and the vocabulary in blocks. A row's bits depend on neither its chunk nor the
// thread count: packed products are row-independent, and the rest is done one row at a time.
#include "ops/token_logprob.h"

#include <cmath>
#include <limits>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include <ATen/core/IListRef.h>  // the list of at::cat

#include "base/check.h"
#include "base/op_timer.h"
#include "base/options.h"  // Range
#include "ops/cpu/token_logprob.h"
#include "ops/head_terms.h"
#include "ops/kernel_data.h"
#include "ops/panel_product.h"
#include "tensor/aten.h"
#include "tensor/autograd.h"
#include "tensor/parallel.h"

namespace lockstep::ops {
namespace {

static_assert(kVocabularyBlock <= cpu::kMaxLogprobColumns);
constexpr int64_t kRowGrain = 16;

/// A row's log-sum-exp over the blocks so far.
struct RowState {
  float max = -std::numeric_limits<float>::infinity();
  double sum = 0;
  /// sum exp(x) x, x = (l - max) / temperature.
  double weighted = 0;
  /// The target's logit, once its block has passed.
  float target = 0;
};

/// Moves the sums' reference from an old maximum to one that is higher by -shift * temperature.
void rescale(double shift, double& sum, double& weighted) {
  const double factor = std::exp(shift);
  weighted = (weighted + shift * sum) * factor;
  sum *= factor;
}

void combine(RowState& state, cpu::LogSumExp part, double inverse_temperature) {
  if (state.sum == 0) {
    state.max = part.max;
  } else if (part.max > state.max) {
    rescale((double{state.max} - part.max) * inverse_temperature, state.sum, state.weighted);
    state.max = part.max;
  } else {
    rescale((double{part.max} - state.max) * inverse_temperature, part.sum, part.weighted);
  }
  state.sum += part.sum;
  state.weighted += part.weighted;
}

float to_float(float value) { return value; }
float to_float(uint16_t bits) {
  return at::BFloat16(bits, at::BFloat16::from_bits()).operator float();
}

/// Columns [first, first + columns) of the vocabulary for some rows.
template <class T>
struct LogitBlock {
  const T* logits;
  int64_t row_stride;
  int64_t first;
  int64_t columns;
};

template <class T>
void accumulate(const LogitBlock<T>& block,
                std::span<const int64_t> targets,
                double temperature,
                bool with_entropy,
                RowState* states) {
  const double inverse = 1 / temperature;
  parallel_for(0, std::ssize(targets), kRowGrain, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const T* logits = block.logits + row * block.row_stride;
      combine(states[row],
              cpu::log_sum_exp(logits, block.columns, static_cast<float>(inverse), with_entropy),
              inverse);
      const int64_t column = targets[static_cast<size_t>(row)] - block.first;
      if (column >= 0 && column < block.columns) states[row].target = to_float(logits[column]);
    }
  });
}

float entropy_of(const RowState& state) {
  return static_cast<float>(std::log(state.sum) - state.weighted / state.sum);
}

float logprob_of(const RowState& state, double temperature) {
  return RowNormalizer{state.max, std::log(state.sum), temperature}.logprob(state.target);
}

void check_targets(const at::Tensor& targets, int64_t rows, int64_t vocabulary, const char* op) {
  if (targets.dim() != 1 || targets.size(0) != rows || targets.scalar_type() != at::kLong)
    fail<ShapeError>("bad-shape", op, "expected targets [{}] int64, got {} {}", rows,
                     shape_text(targets), at::toString(targets.scalar_type()));
  for (const int64_t target :
       std::span(targets.const_data_ptr<int64_t>(), static_cast<size_t>(rows)))
    if (target < 0 || target >= vocabulary)
      fail<ShapeError>("bad-target", op, "expected targets in [0, {}), got {}", vocabulary, target);
}

void check_temperature(double temperature, const char* op) {
  constexpr Range kRange = Range::logit_factor();
  if (!kRange.contains(temperature))
    fail<ConfigError>("bad-temperature", op, "expected a temperature in [{}, {}], got {}",
                      kRange.low, kRange.high, temperature);
}

void check_hidden(const at::Tensor& hidden, const VocabularyHead& head, const char* op) {
  if (hidden.dim() != 2 || !head.weight.defined() || hidden.size(1) != head.weight.size(1) ||
      hidden.scalar_type() != head.weight.scalar_type())
    fail<ShapeError>("bad-shape", op, "expected hidden [T, D] like the head's {} {}, got {} {}",
                     head.weight.defined() ? shape_text(head.weight) : "[]",
                     head.weight.defined() ? at::toString(head.weight.scalar_type()) : "none",
                     shape_text(hidden), at::toString(hidden.scalar_type()));
}

/// Calls visit(block index, first column, number of columns).
template <class Visit>
void for_each_block(int64_t vocabulary, Visit&& visit) {
  for (int64_t first = 0; first < vocabulary; first += kVocabularyBlock)
    visit(static_cast<size_t>(first / kVocabularyBlock), first,
          std::min(kVocabularyBlock, vocabulary - first));
}

/// Calls visit(first row, number of rows).
template <class Visit>
void for_each_chunk(int64_t rows, Visit&& visit) {
  for (int64_t first = 0; first < rows; first += kLogprobRows)
    visit(first, std::min(kLogprobRows, rows - first));
}

std::span<const int64_t> target_span(const at::Tensor& targets, int64_t first, int64_t rows) {
  return {targets.const_data_ptr<int64_t>() + first, static_cast<size_t>(rows)};
}

struct Scoring {
  double temperature = 1;
  bool with_entropy = false;
};

std::vector<RowState> row_states(const at::Tensor& hidden,
                                 const AdaptedHead& adapted,
                                 const HeadTerms& terms,
                                 const at::Tensor& targets,
                                 Scoring scoring) {
  const VocabularyHead& head = adapted.head;
  std::vector<RowState> states(static_cast<size_t>(hidden.size(0)));
  for_each_chunk(hidden.size(0), [&](int64_t first_row, int64_t rows) {
    const at::Tensor chunk = hidden.narrow(0, first_row, rows);
    const auto slices = terms.slices(first_row, rows);
    for_each_block(head.weight.size(0), [&](size_t index, int64_t first, int64_t columns) {
      const at::Tensor logits = linear(chunk, head.blocks[index]);
      if (!slices.empty()) terms.add(logits, slices, index);
      for_dtype(logits.scalar_type(), "token_logprobs", [&](auto tag) {
        using T = decltype(tag);
        accumulate(LogitBlock<T>{const_elements<T>(logits), columns, first, columns},
                   target_span(targets, first_row, rows), scoring.temperature, scoring.with_entropy,
                   states.data() + first_row);
      });
    });
  });
  return states;
}

/// What the backward keeps of the forward: all of it is inputs, but for two numbers a row.
struct SavedForward {
  at::Tensor hidden;
  VocabularyHead head;
  HeadTerms terms;
  at::Tensor targets;
  double temperature;
  std::vector<RowState> states;
};

/// Rows of hidden states, from row `first` on, and the terms that they have.
struct Chunk {
  at::Tensor hidden;
  int64_t first = 0;
  std::vector<HeadTerms::Slice> slices;
};

/// [T] float32 each.
struct RowGradients {
  at::Tensor logprobs;
  /// Undefined: entropies have no gradient.
  at::Tensor entropy;
};

/// Recomputes the logits of a chunk and a block and turns them into their gradient.
at::Tensor block_gradient(const SavedForward& saved,
                          const Chunk& chunk,
                          size_t block,
                          const RowGradients& gradients) {
  const float* const dlogprobs = gradients.logprobs.const_data_ptr<float>();
  const float* const dentropy =
      gradients.entropy.defined() ? gradients.entropy.const_data_ptr<float>() : nullptr;
  const at::Tensor logits = linear(chunk.hidden, saved.head.blocks[block]);
  if (!chunk.slices.empty()) saved.terms.add(logits, chunk.slices, block);
  const int64_t columns = logits.size(1);
  const auto inverse = static_cast<float>(1 / saved.temperature);
  for_dtype(logits.scalar_type(), "token_logprobs", [&](auto tag) {
    using T = decltype(tag);
    T* const data = elements<T>(logits);
    const int64_t* targets = saved.targets.const_data_ptr<int64_t>();
    parallel_for(0, chunk.hidden.size(0), kRowGrain, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t row = chunk.first + i;
        const RowState& state = saved.states[static_cast<size_t>(row)];
        cpu::logprob_gradient(
            data + i * columns, columns,
            {.max = state.max,
             .log_sum = static_cast<float>(std::log(state.sum)),
             .inverse_temperature = inverse,
             .scale = static_cast<float>(dlogprobs[row] / saved.temperature),
             .target = targets[row] - static_cast<int64_t>(block) * kVocabularyBlock,
             .entropy = dentropy ? entropy_of(state) : 0,
             .entropy_scale =
                 dentropy ? static_cast<float>(dentropy[row] / saved.temperature) : 0});
      }
    });
  });
  return logits;
}

/// Blocks outside, rows inside: then one block's weight gradient is all that is kept in float32.
std::vector<at::Tensor> backward(const SavedForward& saved,
                                 const RowGradients& from,
                                 const std::vector<bool>& needs) {
  const at::Tensor& weight = saved.head.weight;
  const auto float_options = saved.hidden.options().dtype(at::kFloat).requires_grad(false);
  at::Tensor dhidden, dweight;
  if (needs[0]) dhidden = at::zeros(saved.hidden.sizes(), float_options);
  if (needs[1]) dweight = at::empty(weight.sizes(), weight.options());
  HeadTermGradients terms(saved.terms);
  for_each_block(weight.size(0), [&](size_t index, int64_t first, int64_t columns) {
    at::Tensor dblock;
    std::optional<BackwardOperand> block_weight;
    if (needs[0]) block_weight.emplace(saved.head.blocks[index]);
    if (needs[1]) dblock = at::zeros({columns, weight.size(1)}, float_options);
    terms.begin_block(index);
    for_each_chunk(saved.hidden.size(0), [&](int64_t first_row, int64_t rows) {
      const Chunk chunk{saved.hidden.narrow(0, first_row, rows), first_row,
                        saved.terms.slices(first_row, rows)};
      const at::Tensor dlogits = block_gradient(saved, chunk, index, from);
      if (needs[0])
        backward_products({{dhidden.narrow(0, first_row, rows), dlogits, *block_weight, true}});
      if (needs[1]) backward_products({{dblock, dlogits.t(), chunk.hidden, true}});
      if (!chunk.slices.empty()) terms.add(dlogits, chunk.slices);
    });
    if (needs[1]) dweight.narrow(0, first, columns).copy_(dblock);
  });
  std::vector<at::Tensor> gradients(needs.size());
  put_pairs(terms.finish(saved.hidden, dhidden), gradients, 2);
  if (needs[0]) gradients[0] = dhidden.to(saved.hidden.scalar_type());
  gradients[1] = dweight;
  return gradients;
}

}  // namespace

VocabularyHead::VocabularyHead(at::Tensor canonical) : weight(std::move(canonical)) {
  at::NoGradGuard no_grad;
  for_each_block(weight.size(0), [&](size_t, int64_t first, int64_t columns) {
    blocks.emplace_back(weight.detach().narrow(0, first, columns));
  });
}

void VocabularyHead::pack() {
  for (auto& block : blocks) block.pack();
}

int64_t VocabularyHead::packed_bytes() const {
  int64_t bytes = 0;
  for (const LinearWeight& block : blocks) bytes += block.packed_bytes();
  return bytes;
}

void VocabularyHead::drop_packed() {
  for (LinearWeight& block : blocks) block.drop_packed();
}

bool VocabularyHead::can_release() const {
  return std::all_of(blocks.begin(), blocks.end(),
                     [](const LinearWeight& block) { return block.can_release(); });
}

void VocabularyHead::release() {
  for (auto& block : blocks) block.release();
  weight = without_values(weight);
}

void VocabularyHead::take(const at::Tensor& values) {
  int64_t first = 0;
  for (auto& block : blocks) {
    const int64_t rows = block.weight.size(0);
    block.take(values.narrow(0, first, rows));
    first += rows;
  }
}

at::Tensor VocabularyHead::values() const {
  if (has_values(weight)) return weight;
  std::vector<at::Tensor> rows;
  for (const auto& block : blocks) rows.push_back(block.values());
  return at::cat(rows);
}

at::Tensor VocabularyHead::rows(const at::Tensor& ids) const {
  const int64_t count = ids.numel(), vocabulary = weight.size(0);
  const auto* const wanted = ids.const_data_ptr<int64_t>();
  for (int64_t t = 0; t < count; ++t)
    if (wanted[t] < 0 || wanted[t] >= vocabulary)
      fail<ShapeError>("bad-id", "embedding", "expected ids in [0, {}), got {}", vocabulary,
                       wanted[t]);
  const at::Tensor table =
      at::empty({count, weight.size(1)}, blocks[0].packed.options().requires_grad(false));
  parallel_for(0, count, kRowGrain, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t)
      unpack_row(blocks[static_cast<size_t>(wanted[t] / kVocabularyBlock)].packed,
                 wanted[t] % kVocabularyBlock, table, t);
  });
  return table;
}

TokenLogprobs token_logprobs(const at::Tensor& hidden,
                             const AdaptedHead& adapted,
                             const at::Tensor& targets,
                             double temperature,
                             bool with_entropy) {
  const OpTimer timer("token_logprobs");
  const VocabularyHead& head = adapted.head;
  check_hidden(hidden, head, "token_logprobs");
  check_temperature(temperature, "token_logprobs");
  const int64_t rows = hidden.size(0);
  const at::Tensor ids = targets.contiguous();
  check_targets(ids, rows, head.weight.size(0), "token_logprobs");
  TokenLogprobs result;
  std::vector<RowState> states;
  HeadTerms terms(hidden, adapted, "token_logprobs");
  {
    at::NoGradGuard no_grad;
    states = row_states(hidden, adapted, terms, ids, {temperature, with_entropy});
    result.logprobs = at::empty({rows}, hidden.options().dtype(at::kFloat));
    if (with_entropy) result.entropy = at::empty_like(result.logprobs);
  }
  for (int64_t row = 0; row < rows; ++row) {
    const RowState& state = states[static_cast<size_t>(row)];
    result.logprobs.mutable_data_ptr<float>()[row] = logprob_of(state, temperature);
    if (with_entropy) result.entropy.mutable_data_ptr<float>()[row] = entropy_of(state);
  }
  std::vector<at::Tensor> inputs{hidden, head.weight};
  for (const HeadTerm& term : adapted.terms) {
    inputs.push_back(term.pair->a.weight);
    inputs.push_back(term.pair->b.weight);
  }
  if (!wants_gradient(inputs)) return result;
  SavedForward saved{hidden, head, std::move(terms), ids, temperature, std::move(states)};
  std::vector<at::Tensor> outputs{result.logprobs};
  if (with_entropy) outputs.push_back(result.entropy);
  outputs = attach_backward(inputs, std::move(outputs),
                            [saved = std::move(saved)](const auto& from, const auto& needs) {
                              RowGradients gradients;
                              if (from[0].defined())
                                gradients.logprobs = from[0].to(at::kFloat).contiguous();
                              if (from.size() > 1 && from[1].defined())
                                gradients.entropy = from[1].to(at::kFloat).contiguous();
                              if (!gradients.logprobs.defined() && !gradients.entropy.defined())
                                return std::vector<at::Tensor>(needs.size());
                              if (!gradients.logprobs.defined())
                                gradients.logprobs = at::zeros_like(gradients.entropy);
                              return backward(saved, gradients, needs);
                            });
  result.logprobs = outputs[0];
  if (with_entropy) result.entropy = outputs[1];
  return result;
}

at::Tensor vocabulary_logits(const at::Tensor& hidden, const AdaptedHead& adapted) {
  const OpTimer timer("vocabulary_logits");
  const VocabularyHead& head = adapted.head;
  check_hidden(hidden, head, "vocabulary_logits");
  at::NoGradGuard no_grad;
  const HeadTerms terms(hidden, adapted, "vocabulary_logits");
  const auto slices = terms.slices(0, hidden.size(0));
  const at::Tensor logits =
      at::empty({hidden.size(0), head.weight.size(0)}, hidden.options().dtype(at::kFloat));
  for_each_block(head.weight.size(0), [&](size_t index, int64_t first, int64_t columns) {
    const at::Tensor block = linear(hidden, head.blocks[index]);
    if (!slices.empty()) terms.add(block, slices, index);
    logits.narrow(1, first, columns).copy_(block);
  });
  return logits;
}

at::Tensor logprobs_of_logits(const at::Tensor& logits,
                              const at::Tensor& targets,
                              double temperature) {
  const OpTimer timer("logprobs_of_logits");
  check_temperature(temperature, "logprobs_of_logits");
  if (logits.dim() != 2 || logits.scalar_type() != at::kFloat)
    fail<ShapeError>("bad-shape", "logprobs_of_logits", "expected logits [T, V] float32, got {} {}",
                     shape_text(logits), at::toString(logits.scalar_type()));
  at::NoGradGuard no_grad;
  const int64_t rows = logits.size(0), vocabulary = logits.size(1);
  const at::Tensor ids = targets.contiguous(), values = logits.contiguous();
  check_targets(ids, rows, vocabulary, "logprobs_of_logits");
  std::vector<RowState> states(static_cast<size_t>(rows));
  for_each_block(vocabulary, [&](size_t, int64_t first, int64_t columns) {
    accumulate(
        LogitBlock<float>{values.const_data_ptr<float>() + first, vocabulary, first, columns},
        target_span(ids, 0, rows), temperature, /*with_entropy=*/false, states.data());
  });
  const at::Tensor logprobs = at::empty({rows}, logits.options());
  for (int64_t row = 0; row < rows; ++row)
    logprobs.mutable_data_ptr<float>()[row] =
        logprob_of(states[static_cast<size_t>(row)], temperature);
  return logprobs;
}

RowNormalizer normalizer_of_logits(std::span<const float> logits, double temperature) {
  check_temperature(temperature, "normalizer_of_logits");
  RowState state;
  for_each_block(std::ssize(logits), [&](size_t, int64_t first, int64_t columns) {
    combine(state,
            cpu::log_sum_exp(logits.data() + first, columns, static_cast<float>(1 / temperature),
                             /*with_entropy=*/false),
            1 / temperature);
  });
  return {state.max, std::log(state.sum), temperature};
}

}  // namespace lockstep::ops
