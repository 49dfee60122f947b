// SPDX-License-Identifier: Apache-2.0
#include "tests/e2e/swapped_ops.h"

#include <cstdlib>
#include <map>
#include <mutex>
#include <span>
#include <sstream>

#include <ATen/ops/linspace.h>

#include "ops/activation.h"
#include "ops/attention.h"
#include "ops/causal_conv.h"
#include "ops/gated_delta.h"
#include "ops/low_rank.h"
#include "ops/moe.h"
#include "ops/rms_norm.h"
#include "ops/rope.h"
#include "ops/token_logprob.h"
#include "tensor/aten.h"

namespace lockstep::testing {
namespace {

Swap from_environment() {
  Swap swap;
  const char* const text = std::getenv("LOCKSTEP_TEST_SWAP");
  if (text) std::istringstream(text) >> swap.op >> swap.layer >> swap.error;
  return swap;
}

/// The layer whose ops this thread runs: that of the last input norm that it met. Behind the last
/// layer it is their number.
thread_local int64_t current_layer = 0;

std::vector<const char*>& names() {
  static std::vector<const char*> list;
  return list;
}
bool add_name(const char* name) {
  names().push_back(name);
  return true;
}

std::mutex layers_mutex;
/// The layers by the weights of their input norms. Weights keep their addresses, and the first
/// forward of all meets them in the order of the layers.
std::map<const void*, int64_t> layers;

void note_norm(const at::Tensor& x, const at::Tensor& weight) {
  if (x.dim() != 2) return;  // of queries and keys
  const std::lock_guard lock(layers_mutex);
  const auto number = static_cast<int64_t>(layers.size());
  current_layer = layers.try_emplace(weight.const_data_ptr(), number).first->second;
}

bool is_swapped(const char* op) {
  const Swap& swap = current_swap();
  return swap.op == op && (swap.layer == kEveryLayer || swap.layer == current_layer);
}

}  // namespace

Swap& current_swap() {
  static Swap swap = from_environment();
  return swap;
}

const std::vector<const char*>& swappable_ops() { return names(); }

void forget_layers() {
  const std::lock_guard lock(layers_mutex);
  layers.clear();
}

}  // namespace lockstep::testing

