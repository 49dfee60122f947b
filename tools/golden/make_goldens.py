# SPDX-License-Identifier: Apache-2.0
"""Writes tests/golden/*.safetensors: what transformers computes, in float64, for the checkpoints.

    python tools/golden/make_goldens.py [WEIGHTS…]

One file for each set of weights of tests/golden/manifest.json. The format, names and tolerances
stand in tests/golden/README.md. Golden files are never made again to let a test pass.
"""

import json
import subprocess
import sys
from importlib.metadata import version

import torch
import transformers
from safetensors.torch import save_file
from transformers import AutoTokenizer, Trainer

import losses
from common import (CHECKPOINTS, GOLDEN, Truth, canonical_tensors, generator, load,
                    sample_indices, token_logprobs)

# Some seeds make a router choose between two nearly equal experts, which no float32 can repeat.
SEEDS = range(5, 9)
# Five steps by float32, and by float64 from weights moved by half a unit in float32's last place:
# AdamW turns a gradient near zero into a full step of either sign. Beyond it other weights are
# needed (WEIGHT_SEEDS), for then a difference shows nothing about who computed it.
LARGEST_CHANGE_ERROR = 3e-4
PERTURBATION, NUM_PERTURBED = 6e-8, 6
LARGEST_ERROR = 5e-5  # of transformers in float32: a worse conditioned prompt shows nothing
LEAST_MARGIN = 2.5e-6  # ten times the error of a float32 probability
PROMPT_LENGTHS = (1, 2, 63, 64, 65, 500)
GREEDY_LENGTHS = (1, 2, 63, 65)
NUM_GREEDY = 64
BATCH = ((9, 24), (17, 31), (5, 40), (70, 8))  # prompt and completion tokens of each row
SAMPLES = 16
CHANGE_SAMPLES = 64
BF16_SEQUENCES, BF16_LENGTH = 20, 513
ADAMW = dict(lr=1e-3, betas=(0.9, 0.95), eps=1e-8)
WEIGHT_DECAY, MAX_GRAD_NORM, STEPS = 0.1, 1.0, 5


class RouterMargins:
    """Watches routers: the least gap between a chosen and a left-out expert's probability."""

    def __init__(self, model):
        self.least = 9.0
        for name, module in model.named_modules():
            if name.endswith("mlp.gate"):
                module.register_forward_pre_hook(self.look)

    @torch.no_grad()
    def look(self, router, inputs):
        logits = inputs[0].reshape(-1, router.weight.shape[1]) @ router.weight.T
        ordered = logits.softmax(-1).sort(-1, descending=True).values
        gap = ordered[:, router.top_k - 1] - ordered[:, router.top_k]
        self.least = min(self.least, gap.min().item())


