# SPDX-License-Identifier: Apache-2.0
"""Writes tests/golden/objectives.json: losses, advantages and corrections in plain float64.

    python tools/golden/objectives.py [--seed N] [--output FILE]

Every formula stands here as its paper or its trainer has it, over padded tensors, and gradients come
from autograd; the program has closed forms. Where TRL or ms-swift compute the same, their own code
is run on the same tensors (reference_objectives.py) and must agree to 1e-9. The unit test
tests/grpo/objectives_test.cpp compares; LOCKSTEP_OBJECTIVES names another file for it.
"""

import argparse
import json
import math
import pathlib

import torch

import reference_objectives as reference

GROUPS, GROUP_SIZE, LONGEST = 4, 4, 12
MAX_COMPLETION_LENGTH = 40
AGREES = 1e-9

LOSS_DEFAULTS = dict(
    loss_type="grpo", epsilon=0.2, epsilon_high=None, delta=None, beta=0.0, kl_estimator="k3",
    use_bias_correction_kl=False, importance_sampling_level=None, dapo_denominator="all_tokens",
    tau_pos=1.0, tau_neg=1.05, real_tau=0.5, fipo_decay_rate=32.0, fipo_clip_range=0.2,
    fipo_clip_high_only=True, fipo_safety_threshold=4.0, vespo_k_pos=2.0, vespo_lambda_pos=3.0,
    vespo_k_neg=3.0, vespo_lambda_neg=2.0, entropy_coef=0.0)
FILTER_DEFAULTS = dict(overlong_filter=False, top_entropy_quantile=1.0,
                       off_policy_sequence_mask_delta=None)
CORRECTION_DEFAULTS = dict(
    rollout_importance_sampling_mode=None, rollout_importance_sampling_threshold=2.0,
    rollout_importance_sampling_threshold_lower=None,
    rollout_importance_sampling_sequence_ratio="geometric_mean")
DEFAULTS = LOSS_DEFAULTS | FILTER_DEFAULTS | CORRECTION_DEFAULTS
ALL_LOSSES = ("grpo", "bnpo", "dr_grpo", "dapo", "gspo", "cispo", "sapo", "fipo", "real", "luspo",
              "vespo")
CLIPPED = ("grpo", "bnpo", "dr_grpo", "dapo", "gspo", "fipo", "luspo")
MODES = ("token_truncate", "token_mask", "sequence_truncate", "sequence_mask")


def variants():
    """Options by name, as on the command line."""
    found = {}
    for loss in ALL_LOSSES:
        found[loss] = dict(loss_type=loss)
        found[f"{loss}_kl"] = dict(loss_type=loss, beta=0.04)
        found[f"{loss}_overlong"] = dict(loss_type=loss, beta=0.02, overlong_filter=True)
        if loss in ("dapo", "cispo", "fipo", "vespo"):
            found[f"{loss}_overlong_loss_tokens"] = found[f"{loss}_overlong"] | dict(
                dapo_denominator="loss_tokens")
        if loss not in ("gspo", "luspo", "vespo", "real"):
            for level in ("sequence", "sequence_token"):
                found[f"{loss}_{level}"] = dict(loss_type=loss, beta=0.03,
                                                importance_sampling_level=level)
        if loss in CLIPPED:
            found[f"{loss}_two_sided"] = dict(loss_type=loss, epsilon_high=0.35, delta=1.4)
        if loss != "real":
            found[f"{loss}_entropy"] = dict(loss_type=loss, top_entropy_quantile=0.5,
                                            entropy_coef=0.01)
            found[f"{loss}_off_policy"] = dict(loss_type=loss, beta=0.02,
                                               off_policy_sequence_mask_delta=0.01)
    for estimator in ("k1", "k2", "k3"):
        for biased in (False, True):
            for level in ("token", "sequence"):
                found[f"{estimator}_{level}{'_corrected' if biased else ''}"] = dict(
                    beta=0.1, kl_estimator=estimator, use_bias_correction_kl=biased,
                    importance_sampling_level=level)
    for mode in MODES:
        for ratio in ("geometric_mean", "product"):
            for lower in (None, 0.9):
                for loss in ("grpo", "vespo") if mode.startswith("token") else ("dapo",):
                    found[f"{mode}_{ratio}_{lower}_{loss}"] = dict(
                        loss_type=loss, beta=0.02, rollout_importance_sampling_mode=mode,
                        rollout_importance_sampling_threshold=1.15,
                        rollout_importance_sampling_threshold_lower=lower,
                        rollout_importance_sampling_sequence_ratio=ratio)
    found["fipo_both_sides"] = dict(loss_type="fipo", fipo_clip_high_only=False, delta=1.3,
                                    fipo_decay_rate=3.0, fipo_safety_threshold=1.1)
    found["fipo_unclipped"] = dict(loss_type="fipo", fipo_clip_range=0.0)
    found["cispo_capped"] = dict(loss_type="cispo", epsilon_high=1.1)
    found["sapo_temperatures"] = dict(loss_type="sapo", tau_pos=2.0, tau_neg=3.0)
    found["gspo_token"] = dict(loss_type="gspo", importance_sampling_level="sequence_token")
    found["all_at_once"] = dict(
        loss_type="dapo", beta=0.05, epsilon_high=0.28, delta=2.0, overlong_filter=True,
        top_entropy_quantile=0.7, off_policy_sequence_mask_delta=0.01, entropy_coef=-0.02,
        use_bias_correction_kl=True, rollout_importance_sampling_mode="token_mask",
        rollout_importance_sampling_threshold=1.2)
    return {name: DEFAULTS | options for name, options in found.items()}


