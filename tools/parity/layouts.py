# SPDX-License-Identifier: Apache-2.0
"""Compares converted weights with what transformers, torch and the index maps of vLLM and Megatron
say.

    python tools/parity/layouts.py --program build/bin/lockstep

Two checkpoints with sizes that differ wherever a map could mistake them, a mixture of experts, and
a tied dense model whose key-value heads are fewer than some layouts' ranks, are converted to each
format; every tensor of every rank is then made a second time, here, by views and permutes of the
checkpoint's tensors, by transformers' own loading, or by torch's distribute_tensor. Nothing of the
program's tables is used. Prints a line a layout, and exits 1 if a tensor differs, is missing or is
one too many.
"""

import argparse
import json
import math
import pathlib
import subprocess
import sys
import tempfile

import torch
from safetensors.torch import load_file

# Two key heads, two groups and two members a rank at least, or conventions would coincide.
TEXT = {"hidden_size": 72, "num_hidden_layers": 4, "num_attention_heads": 12,
        "num_key_value_heads": 4, "head_dim": 32, "vocab_size": 1101,
        "linear_num_key_heads": 4, "linear_num_value_heads": 12, "linear_key_head_dim": 24,
        "linear_value_head_dim": 16, "linear_conv_kernel_dim": 4, "moe_intermediate_size": 40,
        "shared_expert_intermediate_size": 56, "num_experts": 6, "num_experts_per_tok": 2}
H, NH, HD = 72, 12, 32
HK, HV, DK, DV = 4, 12, 24, 16
I, E, V = 40, 6, 1101
# What the dense model has otherwise.
DENSE = {"num_key_value_heads": 2, "intermediate_size": 88}
PREFIX = "model.language_model."


class Checkpoint:
    """The published tensors, by parts."""

    def __init__(self, folder):
        self.tensors = load_file(folder / "model.safetensors")

    def __getitem__(self, name):
        return self.tensors[name]

    def layer(self, index):
        return self.below(f"{PREFIX}layers.{index}.")

    @property
    def is_tied(self):
        return "lm_head.weight" not in self.tensors

    def below(self, prefix):
        return {name[len(prefix):]: t for name, t in self.tensors.items()
                if name.startswith(prefix)}

    @staticmethod
    def delta(layer):
        q, k, v = layer["linear_attn.in_proj_qkv.weight"].split([HK * DK, HK * DK, HV * DV])
        return (q, k, v, layer["linear_attn.in_proj_z.weight"],
                layer["linear_attn.in_proj_b.weight"], layer["linear_attn.in_proj_a.weight"])

    @staticmethod
    def conv(layer):
        return layer["linear_attn.conv1d.weight"].split([HK * DK, HK * DK, HV * DV])


def is_attention(index):
    return index % 4 == 3


def padded(table, rows):
    return torch.cat([table, table.new_zeros(rows - table.shape[0], table.shape[1])])


