# SPDX-License-Identifier: Apache-2.0
"""A step with given experts against transformers in float64, whose routers are given the same.

    .deps/python/bin/python tools/parity/router_replay.py --program build/bin/lockstep

`lockstep grad` on rows with routed_experts, in a model of more experts than a byte can name. The
loss, all gradients and the share of other choices must agree; with routed_weights the routers have
no gradient. Planted errors (a layer's experts in another layer, those of the token before, weights
that are not normalised again) must be found.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

import torch
from safetensors.torch import load_file

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "golden"))
from common import Truth, canonical_tensors, load

LENGTHS = (17, 6, 30)
EPSILON = 0.2
BOUND = 1e-4


class GivenRouter(torch.nn.Module):
    """transformers' router, whose choice is given: `experts`, and `weights` if not None."""

    def __init__(self, router, normalizes):
        super().__init__()
        self.weight, self.top_k, self.normalizes = router.weight, router.top_k, normalizes
        self.experts = self.weights = None
        self.changed = 0

    def forward(self, hidden):
        hidden = hidden.reshape(-1, self.weight.shape[1])
        logits = torch.nn.functional.linear(hidden, self.weight)
        probabilities = torch.softmax(logits, -1)
        own = torch.topk(probabilities, self.top_k, -1).indices
        self.changed += (own.sort(-1).values != self.experts.sort(-1).values).any(-1).sum().item()
        if self.weights is not None:
            return logits, self.weights.to(hidden.dtype), self.experts
        scores = probabilities.gather(-1, self.experts)
        if self.normalizes:
            scores = scores / scores.sum(-1, keepdim=True)
        return logits, scores, self.experts


def make_model(program, folder, family, normalizes):
    """Its folder; a model whose tokens choose 3 of 300 experts."""
    plain, config = folder / "plain", folder / "config.json"
    make = [program, "new-model", "--quiet", "--overwrite", "true"]
    subprocess.run(make + ["--like", family, "--output_dir", plain], check=True)
    values = json.loads((plain / "config.json").read_text())
    values |= {"num_experts": 300, "num_experts_per_tok": 3}
    if family == "qwen3_moe":
        values |= {"norm_topk_prob": normalizes, "mlp_only_layers": [1]}
    config.write_text(json.dumps(values))
    made = folder / "model"
    subprocess.run(make + ["--config", config, "--output_dir", made], check=True)
    return made


def rows_of(generator, config, layers, with_weights):
    rows = []
    for length in LENGTHS:
        ids = torch.randint(0, config.vocab_size, (length,), generator=generator).tolist()
        prompt = length // 3
        chances = torch.rand((length, layers, config.num_experts), generator=generator)
        row = {"input_ids": ids, "completion_mask": [0] * prompt + [1] * (length - prompt),
               "advantage": torch.randn((), generator=generator).item(),
               "routed_experts": chances.argsort(-1)[..., :config.num_experts_per_tok].tolist()}
        if with_weights:
            shape = (length, layers, config.num_experts_per_tok)
            weights = torch.rand(shape, generator=generator)
            row["routed_weights"] = (weights / weights.sum(-1, keepdim=True)).tolist()
        rows.append(row)
    return rows


def given_model(directory, dtype=torch.float64):
    """transformers' model, and its routers, in the order of the layers."""
    model, routers = load(directory, dtype), []
    normalizes = getattr(model.config.get_text_config(), "norm_topk_prob", True)
    for layer in model.model.layers:
        if hasattr(layer.mlp, "gate"):
            layer.mlp.gate = GivenRouter(layer.mlp.gate, normalizes)
            routers.append(layer.mlp.gate)
    return model, routers


def expected(model, routers, rows, generator):
    """Loss, share of other choices and gradients under canonical names; adds to the rows what an
    older policy said.
    """
    with Truth():
        return true_step(model, routers, rows, generator)


