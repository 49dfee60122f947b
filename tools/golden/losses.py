# SPDX-License-Identifier: Apache-2.0
"""GRPO's losses in plain float64, and a check that TRL computes the same.

Source: DeepSeekMath, arXiv:2402.03300 (grpo); DAPO, arXiv:2503.14476 (dapo, clip-higher);
Dr. GRPO, arXiv:2503.20783 (dr_grpo); GSPO, arXiv:2507.18071 (sequence level).
"""

import collections
import types

import torch

MAX_COMPLETION_LENGTH = 40  # the constant of dr_grpo
EPSILON = 0.2
LARGEST_KL = 10.0

BOUNDS = (1 - EPSILON, 1 + EPSILON, 1.35, 1.5)  # every clip bound of a variant

DEFAULTS = dict(loss_type="grpo", importance_sampling_level="token", beta=0.0, epsilon_high=None,
                delta=None, temperature=1.0, advantages="scalar")


def variants():
    """The losses that goldens hold, by name: options as on the command line."""
    found = {}
    for loss_type in ("grpo", "bnpo", "dr_grpo", "dapo"):
        for level in ("token", "sequence"):
            for beta in (0.0, 0.04):
                name = f"{loss_type}_{level}_{beta}"
                found[name] = dict(loss_type=loss_type, importance_sampling_level=level, beta=beta)
    found["clip_higher_delta"] = dict(epsilon_high=0.35, delta=1.5)
    found["token_advantages"] = dict(loss_type="dapo", beta=0.04, advantages="token")
    found["temperature"] = dict(temperature=0.8, beta=0.04)
    return {name: DEFAULTS | options for name, options in found.items()}


def grpo_loss(rows, options):
    """Loss of rows of masked-in tokens: logprobs, old, ref [n] each and advantage [n]."""
    low, high = 1 - EPSILON, 1 + (options["epsilon_high"] or EPSILON)
    token_losses = []
    for row in rows:
        log_ratio = row["logprobs"] - row["old"]
        if options["importance_sampling_level"] == "sequence":
            log_ratio = log_ratio.mean().expand_as(log_ratio)
        ratio = log_ratio.exp()
        clipped = ratio.clamp(low, high)
        if options["delta"] is not None:
            ratio = ratio.clamp(max=options["delta"])
        loss = -torch.minimum(ratio * row["advantage"], clipped * row["advantage"])
        if options["beta"]:
            loss = loss + options["beta"] * kl_term(row)
        token_losses.append(loss)
    if options["loss_type"] == "grpo":
        return sum(loss.mean() for loss in token_losses) / len(rows)
    total = sum(loss.sum() for loss in token_losses)
    if options["loss_type"] == "dr_grpo":
        return total / (len(rows) * MAX_COMPLETION_LENGTH)
    return total / sum(len(loss) for loss in token_losses)  # bnpo and dapo: one step, one batch


def kl_term(row):
    """k3, held in bounds as ms-swift does (TRL leaves it free)."""
    x = (row["ref"] - row["logprobs"]).clamp(-20, 20)
    return (x.exp() - x - 1).clamp(-10, LARGEST_KL)


def is_kl_bounded(rows, options):
    """Whether a token's KL meets its bound: then TRL's loss is another."""
    return options["beta"] != 0 and any((kl_term(row) == LARGEST_KL).any() for row in rows)


def distance_to_kinks(rows, options):
    """How far the nearest ratio is from a clip bound: losses are compared away from kinks only."""
    bounds = [1 - EPSILON, 1 + (options["epsilon_high"] or EPSILON), options["delta"] or 9.0]
    nearest = 9.0
    for row in rows:
        log_ratio = row["logprobs"] - row["old"]
        if options["importance_sampling_level"] == "sequence":
            log_ratio = log_ratio.mean()[None]
        for bound in bounds:
            nearest = min(nearest, (log_ratio.exp() - bound).abs().min().item())
        x = row["ref"] - row["logprobs"]
        nearest = min(nearest, (x.exp() - x - 1 - LARGEST_KL).abs().min().item())
    return nearest


def move_from_kinks(old, policies):
    """`old` with the few tokens moved whose ratio to one of the policies is nearly a clip bound."""
    while True:
        near = torch.zeros(len(old), dtype=torch.bool)
        for logprobs in policies:
            ratio = (logprobs - old).exp()
            near |= torch.stack([(ratio - bound).abs() < 1e-3 for bound in BOUNDS]).any(0)
        if not near.any():
            return old
        old = old + 0.004 * near


def trl_loss(rows, options):
    """The same loss by TRL's own GRPOTrainer._compute_loss, called on a stand-in trainer."""
    from trl import GRPOTrainer

    width = max(len(row["logprobs"]) for row in rows)
    pad = {key: torch.stack([torch.nn.functional.pad(row[key], (0, width - len(row[key])))
                             for row in rows]) for key in ("logprobs", "old", "ref", "advantage")}
    mask = torch.stack([(torch.arange(width) < len(row["logprobs"])).double() for row in rows])
    inputs = {
        "prompt_ids": torch.zeros(len(rows), 1, dtype=torch.long), "completion_mask": mask,
        "prompt_mask": torch.ones(len(rows), 1, dtype=torch.long),
        "completion_ids": torch.zeros(len(rows), width, dtype=torch.long),
        "advantages": pad["advantage"], "old_per_token_logps": pad["old"],
        "ref_per_token_logps": pad["ref"], "num_items_in_batch": mask.sum()}
    same = lambda value, **_: value
    trainer = types.SimpleNamespace(
        _get_per_token_logps_and_entropies=lambda *_, **__: (
            pad["logprobs"], torch.zeros_like(mask), None),
        args=types.SimpleNamespace(delta=options["delta"], use_bias_correction_kl=False,
                                   steps_per_generation=1),
        accelerator=types.SimpleNamespace(num_processes=1, gather=same, reduce=same,
                                          sync_gradients=True),
        model=types.SimpleNamespace(training=True), aux_loss_enabled=False, use_vllm=False,
        top_entropy_quantile=1.0, off_policy_mask_threshold=None, _entropy_bonus_enabled=False,
        importance_sampling_level=options["importance_sampling_level"], beta=options["beta"],
        loss_type=options["loss_type"], epsilon_low=EPSILON,
        epsilon_high=options["epsilon_high"] or EPSILON, current_gradient_accumulation_steps=1,
        max_completion_length=MAX_COMPLETION_LENGTH,
        _metrics={"train": collections.defaultdict(list)})
    return GRPOTrainer._compute_loss(trainer, None, inputs)