def vllm_rank(checkpoint, rank, tp, dp, ep, processed):
    """A rank of vLLM, whose source the views follow."""
    tp_rank, world = rank % tp, tp * dp
    top = "language_model.model."
    table = padded(checkpoint[PREFIX + "embed_tokens.weight"], 1152).chunk(tp)[tp_rank]
    out = {top + "embed_tokens.weight": table,
           top + "norm.weight": checkpoint[PREFIX + "norm.weight"]}
    if not checkpoint.is_tied:
        out["language_model.lm_head.weight"] = padded(checkpoint["lm_head.weight"],
                                                      1152).chunk(tp)[tp_rank]

    def part(tensor, dim=0):
        return tensor.chunk(tp, dim)[tp_rank]

    for index in range(TEXT["num_hidden_layers"]):
        layer, here = checkpoint.layer(index), {}
        for name in ("input_layernorm.weight", "post_attention_layernorm.weight"):
            here[name] = layer[name]
        if is_attention(index):
            q = layer["self_attn.q_proj.weight"].view(NH, 2 * HD, H)
            k, v = (layer[f"self_attn.{x}_proj.weight"].view(-1, HD, H) for x in "kv")
            nkv = len(k)
            heads, groups = NH // tp, max(1, nkv // tp)
            first = tp_rank * nkv // tp if tp <= nkv else tp_rank // (tp // nkv)
            here["self_attn.qkv_proj.weight"] = torch.cat(
                [q[tp_rank * heads:(tp_rank + 1) * heads].reshape(-1, H),
                 k[first:first + groups].reshape(-1, H), v[first:first + groups].reshape(-1, H)])
            here["self_attn.o_proj.weight"] = part(layer["self_attn.o_proj.weight"], 1)
            for name in ("self_attn.q_norm.weight", "self_attn.k_norm.weight"):
                here[name] = layer[name]
        else:
            q, k, v, z, b, a = checkpoint.delta(layer)
            here["linear_attn.in_proj_qkvz.weight"] = torch.cat([part(x) for x in (q, k, v, z)])
            here["linear_attn.in_proj_ba.weight"] = torch.cat([part(x) for x in (b, a)])
            here["linear_attn.conv1d.weight"] = torch.cat([part(x) for x in checkpoint.conv(layer)])
            for name in ("A_log", "dt_bias"):
                here["linear_attn." + name] = part(layer["linear_attn." + name])
            here["linear_attn.norm.weight"] = layer["linear_attn.norm.weight"]
            here["linear_attn.out_proj.weight"] = part(layer["linear_attn.out_proj.weight"], 1)
        mlp = "mlp.shared_expert." if "mlp.gate.weight" in layer else "mlp."
        here[mlp + "gate_up_proj.weight"] = torch.cat(
            [part(layer[f"{mlp}{x}_proj.weight"]) for x in ("gate", "up")])
        here[mlp + "down_proj.weight"] = part(layer[mlp + "down_proj.weight"], 1)
        if mlp == "mlp.":
            out |= {f"{top}layers.{index}.{name}": t for name, t in here.items()}
            continue
        for name in ("mlp.gate.weight", "mlp.shared_expert_gate.weight"):
            here[name] = layer[name]
        w13, w2 = layer["mlp.experts.gate_up_proj"], layer["mlp.experts.down_proj"]
        if ep > 1:
            base, rest = divmod(E, ep)
            first = rank * base + min(rank, rest)
            local = slice(first, first + base + (rank < rest))
            w13, w2 = w13[local], w2[local]
        else:
            gate, up = w13.split(I, dim=1)
            w13 = torch.cat([gate.chunk(world, 1)[rank], up.chunk(world, 1)[rank]], 1)
            w2 = w2.chunk(world, 2)[rank]
        if processed:
            w13, w2 = w13.transpose(1, 2), w2.transpose(1, 2)
        here["mlp.experts.w13_weight"], here["mlp.experts.w2_weight"] = w13, w2
        out |= {f"{top}layers.{index}.{name}": t for name, t in here.items()}
    return out


def engine_rank(checkpoint, rank, tp, dp, ep, dtype):
    """A rank of a vLLM 0.32 that runs: the names of its experts, and the engine's dtype."""
    tensors = vllm_rank(checkpoint, rank, tp, dp, ep, False)
    return {name.replace(".experts.w", ".experts.routed_experts.w"):
            value.to(torch.float32 if name.endswith(".A_log") else dtype)
            for name, value in tensors.items()}


def fc1(gate, up, rank, ranks):
    both = torch.stack([gate, up])  # [2, rows, H], cut along the rows of both
    return both.chunk(ranks, 1)[rank].reshape(-1, both.shape[2])


