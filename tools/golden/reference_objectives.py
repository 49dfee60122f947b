# SPDX-License-Identifier: Apache-2.0
"""TRL's and ms-swift's own code for losses and advantages, run on given tensors.

TRL's methods are called on a stand-in for the trainer. ms-swift's trainer imports much that is not
installed here, so its methods are compiled from their source alone.
"""

import ast
import collections
import importlib.util
import pathlib
import types
from importlib.metadata import version

import torch

def versions():
    return {name: version(name) for name in ("trl", "ms-swift", "torch")}


def level_of(options):
    default = "sequence" if options["loss_type"] in ("gspo", "luspo") else "token"
    return options["importance_sampling_level"] or default


def computes(library, options):
    """Whether the library has this objective, and in the same sense."""
    return {trl_loss: trl_computes, swift_loss: swift_computes}[library](options)


def trl_computes(options):
    mode = options["rollout_importance_sampling_mode"]
    is_known = options["loss_type"] not in ("fipo", "real")
    # Its mask removes truncated completions from the token count, as dapo_denominator loss_tokens.
    counts_alike = not options["overlong_filter"] or options["loss_type"] not in (
        "dapo", "cispo", "vespo") or options["dapo_denominator"] == "loss_tokens"
    sequence_alike = mode is None or mode.startswith("token") or (
        options["rollout_importance_sampling_sequence_ratio"] == "product")
    return (is_known and counts_alike and sequence_alike and options["kl_estimator"] == "k3" and
            level_of(options) != "sequence_token")


def trl_loss(batch, options, max_completion_length):
    from trl import GRPOTrainer

    mask = batch["mask"]
    if options["overlong_filter"]:
        mask = mask * (~batch["truncated"])[:, None]
    width = mask.shape[1]
    inputs = {
        "prompt_ids": torch.zeros(len(mask), 1, dtype=torch.long),
        "prompt_mask": torch.ones(len(mask), 1, dtype=torch.long),
        "completion_ids": torch.zeros(len(mask), width, dtype=torch.long),
        "completion_mask": mask, "advantages": batch["advantages"],
        "old_per_token_logps": batch["old"], "ref_per_token_logps": batch["ref"],
        "sampling_per_token_logps": batch["sampler"], "num_items_in_batch": mask.sum()}
    mode = options["rollout_importance_sampling_mode"]
    if mode is not None:
        inputs["importance_sampling_ratio"] = trl_correction(batch, options, mode)
    same = lambda value, **_: value
    coefficient = options["entropy_coef"]
    high = options["epsilon_high"]
    if high is None:
        high = 5.0 if options["loss_type"] == "cispo" else options["epsilon"]
    quantile = options["top_entropy_quantile"]
    trainer = types.SimpleNamespace(
        _get_per_token_logps_and_entropies=lambda *_, **__: (
            batch["logprobs"], batch["entropy"], None),
        args=types.SimpleNamespace(
            delta=options["delta"], use_bias_correction_kl=options["use_bias_correction_kl"],
            steps_per_generation=1, sapo_temperature_pos=options["tau_pos"],
            sapo_temperature_neg=options["tau_neg"],
            **{key: options[key] for key in
               ("vespo_k_pos", "vespo_lambda_pos", "vespo_k_neg", "vespo_lambda_neg")}),
        accelerator=types.SimpleNamespace(
            num_processes=1, gather=same, reduce=same, sync_gradients=True,
            pad_across_processes=same, device=mask.device),
        model=types.SimpleNamespace(training=True), aux_loss_enabled=False,
        use_vllm=mode is not None, vllm_importance_sampling_correction=mode is not None,
        top_entropy_quantile=quantile,
        get_high_entropy_mask=lambda entropies, own, threshold: (
            entropies >= torch.quantile(entropies.detach()[batch["mask"].bool()], threshold)
        ).double(),
        get_off_policy_mask=GRPOTrainer.get_off_policy_mask,
        get_gamma_weights=GRPOTrainer.get_gamma_weights,
        off_policy_mask_threshold=options["off_policy_sequence_mask_delta"],
        _entropy_bonus_enabled=coefficient != 0, entropy_coef=coefficient,
        use_adaptive_entropy=False, importance_sampling_level=level_of(options),
        beta=options["beta"],
        loss_type="grpo" if options["loss_type"] == "gspo" else options["loss_type"],
        epsilon_low=options["epsilon"], epsilon_high=high, current_gradient_accumulation_steps=1,
        max_completion_length=max_completion_length,
        _metrics={"train": collections.defaultdict(list)})
    return GRPOTrainer._compute_loss(trainer, None, inputs)


