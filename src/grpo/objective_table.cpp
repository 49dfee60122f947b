// SPDX-License-Identifier: Apache-2.0
#include "grpo/objective_table.h"

#include <fmt/format.h>

namespace lockstep::grpo {
namespace {

constexpr std::string_view kLosses = "Objectives.LossesAndTheirGradientsEqualFloat64Formulas";
constexpr std::string_view kAdvantages = "Objectives.AdvantagesEqualFloat64Formulas";
constexpr std::string_view kEntropyControl = "EntropyControl.FollowsTheEntropyWithinItsBounds";

constexpr std::string_view kDeepSeekMath = "[arXiv:2402.03300](https://arxiv.org/abs/2402.03300)";
constexpr std::string_view kDapo = "[arXiv:2503.14476](https://arxiv.org/abs/2503.14476)";
constexpr std::string_view kGspo = "[arXiv:2507.18071](https://arxiv.org/abs/2507.18071)";
constexpr std::string_view kReinforce = "[arXiv:2501.03262](https://arxiv.org/abs/2501.03262)";
constexpr std::string_view kKl = "[Schulman](http://joschu.net/blog/kl-approx.html)";
constexpr std::string_view kDeepSeekV32 = "[arXiv:2512.02556](https://arxiv.org/abs/2512.02556)";
constexpr std::string_view kSwift = "ms-swift 4.6";

constexpr Objective kTable[] = {
    {"loss_type", "grpo", "mean_i mean_t P", kDeepSeekMath, kLosses},
    {"loss_type", "bnpo", "Σ P / loss tokens of the step", "TRL", kLosses},
    {"loss_type", "dr_grpo", "Σ P / (completions · max_completion_length)",
     "[arXiv:2503.20783](https://arxiv.org/abs/2503.20783)", kLosses},
    {"loss_type", "dapo", "Σ P / tokens of the step", kDapo, kLosses},
    {"loss_type", "gspo", "mean_i mean_t P, ratios of sequences", kGspo, kLosses},
    {"loss_type", "cispo", "Σ −sg(min(ρ, epsilon_high)) A log π / tokens of the step",
     "[arXiv:2506.13585](https://arxiv.org/abs/2506.13585)", kLosses},
    {"loss_type", "sapo", "mean_i mean_t −σ(τ(ρ − 1)) · 4/τ · A, τ = tau_pos if A > 0 else tau_neg",
     "[arXiv:2511.20347](https://arxiv.org/abs/2511.20347)", kLosses},
    {"loss_type", "fipo",
     "Σ f P / tokens of the step, f = sg(clip(exp(Σ_{k≥t} 2^(−(k−t)/decay) log ρ_k), 1, 1 + "
     "range))",
     "[arXiv:2603.19835](https://arxiv.org/abs/2603.19835)", kLosses},
    {"loss_type", "real",
     "mean over groups of log(1 + Σ_wrong e^S) + log(1 + Σ_right e^−S), S = mean_t log ρ / "
     "real_tau; "
     "right: A > 0",
     "[arXiv:2602.05630](https://arxiv.org/abs/2602.05630)", kLosses},
    {"loss_type", "luspo", "mean_i Σ_t P, ratios of sequences",
     "[arXiv:2602.05261](https://arxiv.org/abs/2602.05261)", kLosses},
    {"loss_type", "vespo",
     "Σ −sg(φ) A log π / tokens of the step, φ = e^λ w^k e^(−λw), w = Π_t ρ_t c_t",
     "[arXiv:2602.10693](https://arxiv.org/abs/2602.10693)", kLosses},
    {"importance_sampling_level", "token", "ρ_t = π_t / π_old,t", kDeepSeekMath, kLosses},
    {"importance_sampling_level", "sequence", "ρ = exp(mean_t log(π_t / π_old,t))", kGspo, kLosses},
    {"importance_sampling_level", "sequence_token", "its value, but each token's own gradient",
     kGspo, kLosses},
    {"epsilon_high", "", "clip to [1 − epsilon, 1 + epsilon_high]", kDapo, kLosses},
    {"delta", "", "the unclipped ratio is at most delta",
     "[arXiv:2505.07291](https://arxiv.org/abs/2505.07291)", kLosses},
    {"kl_estimator", "k1", "log π − log π_ref", kKl, kLosses},
    {"kl_estimator", "k2", "(log π − log π_ref)² / 2", kKl, kLosses},
    {"kl_estimator", "k3", "e^x − x − 1, x = log π_ref − log π", kKl, kLosses},
    {"use_bias_correction_kl", "", "KL_t · ρ", kDeepSeekV32, kLosses},
    {"kl_in_reward", "", "R − beta Σ_t KL_t", kReinforce, kAdvantages},
    {"entropy_coef", "", "loss − entropy_coef · mean entropy of the learned tokens", "TRL 1.16",
     kLosses},
    {"use_adaptive_entropy", "",
     "entropy_coef ± entropy_coef_delta after each step, towards entropy_target",
     "[arXiv:2505.22312](https://arxiv.org/abs/2505.22312)", kEntropyControl},
    {"router_aux_loss_coef", "",
     "+ router_aux_loss_coef · E Σ_e f_e P_e over all layers and tokens",
     "[arXiv:2101.03961](https://arxiv.org/abs/2101.03961)",
     "Trainer.TermsOfRoutersAreTheSlopesOfTheirProbabilities"},
    {"advantage_estimator", "grpo", "R − mean(group)", kDeepSeekMath, kAdvantages},
    {"advantage_estimator", "rloo", "G/(G − 1) · (R − mean(group))",
     "[arXiv:2402.14740](https://arxiv.org/abs/2402.14740)", kAdvantages},
    {"advantage_estimator", "reinforce_plus_plus",
     "R − mean(group), divided by the deviation of these differences", kReinforce, kAdvantages},
    {"advantage_estimator", "gdpo",
     "z(Σ_f w_f (r_f − mean(group)) / deviation(group)) over the batch",
     "[arXiv:2601.05242](https://arxiv.org/abs/2601.05242)", kAdvantages},
    {"scale_rewards", "group", "/ (deviation(group) + 1e-4)", kDeepSeekMath, kAdvantages},
    {"scale_rewards", "batch", "/ (deviation(batch) + 1e-4)",
     "[arXiv:2508.08221](https://arxiv.org/abs/2508.08221)", kAdvantages},
    {"scale_rewards", "none", "undivided", "[arXiv:2503.20783](https://arxiv.org/abs/2503.20783)",
     kAdvantages},
    {"overlong_filter", "", "completions that hit the length limit have no loss", kDapo, kLosses},
    {"top_entropy_quantile", "",
     "P counts for this share of a generation batch's tokens, those of the largest entropy",
     "[arXiv:2506.01939](https://arxiv.org/abs/2506.01939)", kLosses},
    {"off_policy_sequence_mask_delta", "",
     "P = 0 for a completion with A < 0 and mean_t(log μ − log π) > delta", kDeepSeekV32, kLosses},
    {"rollout_importance_sampling_mode", "token_truncate", "P · clip(r_t, lower, threshold)",
     kSwift, kLosses},
    {"rollout_importance_sampling_mode", "token_mask", "P · r_t inside the thresholds, else 0",
     kSwift, kLosses},
    {"rollout_importance_sampling_mode", "sequence_truncate",
     "P · clip(r, lower, threshold), r of the sequence", kSwift, kLosses},
    {"rollout_importance_sampling_mode", "sequence_mask",
     "P · r_t where r of the sequence is inside, else 0; with product P · r", kSwift, kLosses},
    {"rollout_importance_sampling_sequence_ratio", "geometric_mean", "r = exp(mean_t log r_t)",
     kSwift, kLosses},
    {"rollout_importance_sampling_sequence_ratio", "product", "r = exp(Σ_t log r_t)", "TRL 1.16",
     kLosses},
};

}  // namespace

std::span<const Objective> objective_table() { return kTable; }

std::string objective_markdown() {
  std::string text = "| flag | value | what it computes | source | test |\n|---|---|---|---|---|\n";
  std::string_view flag;
  for (const Objective& entry : kTable) {
    text += fmt::format("| {} | {} | {} | {} | `{}` |\n",
                        entry.flag == flag ? "" : fmt::format("`--{}`", entry.flag),
                        entry.value.empty() ? "" : fmt::format("`{}`", entry.value), entry.formula,
                        entry.source, entry.test);
    flag = entry.flag;
  }
  return text;
}

}  // namespace lockstep::grpo