def true_step(model, routers, rows, generator):
    model.zero_grad()
    losses, tokens = [], 0
    for router in routers:
        router.changed = 0
    for row in rows:
        for layer, router in enumerate(routers):
            router.experts = torch.tensor(row["routed_experts"])[:-1, layer]
            router.weights = None
            if "routed_weights" in row:
                weights = torch.tensor(row["routed_weights"], dtype=torch.float64)
                router.weights = weights[:-1, layer]
        ids = torch.tensor(row["input_ids"])
        logits = model(ids[None, :-1]).logits[0]
        tokens += len(ids) - 1
        scored = torch.tensor(row["completion_mask"][1:]).bool()
        logprobs = torch.log_softmax(logits, -1).gather(-1, ids[1:, None])[:, 0][scored]
        noise = 0.3 * torch.randn(logprobs.shape, generator=generator, dtype=torch.float64)
        if "old_logprobs" not in row:
            row["old_logprobs"] = (logprobs.detach() + noise).tolist()
        ratio = torch.exp(logprobs - torch.tensor(row["old_logprobs"], dtype=torch.float64))
        clipped = ratio.clamp(1 - EPSILON, 1 + EPSILON)
        losses.append(-torch.minimum(ratio * row["advantage"], clipped * row["advantage"]).mean())
    loss = torch.stack(losses).mean()
    loss.backward()
    changed = sum(router.changed for router in routers) / (tokens * len(routers))
    gradients = {name: torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                 for name, parameter in model.named_parameters()}
    return loss.item(), changed, canonical_tensors(gradients)


def run(program, made, rows, folder):
    batch, output = folder / "batch.jsonl", folder / "gradients.safetensors"
    batch.write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = subprocess.run(
        [program, "grad", "--model", made, "--batch", batch, "--loss_type", "grpo", "--epsilon",
         str(EPSILON), "--output", output, "--overwrite", "true", "--quiet"],
        check=True, capture_output=True, text=True)
    return json.loads(result.stdout), canonical_tensors(load_file(output))


def errors(found, gradients, loss, wanted):
    """The error of the loss, and of each gradient as a share of its norm."""
    shares = {"loss": abs(found["loss"] - loss)}
    for name, gradient in wanted.items():
        if gradient.norm() == 0:
            shares[name] = gradients[name].norm().item()
        else:
            shares[name] = ((gradients[name].double() - gradient).norm() / gradient.norm()).item()
    return shares


def swapped_layers(row):
    return [[token[1], token[0]] + token[2:] for token in row["routed_experts"]]


def shifted_tokens(row):
    return row["routed_experts"][:1] + row["routed_experts"][:-1]


def compare(program, family, normalizes, folder):
    made = make_model(program, folder, family, normalizes)
    model, routers = given_model(made)
    config = model.config.get_text_config()
    assert all(router.normalizes == normalizes for router in routers)
    for with_weights in (False, True):
        generator = torch.Generator().manual_seed(5)
        rows = rows_of(generator, config, len(routers), with_weights)
        loss, changed, wanted = expected(model, routers, rows, generator)
        found, gradients = run(program, made, rows, folder)
        worst = max(errors(found, gradients, loss, wanted).values())
        assert worst < BOUND, errors(found, gradients, loss, wanted)
        ratio = found["metrics"]["router_replay/changed_ratio"]
        assert abs(ratio - changed) < 1e-8 and changed > 0.9, (ratio, changed)
        gates = [name for name in wanted if name.endswith("mlp.gate.weight")]
        norms = [gradients[name].norm().item() for name in gates]
        assert len(gates) == len(routers)
        assert all((norm == 0) == with_weights for norm in norms), norms
        for plant in (swapped_layers, shifted_tokens):
            wrong = [row | {"routed_experts": plant(row)} for row in rows]
            assert max(errors(*run(program, made, wrong, folder), loss, wanted).values()) > BOUND
        if family == "qwen3_moe" and not with_weights:
            for router in routers:
                router.normalizes = not normalizes
            other_loss, _, other = expected(model, routers, rows, generator)
            for router in routers:
                router.normalizes = normalizes
            assert max(errors(found, gradients, other_loss, other).values()) > BOUND
        weights = ", weights given" if with_weights else ""
        print(f"{family}, {'' if normalizes else 'not '}normalised{weights}: loss {loss:.6f}, "
              f"{changed:.3f} changed, all within {worst:.1e} of their norms")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--program", required=True)
    arguments = parser.parse_args()
    for family, normalizes in (("qwen3_moe", True), ("qwen3_moe", False), ("qwen3_5_moe", True)):
        with tempfile.TemporaryDirectory() as folder:
            compare(arguments.program, family, normalizes, pathlib.Path(folder))


if __name__ == "__main__":
    main()