class Megatron:
    """Megatron's ranks, by its source. Embedding and head in ranks of the padded vocabulary."""

    def __init__(self, checkpoint, tp, pp, ep, etp, gate="head", gdn="fused", out_norm="plain"):
        self.checkpoint, self.tp, self.pp, self.ep, self.etp = checkpoint, tp, pp, ep, etp
        self.gate, self.gdn, self.out_norm = gate, gdn, out_norm
        self.stage_ranks = math.lcm(tp, ep * etp)
        self.name = (f"megatron:tp={tp},pp={pp},ep={ep},etp={etp},gate={gate},gdn={gdn},"
                     f"out_norm={out_norm}")

    def ranks(self):
        return (self.rank(r) for r in range(self.stage_ranks * self.pp))

    def rank(self, rank):
        checkpoint, tp = self.checkpoint, self.tp
        stage, s = divmod(rank, self.stage_ranks)
        r = s % tp
        is_first, is_last = stage == 0, stage == self.pp - 1
        layers = TEXT["num_hidden_layers"] // self.pp

        def table(name):
            return padded(checkpoint[name], -(-V // tp) * tp).chunk(tp)[r]

        out = {}
        if is_first or is_last:  # the last stage's MTP head embeds tokens too
            out["embedding.word_embeddings.weight"] = table(PREFIX + "embed_tokens.weight")
        for local in range(layers):
            index = stage * layers + local
            here = self.layer(checkpoint.layer(index), is_attention(index), s)
            out |= {f"decoder.layers.{local}.{name}": t for name, t in here.items()}
        if not is_last:
            return out
        out["decoder.final_layernorm.weight"] = checkpoint[PREFIX + "norm.weight"]
        if not checkpoint.is_tied:
            out["output_layer.weight"] = table("lm_head.weight")
        elif not is_first:
            out["output_layer.weight"] = table(PREFIX + "embed_tokens.weight")
        mtp, head = "mtp.layers.0.", checkpoint.below("mtp.")
        out[mtp + "eh_proj.weight"] = head["fc.weight"].chunk(tp)[r]
        out[mtp + "enorm.weight"] = head["pre_fc_norm_embedding.weight"]
        out[mtp + "hnorm.weight"] = head["pre_fc_norm_hidden.weight"]
        out[mtp + "final_layernorm.weight"] = head["norm.weight"]
        here = self.layer(checkpoint.below(mtp), True, s)
        return out | {f"{mtp}transformer_layer.{name}": t for name, t in here.items()}

    def layer(self, layer, attention, s):
        r, tp = s % self.tp, self.tp
        here = self.attention(layer, r) if attention else self.delta(layer, r)
        if "mlp.gate.weight" not in layer:
            here["mlp.linear_fc1.layer_norm_weight"] = layer["post_attention_layernorm.weight"]
            gate, up, down = (layer[f"mlp.{x}_proj.weight"] for x in ("gate", "up", "down"))
            here["mlp.linear_fc1.weight"] = fc1(gate, up, r, tp)
            here["mlp.linear_fc2.weight"] = down.chunk(tp, 1)[r]
            return here
        here["pre_mlp_layernorm.weight"] = layer["post_attention_layernorm.weight"]
        here["mlp.router.weight"] = layer["mlp.gate.weight"]
        here["mlp.shared_experts.gate_weight"] = layer["mlp.shared_expert_gate.weight"]
        gate, up, down = (layer[f"mlp.shared_expert.{x}_proj.weight"]
                          for x in ("gate", "up", "down"))
        here["mlp.shared_experts.linear_fc1.weight"] = fc1(gate, up, r, tp)
        here["mlp.shared_experts.linear_fc2.weight"] = down.chunk(tp, 1)[r]
        ep, etp = self.ep, self.etp
        etp_rank, ep_rank = s % etp, s // etp % ep
        for i in range(E // ep):
            e = ep_rank * (E // ep) + i
            gate, up = layer["mlp.experts.gate_up_proj"][e].split(I)
            here[f"mlp.experts.linear_fc1.weight{i}"] = fc1(gate, up, etp_rank, etp)
            here[f"mlp.experts.linear_fc2.weight{i}"] = layer["mlp.experts.down_proj"][e].chunk(
                etp, 1)[etp_rank]
        return here

    def attention(self, layer, r):
        k, v = (layer[f"self_attn.{x}_proj.weight"].view(-1, HD, H) for x in "kv")
        groups = len(k)
        q = layer["self_attn.q_proj.weight"].view(groups, NH // groups, 2, HD, H)
        if self.gate == "group":
            q = q.transpose(1, 2)
        qkv = torch.cat([q.reshape(groups, -1, H), k, v], 1).reshape(-1, H)
        here = {"self_attention.linear_qkv.layer_norm_weight": layer["input_layernorm.weight"],
                "self_attention.linear_qkv.weight": qkv.chunk(self.tp)[r],
                "self_attention.linear_proj.weight": layer["self_attn.o_proj.weight"].chunk(
                    self.tp, 1)[r]}
        for x in "qk":
            here[f"self_attention.{x}_layernorm.weight"] = layer[f"self_attn.{x}_norm.weight"]
        return here

    def delta(self, layer, r):
        norm = layer["linear_attn.norm.weight"] - (1 if self.out_norm == "centred" else 0)
        if self.gdn == "hf":  # slime keeps the module of transformers, its norm before it
            here = {"self_attention." + name: t for name, t in layer.items()
                    if name.startswith("linear_attn.")}
            return here | {"self_attention.linear_attn.norm.weight": norm,
                           "self_attention.input_layernorm.weight": layer["input_layernorm.weight"]}
        tp, parts, conv = self.tp, self.checkpoint.delta(layer), self.checkpoint.conv(layer)

        def by_head(tensors):
            heads = [t.reshape(HK, -1, *t.shape[1:]) for t in tensors]
            return torch.cat(heads, 1).flatten(0, 1).chunk(tp)[r]

        def by_part(tensors):
            return torch.cat([t.chunk(tp)[r] for t in tensors])

        here = {"input_layernorm.weight" if self.gdn == "decoupled"
                else "self_attention.in_proj.layer_norm_weight": layer["input_layernorm.weight"]}
        if self.gdn == "decoupled":
            here["self_attention.in_proj_qkvz.weight"] = by_head(parts[:4])
            here["self_attention.in_proj_ba.weight"] = by_head(parts[4:])
        else:
            here["self_attention.in_proj.weight"] = (by_part if self.gdn == "part"
                                                     else by_head)(parts)
        here["self_attention.conv1d.weight"] = (by_part if self.gdn == "part" else by_head)(conv)
        for name in ("A_log", "dt_bias"):
            here["self_attention." + name] = layer["linear_attn." + name].chunk(tp)[r]
        here["self_attention.out_norm.weight"] = norm
        here["self_attention.out_proj.weight"] = layer["linear_attn.out_proj.weight"].chunk(tp, 1)[
            r]
        return here


def qwen3_next(checkpoint):
    """The checkpoint with the delta rule's projections by key head, as
    Qwen3-Next has them.
    """
    out = dict(checkpoint.tensors)
    for index in range(TEXT["num_hidden_layers"]):
        if is_attention(index):
            continue
        parts = checkpoint.delta(checkpoint.layer(index))
        prefix = f"{PREFIX}layers.{index}.linear_attn."
        heads = [t.reshape(HK, -1, H) for t in parts]
        for old in ("qkv", "z", "b", "a"):
            del out[f"{prefix}in_proj_{old}.weight"]
        out[prefix + "in_proj_qkvz.weight"] = torch.cat(heads[:4], 1).reshape(-1, H)
        out[prefix + "in_proj_ba.weight"] = torch.cat(heads[4:], 1).reshape(-1, H)
    return out


def fsdp2_ranks(tensors, world):
    """torch's own shards of every tensor."""
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard, distribute_tensor
    from torch.testing._internal.distributed.fake_pg import FakeStore

    for rank in range(world):
        dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=world)
        mesh = init_device_mesh("cpu", (world,))
        yield {name: distribute_tensor(t, mesh, [Shard(0)], src_data_rank=None).to_local().clone()
               for name, t in tensors.items()}
        dist.destroy_process_group()


def runtime_parameters(folder):
    """What transformers has in memory after loading the checkpoint."""
    from transformers import AutoModelForImageTextToText

    model = AutoModelForImageTextToText.from_pretrained(folder, dtype="auto")
    return {name: p.detach() for name, p in model.named_parameters()}


class Bench:
    def __init__(self, program, folder, family, text, tied):
        self.program, self.folder, self.missed = program, folder, 0
        subprocess.run([program, "new-model", "--like", family, "--nested", "true",
                        "--output_dir", folder / "shape", "--quiet"], check=True)
        config = json.loads((folder / "shape" / "config.json").read_text())
        known = config["text_config"]
        known |= {key: value for key, value in text.items() if key in known}
        known["tie_word_embeddings"] = config["tie_word_embeddings"] = tied
        config["vision_config"]["out_hidden_size"] = H
        path = folder / "config.json"
        path.write_text(json.dumps(config))
        for dtype in ("bfloat16", "float32"):
            subprocess.run([program, "new-model", "--config", path, "--output_dir",
                            folder / dtype, "--torch_dtype", dtype, "--quiet"], check=True)
        self.model = folder / "bfloat16"
        self.checkpoint = Checkpoint(self.model)

    def ranks(self, layout):
        output = self.folder / "converted"
        subprocess.run([self.program, "layout", "convert", "--from", "checkpoint", "--to", layout,
                        "--input", self.model, "--output_dir", output, "--overwrite", "true",
                        "--quiet"], check=True)
        return [load_file(path) for path in sorted(output.glob("*.safetensors"))]

    def compare(self, layout, expected):
        """Tensors of all ranks; what a format carries without knowing it, the vision tower and
        vLLM's MTP head, is not looked at.
        """
        found, wrong, count = self.ranks(layout), [], 0
        expected = list(expected)
        if len(found) != len(expected):
            wrong.append(f"{len(found)} ranks in place of {len(expected)}")
        for rank, (have, want) in enumerate(zip(found, expected)):
            carried = ("visual.",
                       "model.visual.") + (("mtp.",) if layout.startswith("vllm") else ())
            have = {n: t for n, t in have.items() if n in want or not n.startswith(carried)}
            for name in sorted(have.keys() | want.keys()):
                count += 1
                if name not in have or name not in want:
                    wrong.append(f"rank {rank}: {name} only {'here' if name in have else 'there'}")
                elif have[name].dtype != want[name].dtype:
                    wrong.append(f"rank {rank}: {name} is {have[name].dtype}")
                elif have[name].shape != want[name].shape or not torch.equal(
                    have[name], want[name].contiguous()):
                    wrong.append(f"rank {rank}: {name} differs")
        self.missed += bool(wrong)
        print(f"{'MISS' if wrong else 'ok  '} {layout:58} {count:5} tensors", flush=True)
        for line in wrong[:5]:
            print("     " + line)

    def vllm(self, degrees):
        for tp, dp, ep in degrees:
            for state in ("vllm", "vllm-ascend:state=preprocessed", "vllm-ascend:state=processed"):
                name = f"{state}{',' if ':' in state else ':'}tp={tp},dp={dp},ep={ep}"
                self.compare(name, (vllm_rank(self.checkpoint, r, tp, dp, ep,
                                              state.endswith("=processed"))
                                    for r in range(tp * dp)))

    def engine(self, degrees):
        """Checkpoints in either dtype, as an engine of either has them."""
        first = self.model, self.checkpoint
        for source in ("bfloat16", "float32"):
            self.model = self.folder / source
            self.checkpoint = Checkpoint(self.model)
            for dtype in ("bfloat16", "float32"):
                for tp, dp, ep in degrees:
                    self.compare(f"vllm:version=0.32,dtype={dtype},tp={tp},dp={dp},ep={ep}",
                                 (engine_rank(self.checkpoint, r, tp, dp, ep, getattr(torch, dtype))
                                  for r in range(tp * dp)))
        self.model, self.checkpoint = first

    def megatron(self, degrees, **conventions):
        for tp, pp, ep, etp in degrees:
            layout = Megatron(self.checkpoint, tp, pp, ep, etp, **conventions)
            self.compare(layout.name, layout.ranks())

    def runtime(self, worlds):
        # transformers rounds A_log on loading unless all is float32.
        self.model = self.folder / "float32"
        runtime = runtime_parameters(self.model)
        # Our own addition: the MTP head, which transformers leaves out, under its checkpoint names.
        runtime |= {name: t for name, t in load_file(self.model / "model.safetensors").items()
                    if name.startswith("mtp.")}
        self.compare("hf-runtime", [runtime])
        for world in worlds:
            self.compare(f"fsdp2:world={world}", fsdp2_ranks(runtime, world))


def compare_mixture(bench):
    bench.vllm(((1, 1, 1), (2, 1, 1), (4, 1, 1), (2, 2, 1), (2, 2, 4), (1, 6, 6), (1, 5, 5)))
    bench.engine(((1, 1, 1), (2, 1, 1), (2, 2, 4)))
    degrees = ((1, 1, 1, 1), (2, 1, 1, 1), (2, 2, 1, 2), (2, 1, 2, 1), (2, 1, 3, 2), (1, 4, 6, 1))
    for gate in ("head", "group"):
        for gdn in ("fused", "decoupled", "part"):
            bench.megatron(degrees, gate=gate, gdn=gdn)
    bench.megatron(((2, 2, 3, 1),), gate="group", gdn="hf", out_norm="centred")
    bench.compare("qwen3-next", [qwen3_next(bench.checkpoint)])
    bench.runtime((2, 3, 5, 8))


def compare_dense(bench):
    """Ranks beyond the key-value heads, which share them; for Megatron a cut inside of a group."""
    bench.vllm(((1, 1, 1), (4, 1, 1)))
    bench.engine(((1, 1, 1), (4, 1, 1)))
    bench.megatron(((1, 1, 1, 1), (4, 1, 1, 1), (2, 2, 1, 1)))
    bench.megatron(((4, 2, 1, 1),), gate="group", gdn="part", out_norm="centred")
    bench.runtime((3,))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--program", required=True, type=lambda p: pathlib.Path(p).resolve())
    options = parser.parse_args()
    missed = 0
    for family, text, tied, compare in (("qwen3_5_moe", TEXT, False, compare_mixture),
                                        ("qwen3_5", TEXT | DENSE, True, compare_dense)):
        with tempfile.TemporaryDirectory() as folder:
            bench = Bench(options.program, pathlib.Path(folder), family, text, tied)
            compare(bench)
            missed += bench.missed
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