class Golden:
    """What one file holds while it is filled."""

    def __init__(self, weights, directory, seed):
        self.weights, self.directory, self.seed = weights, directory, seed
        self.tensors = {}
        self.values = {}
        self.model = load(directory, torch.float64)
        self.names = list(canonical_tensors(dict(self.model.named_parameters())))
        self.margins = RouterMargins(self.model)
        self.vocab_size = self.model.config.get_text_config().vocab_size

    def random_ids(self, length, *key):
        random = generator(self.seed, self.weights, *key)
        return torch.randint(0, self.vocab_size, (length,), generator=random)

    def add_prompts(self):
        narrow = load(self.directory, torch.float32)
        worst = 0.0
        for length in PROMPT_LENGTHS:
            ids = self.random_ids(length, "prompt", length)
            with Truth(), torch.no_grad():
                logprobs, entropy = token_logprobs(self.model, ids)
                if length == 65:
                    self.put("prompt.65.temperature", token_logprobs(self.model, ids, 0.7)[0])
            with torch.no_grad():
                own = token_logprobs(narrow, ids)[0]
            key = f"prompt.{length}."
            self.put(key + "ids", ids)
            if length > 1:
                self.put(key + "logprobs", logprobs)
                self.put(key + "entropy", entropy)
                self.put(key + "float32", own)
                worst = max(worst, (own.double() - logprobs).abs().max().item())
        self.values["float32_error"] = worst

    def add_greedy(self):
        for length in GREEDY_LENGTHS:
            ids = self.random_ids(length, "greedy", length)
            gaps, logprobs = [], []
            for _ in range(NUM_GREEDY):
                with Truth(), torch.no_grad():
                    logits = self.model(input_ids=ids[None]).logits[0, -1]
                    best, index = logits.topk(2)
                    gaps.append(best[0] - best[1])
                    logprobs.append(torch.log_softmax(logits, -1)[index[0]])
                    ids = torch.cat([ids, index[:1]])
            key = f"greedy.{length}."
            self.put(key + "prompt", ids[:length])
            self.put(key + "ids", ids[length:])
            self.put(key + "gap", torch.stack(gaps))
            self.put(key + "logprobs", torch.stack(logprobs))
            self.values[f"greedy.{length}.least_gap"] = min(gaps).item()

    def make_batch(self):
        """A recorded batch: masks with holes, old and reference policies besides the current."""
        rows = []
        for index, (prompt, completion) in enumerate(BATCH):
            ids = self.random_ids(prompt + completion, "batch", index)
            mask = (torch.arange(prompt + completion) >= prompt).long()
            if index == 1:
                mask[prompt + 10 : prompt + 15] = 0  # a tool's answer inside the completion
            with Truth(), torch.no_grad():
                current, cooler = (token_logprobs(self.model, ids, t)[0][mask[1:].bool()]
                                   for t in (1.0, 0.8))
            random = generator(self.seed, self.weights, "policies", index)
            shift = (0.02, -0.3, 0.01, 0.25)[index]
            noise = torch.randn(3, len(current), generator=random, dtype=torch.float64)
            old = losses.move_from_kinks(current + 0.2 * noise[0] + shift, (current, cooler))
            rows.append({
                "ids": ids, "mask": mask,
                "advantage": torch.tensor((1.25, -0.75, -1.5, 0.5)[index], dtype=torch.float64),
                "token_advantage": (noise[2] + 0.3).float().double(),
                "old": old.float().double(),
                "ref": (current + 0.3 * noise[1]).float().double()})
        for index, row in enumerate(rows):
            for key, value in row.items():
                self.put(f"batch.{index}.{key}",
                         value.float() if value.dtype == torch.float64 else value)
        return rows

    def row_losses(self, rows, options):
        result = []
        for row in rows:
            logprobs = token_logprobs(self.model, row["ids"], options["temperature"])[0]
            logprobs = logprobs[row["mask"][1:].bool()]
            advantage = (row["token_advantage"] if options["advantages"] == "token"
                         else row["advantage"].expand_as(logprobs))
            result.append(dict(logprobs=logprobs, old=row["old"], ref=row["ref"],
                               advantage=advantage))
        return result

    def gradients(self):
        gradients = {n: p.grad for n, p in self.model.named_parameters()}
        self.model.zero_grad()
        return canonical_tensors(gradients)

    def add_losses(self):
        """Gradients of the mean token NLL in full, those of GRPO's losses sampled."""
        rows = self.make_batch()
        with Truth():
            used = self.row_losses(rows, losses.DEFAULTS)
            count = sum(len(row["logprobs"]) for row in used)
            nll = -sum(row["logprobs"].sum() for row in used) / count
            nll.backward()
        self.values["nll"] = nll.item()
        gradients = self.gradients()
        self.values["nll_grad_norm"] = norm(gradients)
        for name, gradient in gradients.items():
            self.put("nll." + name, gradient.float())
        self.values["losses"] = {}
        for name, options in losses.variants().items():
            with Truth():
                used = self.row_losses(rows, options)
                assert losses.distance_to_kinks(used, options) > 2e-4, (self.weights, name)
                loss = losses.grpo_loss(used, options)
                trl = losses.trl_loss(used, options)
                same = abs(loss.item() - trl.item()) < 1e-12
                assert same != losses.is_kl_bounded(used, options), (self.weights, name)
                loss.backward()
            gradients = self.gradients()
            self.values["losses"][name] = {"options": options, "loss": loss.item(),
                                           "grad_norm": norm(gradients)}
            self.put_samples(f"loss.{name}.", gradients, SAMPLES)

    def add_sft(self):
        """Five AdamW steps on the rows of sft_rows.jsonl, all rows in each step."""
        tokenizer = AutoTokenizer.from_pretrained(self.directory)
        rows = [encode_row(tokenizer, json.loads(line)["messages"])
                for line in (GOLDEN / "sft_rows.jsonl").read_text().splitlines()]
        decayed = set(Trainer.get_decay_parameter_names(None, self.model))
        with Truth():
            steps, change = adamw_steps(self.model, rows, decayed)
        own = canonical_tensors(adamw_steps(load(self.directory, torch.float32), rows, decayed)[1])
        self.values["sft_losses"] = [loss for loss, _ in steps]
        self.values["sft_grad_norms"] = [norm for _, norm in steps]
        self.values["sft_tokens"] = sum(int(mask.sum()) for _, mask in rows)
        self.values["not_decayed"] = list(
            canonical_tensors({n: p for n, p in change.items() if n not in decayed}))
        change = canonical_tensors(change)
        self.values["sft_float32_error"] = largest_error(own, change)
        self.values["sft_perturbed_error"] = max(
            largest_error(self.perturbed_change(rows, decayed, i), change)
            for i in range(NUM_PERTURBED))
        self.put_samples("sft.", change, CHANGE_SAMPLES)

    def perturbed_change(self, rows, decayed, index):
        model = load(self.directory, torch.float64)
        random = generator(self.seed, self.weights, "perturbation", index)
        with torch.no_grad():
            for parameter in model.parameters():
                noise = torch.randn(parameter.shape, generator=random, dtype=torch.float64)
                parameter.mul_(1 + PERTURBATION * noise)
        return canonical_tensors(adamw_steps(model, rows, decayed)[1])

    def put(self, name, tensor):
        self.tensors[name] = tensor.detach().contiguous()

    def put_samples(self, prefix, tensors, count):
        """Norms [names] and evenly spread elements [names, count] of the tensors, in one order."""
        assert list(tensors) == self.names
        flat = [tensor.detach().reshape(-1) for tensor in tensors.values()]
        self.put(prefix + "norms", torch.stack([values.norm() for values in flat]).double())
        self.put(prefix + "samples", torch.stack(
            [values[sample_indices(len(values), count)] for values in flat]).float())

    def write(self):
        self.values["router_margin"] = self.margins.least
        write(self.weights, self.seed, self.tensors, {"names": self.names, "values": self.values})
        report = {k: v for k, v in self.values.items() if isinstance(v, float)}
        print(self.weights, json.dumps(report))


