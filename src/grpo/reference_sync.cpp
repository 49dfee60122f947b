// SPDX-License-Identifier: Apache-2.0
#include "grpo/reference_sync.h"

#include <map>
#include <string>

#include "base/check.h"
#include "base/log.h"
#include "io/safetensors.h"
#include "tensor/aten.h"

namespace lockstep::grpo {
namespace {

constexpr const char* kMovedAt = "reference_moved_at";

}  // namespace

void mix_weights(model::ModelWeights& reference, const model::ModelWeights& policy, double alpha) {
  at::NoGradGuard no_grad;
  for (size_t i = 0; i < reference.parameters().size(); ++i) {
    at::Tensor mixed = reference.values(i).detach().to(at::kFloat, /*non_blocking=*/false,
                                                       /*copy=*/true);
    mixed.mul_(1 - alpha).add_(policy.values(i).detach(), alpha);
    reference.set_values(i, mixed);
  }
}

ReferenceSync::ReferenceSync(const ReferenceSyncOptions& options,
                             ReferenceModel& reference,
                             const model::ModelWeights& policy)
    : options_(options), reference_(reference.own_weights()), policy_(&policy) {
  LOCKSTEP_CHECK(reference_, "the reference has no weights of its own");
  const auto& own = reference_->parameters();
  const auto& theirs = policy.parameters();
  for (size_t i = 0; i < std::max(own.size(), theirs.size()); ++i) {
    if (i < own.size() && i < theirs.size() && own[i].id == theirs[i].id &&
        own[i].shape == theirs[i].shape)
      continue;
    const auto name = [i](const auto& list) {
      return i < list.size() ? fmt::format("{} {}", list[i].id, Json(list[i].shape).dump())
                             : std::string("none");
    };
    fail<ConfigError>("bad-flag", "--ref_model",
                      "expected a model of the policy's shape with --sync_ref_model, which has {}, "
                      "got {}",
                      name(theirs), name(own));
  }
}

void ReferenceSync::after_step(int64_t step) {
  if (step % options_.ref_model_sync_steps) return;
  mix_weights(*reference_, *policy_, options_.ref_model_mixup_alpha);
  moved_at_ = step;
  log_info("reference model: {} of the policy of step {} is mixed into it",
           options_.ref_model_mixup_alpha, step);
}

void ReferenceSync::save(LoopState& state) const {
  if (!moved_at_) return;
  state.values[kMovedAt] = moved_at_;
  for (size_t i = 0; i < reference_->parameters().size(); ++i) {
    const model::Parameter& parameter = reference_->parameters()[i];
    state.reference.push_back({parameter.id,
                               io::tensor_like(parameter.shape, parameter.value.scalar_type()),
                               [reference = reference_, i] { return reference->values(i); }});
  }
}

void ReferenceSync::restore(const ResumePoint& resume) {
  if (!resume.state.is_object() || !resume.state.contains(kMovedAt)) return;
  const std::filesystem::path path = state_file(resume, kReferenceFile);
  const io::SafetensorsFile file(path);
  std::map<std::string, const io::TensorEntry*> entries;
  for (const auto& entry : file.entries()) entries[entry.name] = &entry;
  for (size_t i = 0; i < reference_->parameters().size(); ++i) {
    const model::Parameter& parameter = reference_->parameters()[i];
    const auto found = entries.find(parameter.id);
    if (found == entries.end() || found->second->shape != parameter.shape)
      fail<FormatError>("bad-resume", path.string(), "expected the reference model's {} {}, got {}",
                        parameter.id, Json(parameter.shape).dump(),
                        found == entries.end() ? "none" : Json(found->second->shape).dump());
    reference_->set_values(i, file.tensor(*found->second));
  }
  moved_at_ = state_number(resume, kMovedAt);
}

}  // namespace lockstep::grpo