def trl_correction(batch, options, mode):
    """As GRPOTrainer._generate_and_score_completions has it, which cannot be called alone."""
    difference = (batch["old"] - batch["sampler"]) * batch["mask"]
    if mode.startswith("sequence"):
        difference = difference.sum(-1, keepdim=True)
    ratio = difference.exp()
    low = options["rollout_importance_sampling_threshold_lower"]
    high = options["rollout_importance_sampling_threshold"]
    if mode.endswith("truncate"):
        return ratio.clamp(min=low, max=high)
    return ratio.masked_fill((ratio < (low or 0)) | (ratio > high), 0.0)


def swift_folder():
    return pathlib.Path(importlib.util.find_spec("swift").submodule_search_locations[0])


def swift_methods(names):
    """Methods of ms-swift's GRPOTrainer as functions."""
    source = (swift_folder() / "rlhf_trainers/grpo_trainer.py").read_text()
    trainer = next(node for node in ast.parse(source).body
                   if isinstance(node, ast.ClassDef) and node.name == "GRPOTrainer")
    wanted = [node for node in trainer.body
              if isinstance(node, ast.FunctionDef) and node.name in names]
    for node in wanted:
        node.decorator_list = []
        node.returns = None
        for argument in node.args.args:
            argument.annotation = None
    same = lambda value: value
    space = dict(torch=torch, gather=same, nanmax=torch.max, nanmin=torch.min,
                 gather_object=lambda value: value,
                 WINDOW_NORMALIZED_LOSS_TYPES=["cispo", "dapo", "fipo"])
    for typing_name in ("Dict", "List", "Tuple", "Any", "Optional"):
        space[typing_name] = getattr(__import__("typing"), typing_name)
    exec(compile(ast.Module(wanted, []), "grpo_trainer.py", "exec"), space)
    return {name: space[name] for name in names}


def swift_computes(options):
    if options["loss_type"] in ("luspo", "vespo") or options["entropy_coef"] or (
            options["use_bias_correction_kl"] or options["kl_estimator"] != "k3" or
            options["dapo_denominator"] != "all_tokens"):
        return False
    # There the mask of sequences shrinks the token count and removes the KL; its correction weighs
    # the KL, too, and has no lower bound.
    if options["off_policy_sequence_mask_delta"] is not None:
        return False
    mode = options["rollout_importance_sampling_mode"]
    if mode is not None and (options["beta"] or options["rollout_importance_sampling_threshold_lower"]
                             or options["rollout_importance_sampling_sequence_ratio"] == "product"):
        return False
    # REAL keeps truncated completions in its groups, with score 0.
    return not (options["loss_type"] == "real" and options["overlong_filter"])


def swift_loss(batch, options, max_completion_length):
    names = ("_compute_fipo_influence", "_compute_loss_and_metrics",
             "_compute_rollout_offpolicy_metrics", "_compute_sequence_level_ratios",
             "_apply_rollout_importance_sampling", "_get_rollout_is_correction",
             "_compute_is_correction_metrics")
    methods = swift_methods(names)
    mask = batch["mask"].bool()
    advantages = batch["advantages"][:, None].expand_as(batch["mask"]).contiguous()
    high = options["epsilon_high"]
    if high is None:
        high = 5.0 if options["loss_type"] == "cispo" else options["epsilon"]
    same = lambda value, **_: value
    trainer = types.SimpleNamespace(
        model=types.SimpleNamespace(training=False), compute_entropy=True,
        _get_per_token_logps_and_entropies=lambda *_, **__: (batch["logprobs"], batch["entropy"]),
        args=types.SimpleNamespace(log_entropy=False, delta=options["delta"],
                                   top_entropy_quantile=options["top_entropy_quantile"]),
        top_entropy_quantile=options["top_entropy_quantile"],
        overlong_filter=options["overlong_filter"], beta=options["beta"], kl_in_reward=False,
        rollout_importance_sampling_mode=options["rollout_importance_sampling_mode"],
        rollout_importance_sampling_threshold=options["rollout_importance_sampling_threshold"],
        log_rollout_offpolicy_metrics=False, disable_rollout_importance_sampling=False,
        importance_sampling_level=level_of(options), _has_teacher=False,
        loss_type="grpo" if options["loss_type"] == "gspo" else options["loss_type"],
        epsilon_low=options["epsilon"], epsilon_high=high, tau_pos=options["tau_pos"],
        tau_neg=options["tau_neg"], real_tau=options["real_tau"],
        fipo_gamma=2 ** (-1 / options["fipo_decay_rate"]),
        fipo_clip_range=options["fipo_clip_range"],
        fipo_clip_high_only=options["fipo_clip_high_only"],
        fipo_safety_threshold=options["fipo_safety_threshold"],
        off_policy_sequence_mask_delta=None, sdar_loss_coef=0, chord_sft_iterator=None,
        max_completion_length=max_completion_length, num_generations=4,
        accelerator=types.SimpleNamespace(num_processes=1, gather_for_metrics=same),
        _undo_gradient_accumulation_scaling=same)
    for name, method in methods.items():
        setattr(trainer, name, types.MethodType(method, trainer))
    inputs = types.SimpleNamespace(
        completion_mask=mask, truncated_mask=batch["truncated"], advantages=advantages,
        old_per_token_logps=batch["old"], ref_per_token_logps=batch["ref"],
        rollout_per_token_logps=batch["sampler"], teacher_per_token_logps=None,
        num_items_in_batch=batch["mask"].sum())
    return trainer._compute_loss_and_metrics(None, {}, inputs)[0]