def adamw_steps(model, rows, decayed):
    """Loss and gradient norm of each step, and each parameter's change over all of them."""
    parameters = dict(model.named_parameters())
    before = {n: p.detach().clone() for n, p in parameters.items()}
    optimizer = torch.optim.AdamW(
        [{"params": [p for n, p in parameters.items() if (n in decayed) == decay],
          "weight_decay": WEIGHT_DECAY if decay else 0.0} for decay in (True, False)],
        foreach=False, **ADAMW)
    count = sum(mask[1:].sum().item() for _, mask in rows)
    steps = []
    for _ in range(STEPS):
        loss = -sum((token_logprobs(model, ids)[0] * mask[1:]).sum() for ids, mask in rows) / count
        loss.backward()
        total = torch.nn.utils.clip_grad_norm_(model.parameters(), MAX_GRAD_NORM)
        optimizer.step()
        optimizer.zero_grad()
        steps.append((loss.item(), total.item()))
    return steps, {n: p.detach() - before[n] for n, p in parameters.items()}


def largest_error(found, truth):
    return max(((found[n] - truth[n]).norm() / truth[n].norm()).item() for n in truth)


def norm(gradients):
    return torch.stack([g.norm() for g in gradients.values()]).norm().item()


def encode_row(tokenizer, messages):
    """Ids and loss mask of a conversation: what an assistant says, and the token that ends it."""
    ids, mask = [], []
    for message in messages:
        head = f"<|im_start|>{message['role']}\n"
        body = message["content"] + "<|im_end|>"
        for text, trained in ((head, 0), (body, int(message["role"] == "assistant"))):
            part = tokenizer(text).input_ids
            ids += part
            mask += [trained] * len(part)
    rendered = tokenizer.apply_chat_template(messages, tokenize=True, return_dict=False)
    assert rendered == ids
    return torch.tensor(ids), torch.tensor(mask)


