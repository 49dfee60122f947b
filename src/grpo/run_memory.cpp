// The memory plan of the runs of a command, which take turns beside one model: the model counts
// once, what each of them keeps is summed, and of what a turn takes the most counts.
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <vector>

#include "base/check.h"
#include "base/log.h"
#include "grpo/training_run.h"
#include "parallel/agreement.h"
#include "parallel/identity.h"

namespace lockstep::grpo {
namespace {

double gib(int64_t bytes) { return static_cast<double>(bytes) / (1024.0 * 1024 * 1024); }

/// What is there for work that is still to come, on a host that so many ranks share.
double available_gib(const std::optional<double>& budget, double present, int64_t sharing) {
  const double available = available_memory_gib() / static_cast<double>(sharing);
  if (!budget) return available;
  if (*budget <= present)
    fail<ConfigError>("bad-flag", "--memory_budget",
                      "expected more than the {:.4g} GiB of program, weights and optimizer, "
                      "got {}",
                      present, *budget);
  return available > 0 ? std::min(available, *budget - present) : *budget - present;
}

/// The least that any rank has. All decide by it, since what they compute together depends on it.
double available_to_all(parallel::Group& ranks,
                        const std::optional<double>& budget,
                        const MemoryPlan& shared) {
  double own = 0;
  const std::string host = parallel::this_process().host;
  const auto hosts = parallel::gather_results(ranks, {"hosts"}, [&] { return host; });
  parallel::do_together(ranks, {"memory budget"}, [&] {
    own = available_gib(budget, shared.present(),
                        static_cast<int64_t>(std::count(hosts.begin(), hosts.end(), host)));
  });
  return parallel::least_of(ranks, own, {"available memory"});
}

}  // namespace

/// Decides whether to keep what the layers read while sampling, and how many layers keep what they
/// made in training. If the first is kept, on-policy steps run no forward whose activations could
/// be kept.
void TrainingRun::choose_kept(double available) {
  const double sampling = gib(plan_.cache_bytes + plan_.sampling_bytes),
               rollout = gib(plan_.kept_bytes);
  // What is still to come. That the caches stay counts less than kept activations: they can be
  // freed before a step begins.
  const auto fits = [&](double kept_from_sampling) {
    const train::StepMemory step = step_memory();
    const double kept = kept_from_sampling + gib(plan_.routed_bytes);
    return (std::max(sampling, gib(step.kept + step.work)) + kept) * kPlanSlack <= available;
  };
  // A forward with dropout is not the sampler's.
  reuses_activations_ =
      !trainer_->has_dropout() && (plan_.reuse_activations == ReuseActivations::kTrue ||
                                   (plan_.reuse_activations == ReuseActivations::kAuto &&
                                    options_.trainer.gradient_checkpointing && fits(rollout)));
  if (reuses_activations_ && plan_.is_on_policy) return trainer_->keep_layers(0);
  int64_t layers = trainer_->num_layers();
  trainer_->keep_layers(layers);
  while (options_.trainer.gradient_checkpointing && layers > 0 &&
         !fits(reuses_activations_ ? rollout : 0))
    trainer_->keep_layers(--layers);
}

/// What the step that needs most needs.
train::StepMemory TrainingRun::step_memory() const {
  train::StepMemory most;
  for (const train::StepShape& shape : plan_.steps) {
    const train::StepMemory step = trainer_->step_memory(shape);
    if (step.kept + step.work > most.kept + most.work) most = step;
  }
  return most;
}

/// The plan while this run has its turn. `shared` is what is there all the time, and the caches if
/// they stay.
MemoryPlan TrainingRun::memory_of(const MemoryPlan& shared, bool caches_stay) const {
  MemoryPlan memory = shared;
  memory.caches_stay = caches_stay;
  if (!caches_stay) memory.caches = gib(plan_.cache_bytes);
  memory.sampling = gib(plan_.sampling_bytes);
  const train::StepMemory step = step_memory();
  memory.kept = gib(step.kept);
  memory.work = gib(step.work);
  memory.from_sampling = gib(plan_.routed_bytes + (reuses_activations_ ? plan_.kept_bytes : 0));
  return memory;
}

void TrainingRun::plan_memory(std::span<TrainingRun* const> runs) {
  const TrainingRun& first = *runs.front();
  const model::ModelWeights& base = first.model_.base_weights();
  MemoryPlan shared{.weights = gib(base.canonical_bytes()),
                    .packed = gib(base.packed_bytes()),
                    .reference = gib(first.plan_.reference_bytes)};
  for (const TrainingRun* run : runs) {
    // Modules that are trained whole.
    shared.weights += gib(run->model_.weights->bytes_apart_from(base));
    if (const model::Adapter* adapter = run->model_.adapter.get()) {
      shared.weights += gib(adapter->canonical_bytes());
      shared.packed += gib(adapter->packed_bytes());
    }
    shared.optimizer += gib(run->optimizer_->state_bytes());
    shared.caches = std::max(shared.caches, gib(run->plan_.cache_bytes));
  }
  // The program, its libraries and the rows are what is resident besides the tensors; tensors that
  // nothing was written to yet are not, nor are the libraries' pages that only work touches.
  shared.program =
      kWorkingPages + std::max(first.program_gib_, resident_memory_gib() - shared.tensors());
  const double available =
      available_to_all(first.ranks(), first.options_.run.memory_budget, shared);
  for (TrainingRun* run : runs) run->choose_kept(available);

  const auto largest = [&](bool caches_stay) {
    return *std::max_element(runs.begin(), runs.end(), [&](const auto* a, const auto* b) {
      return a->memory_of(shared, caches_stay).coming() <
             b->memory_of(shared, caches_stay).coming();
    });
  };
  const bool caches_stay =
      largest(true)->memory_of(shared, true).coming() * kPlanSlack <= available;
  const TrainingRun& most = *largest(caches_stay);
  const MemoryPlan memory = most.memory_of(shared, caches_stay);
  for (TrainingRun* run : runs) {
    run->keeps_caches_ = caches_stay;
    run->planned_gib_ = memory.most();
    if (run->plan_.kept_bytes) run->resolve("reuse_rollout_activations", run->reuses_activations_);
    run->loop_.planned();
  }
  if (runs.size() > 1)
    log_info("memory plan: {} adapters take turns beside one copy of the weights; {} needs most",
             runs.size(), most.name());
  say_memory(memory, most.plan_.sequences_at_once, most.trainer_->kept_layers(),
             most.trainer_->num_layers());
  if (available > 0 && memory.coming() > available)
    log_warning(
        "memory plan: {} more are needed, {} are available (hint: a smaller model, "
        "--torch_dtype bfloat16, fewer samples a step, --max_tokens_per_micro_batch, "
        "--cache_memory)",
        size_text(memory.coming()), size_text(available));
}

}  // namespace lockstep::grpo