def swift_correction_metrics(batch, mode, threshold):
    """ms-swift's rollout_correction/* of a batch."""
    names = ("_compute_rollout_offpolicy_metrics", "_compute_sequence_level_ratios",
             "_apply_rollout_importance_sampling", "_compute_is_correction_metrics")
    trainer = types.SimpleNamespace(rollout_importance_sampling_mode=mode,
                                    rollout_importance_sampling_threshold=threshold)
    for name, method in swift_methods(names).items():
        setattr(trainer, name, types.MethodType(method, trainer))
    mask = batch["mask"].bool()
    found = trainer._compute_rollout_offpolicy_metrics(batch["old"], batch["sampler"], mask)
    if mode is not None:
        log_ratio = batch["old"] - batch["sampler"]
        weights = trainer._apply_rollout_importance_sampling(log_ratio, mask)
        found |= trainer._compute_is_correction_metrics(log_ratio, weights, mask)
    return {name: value.item() for name, value in found.items()}


def check_advantages(values, weights, group_size, estimator, scale, penalty, ours):
    """Compares with TRL's and ms-swift's, and returns whose were compared."""
    found = {}
    if estimator == "grpo" and penalty is None:
        found["trl"] = trl_advantages(values, weights, group_size, scale)
    # ms-swift gives a completion that lacks every value the reward 0.
    if not values.isnan().all(1).any():
        found["swift"] = swift_advantages(values, weights, group_size, estimator, scale, penalty)
    for library, theirs in found.items():
        difference = (theirs - ours).abs().max().item()
        assert difference < 1e-6, f"{estimator} {scale}: {library} differs by {difference}"
    return list(found)


def trl_advantages(values, weights, group_size, scale):
    """The statements of GRPOTrainer._generate_and_score_completions that make advantages."""
    import trl.trainer.grpo_trainer as module

    source = pathlib.Path(module.__file__).read_text()
    trainer = next(node for node in ast.parse(source).body
                   if isinstance(node, ast.ClassDef) and node.name == "GRPOTrainer")
    method = next(node for node in trainer.body
                  if getattr(node, "name", "") == "_generate_and_score_completions")
    starts = [i for i, node in enumerate(method.body)
              if "unscorable_mask = " in ast.unparse(node).split("\n")[0]]
    ends = [i for i, node in enumerate(method.body)
            if ast.unparse(node).startswith("advantages = torch.nan_to_num(advantages")]
    statements = ast.Module(method.body[starts[0]:ends[0] + 1], [])
    owner = types.SimpleNamespace(multi_objective_aggregation="sum_then_normalize",
                                  reward_weights=weights, scale_rewards=scale)
    space = dict(torch=torch, nanstd=module.nanstd, self=owner, rewards_per_func=values.clone(),
                 num_generations=group_size, device="cpu")
    exec(compile(statements, "grpo_trainer.py", "exec"), space)
    return space["advantages"]


def swift_advantages(values, weights, group_size, estimator, scale, penalty):
    source = (swift_folder() / "rl_core/advantage.py").read_text().replace(
        "from swift.utils import nanstd", "")
    space = {"nanstd": nanstd}
    exec(compile(source, "advantage.py", "exec"), space)
    return space["compute_advantages"](
        values, weights, group_size, "grpo" if estimator == "gdpo" else estimator, scale,
        kl_in_reward=penalty is not None, beta=1.0, kl_values=penalty)[0]


def nanstd(values, dim, keepdim):
    """As swift.utils.nanstd: unbiased over what is there."""
    count = (~values.isnan()).sum(dim, keepdim=keepdim)
    mean = values.nanmean(dim, keepdim=True)
    variance = ((values - mean) ** 2).nansum(dim, keepdim=keepdim) / (count - 1).clamp(min=1)
    return variance.sqrt()