def make_batch(generator):
    """A step of random completions; log-probabilities are float32 numbers."""
    count = GROUPS * GROUP_SIZE
    lengths = torch.randint(1, LONGEST + 1, (count,), generator=generator)
    mask = (torch.arange(LONGEST)[None] < lengths[:, None]).double()
    uniform = lambda low, high: (torch.rand(count, LONGEST, generator=generator) * (high - low) +
                                 low).float().double()
    logprobs = uniform(-4, -0.1)
    near = lambda size: (logprobs + uniform(-size, size)).float().double()
    advantages = torch.randn(count, generator=generator).double()
    advantages[:GROUP_SIZE] = advantages[:GROUP_SIZE].abs()  # a group without a wrong completion
    return dict(mask=mask, logprobs=logprobs, old=near(0.4), ref=near(0.5), sampler=near(0.45),
                entropy=uniform(0.1, 2), advantages=advantages,
                truncated=torch.rand(count, generator=generator) < 0.3,
                group=torch.arange(count) // GROUP_SIZE)


def level_of(options):
    default = "sequence" if options["loss_type"] in ("gspo", "luspo") else "token"
    return options["importance_sampling_level"] or default


def ratios(batch, options):
    """The ratio of each token, [B, T]."""
    mask = batch["mask"]
    log_ratio = batch["logprobs"] - batch["old"]
    if level_of(options) == "token":
        return log_ratio.exp()
    mean = ((log_ratio * mask).sum(1) / mask.sum(1))[:, None].expand_as(log_ratio)
    if level_of(options) == "sequence_token":
        mean = batch["logprobs"] - batch["logprobs"].detach() + mean.detach()
    return mean.exp()


def policy_term(batch, options, ratio, correction):
    advantage = batch["advantages"][:, None]
    loss, mask = options["loss_type"], batch["mask"]
    log_ratio = (batch["logprobs"] - batch["old"]) * mask
    if loss == "cispo":
        cap = 5.0 if options["epsilon_high"] is None else options["epsilon_high"]
        return -ratio.clamp(max=cap).detach() * advantage * batch["logprobs"]
    if loss == "sapo":
        tau = torch.where(advantage > 0, options["tau_pos"], options["tau_neg"])
        return -torch.sigmoid(tau * (ratio - 1)) * 4 / tau * advantage
    if loss == "vespo":
        log_weight = log_ratio.clamp(-20, 20).sum(1)
        if correction is not None:
            log_weight = log_weight + (correction.log().clamp(math.log(1e-8), 20) * mask).sum(1)
        log_weight = log_weight.clamp(math.log(1e-8), 20)[:, None]
        positive = advantage >= 0
        k = torch.where(positive, options["vespo_k_pos"], options["vespo_k_neg"])
        rate = torch.where(positive, options["vespo_lambda_pos"], options["vespo_lambda_neg"])
        phi = (rate + k * log_weight - rate * log_weight.exp()).exp().detach()
        return -phi * advantage * batch["logprobs"]
    if loss == "real":
        return torch.zeros_like(log_ratio)
    high = 1 + (options["epsilon"] if options["epsilon_high"] is None else options["epsilon_high"])
    plain = ratio if options["delta"] is None else ratio.clamp(max=options["delta"])
    term = -torch.minimum(plain * advantage, ratio.clamp(1 - options["epsilon"], high) * advantage)
    return term * influence(batch, options, ratio, log_ratio) if loss == "fipo" else term


def influence(batch, options, ratio, log_ratio):
    """FIPO's weight of each token: what the tokens behind it became."""
    counted = log_ratio.detach().clone()
    if options["delta"] is not None:
        counted[ratio > options["delta"]] = 0
    distance = torch.arange(LONGEST)[None] - torch.arange(LONGEST)[:, None]
    decay = 2.0 ** (-distance / options["fipo_decay_rate"]) * (distance >= 0)
    weight = (counted @ decay.T).exp()
    if options["fipo_clip_range"]:
        low = 1.0 if options["fipo_clip_high_only"] else 1 - options["fipo_clip_range"]
        weight = weight.clamp(low, 1 + options["fipo_clip_range"])
    held = (batch["advantages"][:, None] < 0) & (ratio > options["fipo_safety_threshold"])
    return torch.where(held, weight.clamp(0.8, 1.0), weight).detach()


def kl_term(batch, options, ratio):
    x = (batch["ref"] - batch["logprobs"]).clamp(-20, 20)
    kl = {"k1": -x, "k2": x * x / 2, "k3": (x.exp() - x - 1).clamp(-10, 10)}[options["kl_estimator"]]
    return kl * ratio if options["use_bias_correction_kl"] else kl


def correction_weights(batch, options):
    """[B, T], or None without a mode."""
    mode = options["rollout_importance_sampling_mode"]
    if mode is None:
        return None
    mask = batch["mask"]
    product = options["rollout_importance_sampling_sequence_ratio"] == "product"
    log_ratio = (batch["old"] - batch["sampler"]) * mask
    token = log_ratio.clamp(-20, 20).exp()
    sequence = (log_ratio.sum(1) if product else log_ratio.sum(1) / mask.sum(1)).exp()[:, None]
    ratio = (sequence if mode.startswith("sequence") else token).expand_as(token)
    low = options["rollout_importance_sampling_threshold_lower"] or 0.0
    high = options["rollout_importance_sampling_threshold"]
    if mode.endswith("truncate"):
        return ratio.clamp(low, high)
    inside = (ratio >= low) & (ratio <= high)
    weight = token if mode == "sequence_mask" and not product else ratio
    return torch.where(inside, weight, 0.0)


def real_loss(batch, options, keep):
    mask = batch["mask"]
    scores = ((batch["logprobs"] - batch["old"]) * mask).sum(1) / mask.sum(1) / options["real_tau"]
    total = 0.0
    for group in range(GROUPS):
        own = (batch["group"] == group) & keep
        positive, negative = own & (batch["advantages"] > 0), own & (batch["advantages"] <= 0)
        if positive.any() and negative.any():
            total = total + torch.log(1 + scores[negative].exp().sum())
            total = total + torch.log(1 + (-scores[positive]).exp().sum())
    return total / GROUPS


def step_loss(batch, options):
    mask, loss = batch["mask"], options["loss_type"]
    keep = torch.ones(len(mask), dtype=torch.bool)
    if options["overlong_filter"]:
        keep = ~batch["truncated"]
    kept = mask * keep[:, None]
    learned = torch.ones_like(mask)
    if options["top_entropy_quantile"] < 1:
        threshold = torch.quantile(batch["entropy"][mask.bool()],
                                   1 - options["top_entropy_quantile"])
        learned = (batch["entropy"] >= threshold).double()
    ratio, correction = ratios(batch, options), correction_weights(batch, options)
    term = policy_term(batch, options, ratio, correction) * learned.detach()
    if options["off_policy_sequence_mask_delta"] is not None:
        drift = ((batch["sampler"] - batch["logprobs"]) * mask).sum(1) / mask.sum(1)
        dropped = (batch["advantages"] < 0) & (drift > options["off_policy_sequence_mask_delta"])
        term = term * ~dropped[:, None]
    if correction is not None and loss != "vespo":
        term = term * correction
    if options["beta"]:
        term = term + options["beta"] * kl_term(batch, options, ratio)
    if loss in ("grpo", "gspo", "sapo"):
        total = ((term * kept).sum(1) / mask.sum(1)).mean()
    elif loss == "luspo":
        total = (term * kept).sum(1).mean()
    elif loss == "dr_grpo":
        total = (term * kept).sum() / (len(mask) * MAX_COMPLETION_LENGTH)
    elif loss in ("bnpo", "real") or options["dapo_denominator"] == "loss_tokens":
        total = (term * kept).sum() / kept.sum()
    else:
        total = (term * kept).sum() / mask.sum()
    if loss == "real":
        total = total + real_loss(batch, options, keep)
    learned = learned.detach() * kept
    return total - options["entropy_coef"] * (batch["entropy"] * learned).sum() / learned.sum()


def with_gradients(loss_of, batch, options):
    """The loss and its gradients by log-probabilities and entropies."""
    own = dict(batch)
    for key in ("logprobs", "entropy"):
        own[key] = batch[key].clone().requires_grad_(True)
    # Masks are decided, not learned from.
    loss = loss_of(own, options)
    grads = torch.autograd.grad(loss, (own["logprobs"], own["entropy"]), allow_unused=True)
    return (loss.item(), *(torch.zeros_like(batch["mask"]) if grad is None else grad * batch["mask"]
                           for grad in grads))


def distance_to_kinks(batch, options):
    """How near a ratio is to a bound where derivatives jump."""
    mask = batch["mask"].bool()
    values = [ratios(batch, options)[mask]]
    bounds = [1 - options["epsilon"], 1 + options["epsilon"], 1.35, 1.28, options["delta"] or 9,
              1.1, 1.15, 0.9, 1.2]
    correction = (batch["old"] - batch["sampler"])[mask].exp()
    return min((value - bound).abs().min().item() for value in values + [correction]
               for bound in bounds)


def check_references(name, batch, options, found):
    for other in (reference.trl_loss, reference.swift_loss):
        loss = lambda own, options: other(own, options, MAX_COMPLETION_LENGTH)
        if not reference.computes(other, options):
            continue
        theirs = with_gradients(loss, batch, options)
        for ours, expected in zip(found, theirs):
            difference = torch.as_tensor(ours - expected).abs().max().item()
            assert difference < AGREES, f"{name}: {other.__name__} differs by {difference}"
        yield other.__name__.split("_")[0]


def rows_of(batch):
    rows = []
    for i, length in enumerate(batch["mask"].sum(1).int().tolist()):
        rows.append({key: batch[key][i, :length].tolist()
                     for key in ("logprobs", "old", "ref", "sampler", "entropy")} |
                    {"advantage": batch["advantages"][i].item(),
                     "truncated": batch["truncated"][i].item(), "group": batch["group"][i].item()})
    return rows


def loss_cases(generator):
    while True:
        batch = make_batch(generator)
        if min(distance_to_kinks(batch, options) for options in variants().values()) > 1e-5:
            break
    cases = []
    for name, options in variants().items():
        found = with_gradients(step_loss, batch, options)
        checked = list(check_references(name, batch, options, found))
        lengths = batch["mask"].sum(1).int().tolist()
        cut = lambda values: [[float(f"{value:.9g}") for value in row[:length].tolist()]
                              for row, length in zip(values, lengths)]
        weights = correction_weights(batch, options)
        cases.append({"name": name, "options": options, "checked_against": checked,
                      "loss": found[0], "gradients": cut(found[1]),
                      "entropy_gradients": cut(found[2]),
                      "correction": None if weights is None else cut(weights)})
    metrics = [{"mode": mode, "threshold": 1.15,
                "metrics": reference.swift_correction_metrics(batch, mode, 1.15)}
               for mode in (None, *MODES)]
    return {"max_completion_length": MAX_COMPLETION_LENGTH, "rows": rows_of(batch), "cases": cases,
            "correction_metrics": metrics}


def advantage_cases(generator):
    """Rewards of two functions, some missing, and what each rule makes of them."""
    cases = []
    for missing in (False, True):
        count = GROUPS * GROUP_SIZE
        values = torch.randn(count, 2, generator=generator).double().round(decimals=3)
        values[:GROUP_SIZE] = 0.5  # a group without a difference
        if missing:
            values[torch.rand(count, 2, generator=generator) < 0.25] = math.nan
            values[GROUP_SIZE + 1] = math.nan  # a completion without any value
        weights = torch.tensor([1.0, 0.4], dtype=torch.float64)
        kl = torch.rand(count, generator=generator).double()
        for estimator in ("grpo", "rloo", "reinforce_plus_plus", "gdpo"):
            scales = ("gdpo",) if estimator == "gdpo" else ("group", "batch", "none")
            for scale in scales:
                for penalty in (None, kl) if estimator != "gdpo" else (None,):
                    ours = advantages(values, weights, estimator, scale, penalty)
                    checked = reference.check_advantages(values, weights, GROUP_SIZE, estimator,
                                                         scale, penalty, ours)
                    cases.append({
                        "estimator": estimator, "scale": scale, "weights": weights.tolist(),
                        "checked_against": checked,
                        "values": [[None if math.isnan(v) else v for v in row]
                                   for row in values.tolist()],
                        "penalties": [] if penalty is None else penalty.tolist(),
                        "advantages": ours.tolist()})
    return {"group_size": GROUP_SIZE, "cases": cases}


def std(values):
    return values.std() if len(values) > 1 else torch.zeros((), dtype=torch.float64)


def advantages(values, weights, estimator, scale, penalty):
    counts = ~values.isnan().all(1)
    rewards = (values * weights).nansum(1) - (0 if penalty is None else penalty)
    result = torch.zeros_like(rewards)
    groups = [torch.arange(first, first + GROUP_SIZE)
              for first in range(0, len(rewards), GROUP_SIZE)]
    if estimator == "gdpo":
        for f in range(values.shape[1]):
            for group in groups:
                own = group[~values[group, f].isnan()]
                part = values[own, f]
                if len(own):
                    result[own] += weights[f] * (part - part.mean()) / (std(part) + 1e-8)
        mean, deviation = result[counts].mean(), std(result[counts])
        return torch.where(counts, (result - mean) / (deviation + 1e-8), 0.0)
    for group in groups:
        own = group[counts[group]]
        part = rewards[own]
        result[own] = part - part.mean()
        if estimator == "rloo" and len(own) > 1:
            result[own] *= len(own) / (len(own) - 1)
        if scale == "group":
            result[own] /= std(part) + 1e-4
    if scale == "batch":
        base = result if estimator == "reinforce_plus_plus" else rewards
        result = result / (std(base[counts]) + 1e-4)
    return result


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=18)
    default = pathlib.Path(__file__).parents[2] / "tests/golden/objectives.json"
    parser.add_argument("--output", type=pathlib.Path, default=default)
    arguments = parser.parse_args()
    torch.set_default_dtype(torch.float64)  # also of the scalars inside the libraries' formulas
    generator = torch.Generator().manual_seed(arguments.seed)
    found = {"seed": arguments.seed, "libraries": reference.versions(),
             "losses": loss_cases(generator), "advantages": advantage_cases(generator)}
    arguments.output.write_text(json.dumps(found, separators=(",", ":")) + "\n")
    for kind in ("losses", "advantages"):
        cases = found[kind]["cases"]
        for library in ("trl", "swift"):
            print(kind, len(cases), library, sum(library in c["checked_against"] for c in cases))


if __name__ == "__main__":
    main()