namespace lockstep::ops {
namespace {

/// x with one wrong element, the first one of the last row.
at::Tensor bend_one(const at::Tensor& x) {
  const at::Tensor factors = at::ones(x.sizes(), at::kFloat);
  factors.select(0, -1).flatten().narrow(0, 0, 1).fill_(1 + testing::current_swap().error);
  return x.mul(factors.to(x.scalar_type()));
}

/// What a batch-dependent kernel would give: off by factors that are others for most numbers of
/// rows. They differ along a row, since a norm behind the op would take away a common one.
at::Tensor bend(const at::Tensor& x) {
  if (testing::current_swap().in_one_element) return bend_one(x);
  const double last = 1 + testing::current_swap().error * static_cast<double>(1 + x.size(0) % 16);
  if (x.dim() == 1) return x.mul(last);
  return x.mul(at::linspace(1, last, x.size(-1)).to(x.scalar_type()));
}
NormedSum bend(const NormedSum& out) { return {bend(out.sum), out.normed}; }
GatedDeltaGates bend(const GatedDeltaGates& out) { return {bend(out.log_decay), out.beta}; }
GatedDeltaOutputs bend(GatedDeltaOutputs out) {
  out.output = bend(out.output);
  return out;
}
Routing bend(Routing out) {
  out.weights = bend(out.weights);
  return out;
}
RowNormalizer bend(RowNormalizer out) {
  out.log_sum *= 1 + testing::current_swap().error;
  return out;
}
TokenLogprobs bend(const TokenLogprobs& out) { return {bend(out.logprobs), out.entropy}; }

/// x, on the way to a norm that may begin a layer.
const at::Tensor& noted(const at::Tensor& x, const at::Tensor& weight) {
  testing::note_norm(x, weight);
  return x;
}

}  // namespace

#define LOCKSTEP_SWAP(symbol, result, name, parameters, arguments)  \
  result real_##name parameters asm("__real_" symbol);              \
  result wrapped_##name parameters asm("__wrap_" symbol);           \
  result wrapped_##name parameters {                                \
    auto out = real_##name arguments;                               \
    return testing::is_swapped(#name) ? bend(std::move(out)) : out; \
  }                                                                 \
  const bool is_##name##_added = testing::add_name(#name);

using at::Tensor;
// A symbol stands on one line: CMakeLists.txt reads it.
// clang-format off
LOCKSTEP_SWAP(
    "_ZN8lockstep3ops14adapted_linearERKN2at6TensorERKNS0_12LinearWeightESt4spanIKNS0_11LowRankTermELm18446744073709551615EE",
    Tensor,
    adapted_linear,
    (const Tensor& x, const LinearWeight& w, std::span<const LowRankTerm> terms),
    (x, w, terms))
LOCKSTEP_SWAP("_ZN8lockstep3ops8rms_normERKN2at6TensorES4_dNS0_8NormKindE",
              Tensor,
              rms_norm,
              (const Tensor& x, const Tensor& w, double eps, NormKind kind),
              (noted(x, w), w, eps, kind))
LOCKSTEP_SWAP("_ZN8lockstep3ops12add_rms_normERKN2at6TensorES4_S4_dNS0_8NormKindE",
              NormedSum,
              add_rms_norm,
              (const Tensor& x, const Tensor& y, const Tensor& w, double eps, NormKind kind),
              (x, y, w, eps, kind))
LOCKSTEP_SWAP("_ZN8lockstep3ops14gated_rms_normERKN2at6TensorES4_S4_d",
              Tensor,
              gated_rms_norm,
              (const Tensor& x, const Tensor& z, const Tensor& w, double eps),
              (x, z, w, eps))
LOCKSTEP_SWAP("_ZN8lockstep3ops8silu_mulERKN2at6TensorE", Tensor, silu_mul, (const Tensor& x), (x))
LOCKSTEP_SWAP("_ZN8lockstep3ops11sigmoid_mulERKN2at6TensorES4_",
              Tensor,
              sigmoid_mul,
              (const Tensor& x, const Tensor& gate),
              (x, gate))
LOCKSTEP_SWAP("_ZN8lockstep3ops10rope_tableERKN2at6TensorEld",
              Tensor,
              rope_table,
              (const Tensor& positions, int64_t dim, double theta),
              (positions, dim, theta))
LOCKSTEP_SWAP("_ZN8lockstep3ops10apply_ropeERKN2at6TensorES4_",
              Tensor,
              apply_rope,
              (const Tensor& x, const Tensor& table),
              (x, table))
LOCKSTEP_SWAP(
    "_ZN8lockstep3ops16causal_attentionERKN2at6TensorES4_S4_RKNS0_15PackedSequencesEd",
    Tensor,
    causal_attention,
    (const Tensor& q, const Tensor& k, const Tensor& v, const PackedSequences& s, double scale),
    (q, k, v, s, scale))
LOCKSTEP_SWAP(
    "_ZN8lockstep3ops15paged_attentionERKN2at6TensorES4_S4_RKNS0_10PagedBatchEd",
    Tensor,
    paged_attention,
    (const Tensor& q, const Tensor& k, const Tensor& v, const PagedBatch& batch, double scale),
    (q, k, v, batch, scale))
LOCKSTEP_SWAP("_ZN8lockstep3ops11causal_convERKN2at6TensorES4_RKNS0_15PackedSequencesE",
              Tensor,
              causal_conv,
              (const Tensor& x, const Tensor& w, const PackedSequences& s),
              (x, w, s))
LOCKSTEP_SWAP(
    "_ZN8lockstep3ops18causal_conv_cachedERKN2at6TensorES4_RKNS0_15PackedSequencesES4_St4spanIKlLm18446744073709551615EE",
    Tensor,
    causal_conv_cached,
    (const Tensor& x,
     const Tensor& w,
     const PackedSequences& s,
     const Tensor& pool,
     std::span<const int64_t> slots),
    (x, w, s, pool, slots))
LOCKSTEP_SWAP("_ZN8lockstep3ops17gated_delta_gatesERKN2at6TensorES4_S4_S4_",
              GatedDeltaGates,
              gated_delta_gates,
              (const Tensor& a, const Tensor& b, const Tensor& A_log, const Tensor& dt_bias),
              (a, b, A_log, dt_bias))
LOCKSTEP_SWAP(
    "_ZN8lockstep3ops16gated_delta_ruleERKNS0_16GatedDeltaInputsERKNS0_15PackedSequencesERKN2at6TensorE",
    GatedDeltaOutputs,
    gated_delta_rule,
    (const GatedDeltaInputs& in, const PackedSequences& s, const Tensor& state),
    (in, s, state))
LOCKSTEP_SWAP(
    "_ZN8lockstep3ops23gated_delta_rule_cachedERKNS0_16GatedDeltaInputsERKNS0_15PackedSequencesERKN2at6TensorESt4spanIKlLm18446744073709551615EE",
    Tensor,
    gated_delta_rule_cached,
    (const GatedDeltaInputs& in,
     const PackedSequences& s,
     const Tensor& pool,
     std::span<const int64_t> slots),
    (in, s, pool, slots))
LOCKSTEP_SWAP("_ZN8lockstep3ops5routeERKN2at6TensorElbPKNS0_10RouterTermEPKNS0_12GivenExpertsE",
              Routing,
              route,
              (const Tensor& logits,
               int64_t num_chosen,
               bool renormalize,
               const RouterTerm* term,
               const GivenExperts* given),
              (logits, num_chosen, renormalize, term, given))
LOCKSTEP_SWAP(
    "_ZN8lockstep3ops7expertsERKN2at6TensorERKNS0_7RoutingERKNS0_10ExpertBankESA_St4spanIKNS0_10ExpertTermELm18446744073709551615EEPNS0_11ExpertRanksE",
    Tensor,
    experts,
    (const Tensor& x,
     const Routing& r,
     const ExpertBank& gate_up,
     const ExpertBank& down,
     std::span<const ExpertTerm> terms,
     ExpertRanks* ranks),
    (x, r, gate_up, down, terms, ranks))
LOCKSTEP_SWAP(
    "_ZN8lockstep3ops14token_logprobsERKN2at6TensorERKNS0_11AdaptedHeadES4_db",
    TokenLogprobs,
    token_logprobs,
    (const Tensor& h, const AdaptedHead& head, const Tensor& ids, double t, bool entropy),
    (h, head, ids, t, entropy))
LOCKSTEP_SWAP("_ZN8lockstep3ops17vocabulary_logitsERKN2at6TensorERKNS0_11AdaptedHeadE",
              Tensor,
              vocabulary_logits,
              (const Tensor& h, const AdaptedHead& head),
              (h, head))
LOCKSTEP_SWAP("_ZN8lockstep3ops20normalizer_of_logitsESt4spanIKfLm18446744073709551615EEd",
              RowNormalizer,
              normalizer_of_logits,
              (std::span<const float> logits, double t),
              (logits, t))
// clang-format on

}  // namespace lockstep::ops