def make_golden(weights, directory):
    for seed in SEEDS:
        golden = Golden(weights, directory, seed)
        for add in (golden.add_prompts, golden.add_losses, golden.add_greedy, golden.add_sft):
            add()
            error = golden.values["float32_error"]
            if golden.margins.least < LEAST_MARGIN or not 1e-8 < error < LARGEST_ERROR:
                print(f"{weights}: seed {seed} passed over, margin {golden.margins.least:.1e}, "
                      f"float32 error {error:.1e}")
                break
        else:
            change_error = max(golden.values["sft_float32_error"],
                               golden.values["sft_perturbed_error"])
            if change_error > LARGEST_CHANGE_ERROR:
                raise RuntimeError(f"{weights}: the steps are ill-conditioned ({change_error:.1e})")
            return golden.write()
    raise RuntimeError(f"{weights}: no seed keeps its routers' margins")


def write(name, seed, tensors, values):
    commit = subprocess.run(["git", "log", "-1", "--format=%h", "--", "tools/golden"],
                            cwd=GOLDEN, capture_output=True, text=True).stdout.strip()
    metadata = {"script": "tools/golden/make_goldens.py", "script_commit": commit,
                "seed": str(seed),
                "versions": json.dumps({p: version(p) for p in ("torch", "transformers", "trl")})}
    metadata |= {key: json.dumps(value) for key, value in values.items()}
    save_file(tensors, GOLDEN / f"{name}.safetensors", metadata=metadata)


@torch.no_grad()
def make_bf16(manifest):
    """Ten thousand tokens for each family: the truth, and transformers' error in bfloat16.

    The second figure keeps A_log and the gated norm in float32, as Qwen3.5's files hold them;
    transformers itself rounds them on loading.
    """
    random = generator(SEEDS[0], "bf16")
    ids = torch.randint(0, 300, (BF16_SEQUENCES, BF16_LENGTH), generator=random)
    tensors, values = {"ids": ids.int()}, {}
    for entry in manifest:
        if entry["dtype"] != "bfloat16":
            continue
        directory = CHECKPOINTS / entry["name"]
        truth = load(directory, torch.float64)
        with Truth():
            expected = torch.stack([token_logprobs(truth, row)[0] for row in ids])
        errors = {}
        for kind in ("loaded", "float32_kept"):
            model = load(directory, torch.bfloat16)
            if kind == "float32_kept":
                keep_float32(model, truth)
            got = torch.stack([token_logprobs(model, row)[0] for row in ids])
            errors[kind] = (got.double() - expected).abs().mean().item()
        tensors["truth." + entry["name"]] = expected.float()
        values[entry["name"]] = errors
        print(entry["name"], errors)
    write("bf16", SEEDS[0], tensors, {"transformers_error": values})


def keep_float32(model, truth):
    wide = dict(truth.named_parameters())
    for name, parameter in model.named_parameters():
        if name.endswith(("A_log", "linear_attn.norm.weight")):
            parameter.data = wide[name].float()


def main():
    chosen = sys.argv[1:]
    manifest = json.loads((GOLDEN / "manifest.json").read_text())
    done = set()
    for entry in manifest:
        weights = entry["weights"]
        if weights in done or entry["dtype"] != "float32" or (chosen and weights not in chosen):
            continue
        done.add(weights)
        make_golden(weights, CHECKPOINTS / entry["name"])
    if not chosen or "bf16" in chosen:
        make_bf16(manifest)


if __name__ == "__main__":
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    main()
