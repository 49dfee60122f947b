# SPDX-License-Identifier: Apache-2.0
"""Checks that vLLM with our plugin (integrations/vllm) takes new weights whole, or not at all.

    python tools/parity/vllm_updates.py --program build/bin/lockstep [--only NAME…]

For each case vLLM loads a checkpoint A and is given B, A and B again through the plugin, by shared
memory and over TCP, whole and as deltas. Each time its log-probabilities must be those of a fresh
process that loads the same checkpoint, without any difference: greedy tokens alone, or A -> B -> A,
hide faults. Weights with a planted fault must be refused with the fault's code, and the old ones go
on. Where the plugin's own work is spoilt on purpose, the status or the log-probabilities must show
it: the check can fail. Prints each figure with its bound, and exits 1 if one is over it.
"""

import argparse
import contextlib
import math
import pathlib
import shutil
import signal
import sys
import tempfile
import tomllib

import torch
from safetensors.torch import load_file, save_file

from program import Program, ProgramError
from vllm_adapters import HEADS, VOCABULARY, new_model
from vllm_engine import EngineError, OfflineEngine
from vllm_server import PYTHON, ROOT, VllmError, VllmServer, environment
from weight_block import WeightBlock, WeightImage
from weight_delta import delta_of
from weight_sender import WeightSender

from model import Report

NUM_TOKENS = 8
PLUGIN = ROOT / "integrations" / "vllm"
CARRIED = ("mtp.", "model.visual.")
# By name: family and precision of a model, and what is checked of it beside the updates.
CASES = {
    "qwen3 tied": dict(like="qwen3", dtype="bfloat16", tied=True,
                       plants=["heads", "swapped", "skipped"]),
    # Rows that pad the vocabulary.
    "qwen3": dict(like="qwen3", dtype="float32", changes=dict(vocab_size=2090)),
    "qwen3_moe tied": dict(like="qwen3_moe", dtype="float32", tied=True,
                           plants=["experts", "experts twice"]),
    # Experts whose packed form is larger.
    "qwen3_moe": dict(like="qwen3_moe", dtype="bfloat16", changes=dict(moe_intermediate_size=48)),
    "qwen3_moe grouped": dict(like="qwen3_moe", dtype="float32", grouped=True),
    "qwen3_5 tied": dict(like="qwen3_5", dtype="bfloat16", changes=HEADS, tied=True),
    "qwen3_5 nested": dict(like="qwen3_5", dtype="bfloat16", changes=HEADS, nested=True),
    "qwen3_5_moe": dict(like="qwen3_5_moe", dtype="bfloat16", changes=HEADS, plants=["experts"]),
    "qwen3_5_moe nested tied": dict(like="qwen3_5_moe", dtype="bfloat16", changes=HEADS,
                                    nested=True, tied=True,
                                    plants=["heads", "experts", "experts twice", "swapped",
                                            "skipped"]),
    "qwen3_moe, two ranks": dict(like="qwen3_moe", dtype="float32", tied=True, ranks=2),
    "qwen3_5_moe nested, two ranks": dict(like="qwen3_5_moe", dtype="bfloat16", changes=HEADS,
                                          nested=True, ranks=2),
    "qwen3_5_moe compiled": dict(like="qwen3_5_moe", dtype="bfloat16", changes=HEADS,
                                 compiled=True),
    "qwen3 served": dict(like="qwen3", dtype="float32", tied=True, served=True),
}


def prompts_of():
    letters = torch.Generator().manual_seed(5)
    return [torch.randint(3, VOCABULARY, (5 + 9 * i,), generator=letters).tolist()
            for i in range(6)]


def plugin_folder(folder):
    """A folder in which vLLM finds the plugin as if it were installed."""
    project = tomllib.loads((PLUGIN / "pyproject.toml").read_text())["project"]
    info = folder / f"lockstep_vllm-{project['version']}.dist-info"
    info.mkdir(parents=True)
    (folder / "lockstep_vllm").symlink_to(PLUGIN / "lockstep_vllm")
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    lines = [f"{name} = {target}\n" for name, target
             in project["entry-points"]["vllm.general_plugins"].items()]
    (info / "entry_points.txt").write_text("[vllm.general_plugins]\n" + "".join(lines))
    return folder


def other_weights(program, model):
    """The same model after an update that changes every weight of the text model."""
    other = program.new_path()
    shutil.copytree(model, other)
    letters = torch.Generator().manual_seed(11)
    tensors = load_file(model / "model.safetensors")
    for name, value in tensors.items():
        if not name.startswith(CARRIED):
            noise = torch.randn(value.shape, generator=letters)
            tensors[name] = (value.float() * (1 + 0.5 * noise) + 0.01 * noise).to(value.dtype)
    save_file(tensors, other / "model.safetensors", metadata={"format": "pt"})
    return other


def text_tensors(model):
    return {name: value for name, value in load_file(model / "model.safetensors").items()
            if not name.startswith(CARRIED)}


def grouped(tensors):
    """Experts that lie one by one, as one tensor for all."""
    found = {name: value for name, value in tensors.items() if ".experts." not in name}
    layers = {name.split(".experts.")[0] for name in tensors if ".experts." in name}
    for layer in layers:
        count = sum(name.startswith(f"{layer}.experts.") and "up_proj" in name for name in tensors)
        of = lambda kind: [tensors[f"{layer}.experts.{i}.{kind}.weight"] for i in range(count)]
        found[f"{layer}.experts.gate_up_proj"] = torch.stack(
            [torch.cat(both) for both in zip(of("gate_proj"), of("up_proj"))])
        found[f"{layer}.experts.down_proj"] = torch.stack(of("down_proj"))
    return found


class Served:
    """A server with the plugin, asked as OfflineEngine is."""

    def __init__(self, server):
        self.server = server

    def ask(self, command, *arguments):
        return getattr(self, command)(*arguments)

    def rpc(self, method, *arguments):
        routes = {"init_weight_transfer_engine": "init_info", "update_weights": "update_info"}
        if method.startswith("lockstep_"):
            answer = self.server.post("/collective_rpc", {"method": method})
            return answer.json()["results"]
        body = {routes[method]: arguments[0]} if arguments else {}
        if method == "finish_weight_update":
            body = {"weight_version": "v"}
        self.server.post("/" + method, body)

    def reset_prefix_cache(self):
        return self.server.post("/reset_prefix_cache", {}).json()["success"]

    def judge(self, prompts, max_tokens):
        answers = []
        for prompt in prompts:
            choice = self.server.complete("base", prompt, max_tokens=max_tokens, logprobs=0,
                                          prompt_logprobs=0)
            scores = [place[str(token)]["logprob"] for token, place
                      in zip(prompt[1:], choice["prompt_logprobs"][1:])]
            answers.append({"tokens": prompt[1:] + choice["token_ids"],
                            "logprobs": scores + choice["logprobs"]["token_logprobs"]})
        return answers


class Case:
    """A case's models and engines. An engine is one of the two classes above."""

    def __init__(self, program, title, report):
        self.program, self.title, self.report = program, title, report
        self.about = CASES[title]
        about = self.about
        self.model = new_model(program, about["like"], about["dtype"], about.get("changes", {}),
                               about.get("nested", False), about.get("tied", False))
        self.other = other_weights(program, self.model)
        self.num_ranks = about.get("ranks", 1)
        self.plugins = plugin_folder(program.new_path())

    def environment(self):
        mine = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_SERVER_DEV_MODE": "1"}
        if self.num_ranks > 1:
            # Threads of two ranks on one node want a place each.
            mine["VLLM_CPU_OMP_THREADS_BIND"] = "|".join(map(str, range(self.num_ranks)))
        return mine

    @contextlib.contextmanager
    def engine(self, model):
        log, nested = self.program.new_path(".log"), self.about.get("nested", False)
        dtype = self.about["dtype"]
        if self.about.get("served"):
            extra = ["--weight-transfer-config", '{"backend":"lockstep"}',
                     *(["--language-model-only"] if nested else [])]
            with VllmServer(model, log, dtype, extra=extra, plugins=self.plugins,
                            variables=self.environment()) as server:
                yield Served(server)
            return
        options = {"model": str(model), "dtype": dtype, "max_model_len": 512, "max_num_seqs": 8,
                   "enforce_eager": not self.about.get("compiled", False),
                   "tensor_parallel_size": self.num_ranks, "seed": 0,
                   "weight_transfer_config": {"backend": "lockstep"},
                   # Not every processor has the packed form whose fault is planted.
                   "packed": "heads" in self.about.get("plants", [])}
        if nested:
            options["language_model_only"] = True
        with OfflineEngine(PYTHON, environment(self.plugins) | self.environment(), log,
                           **options) as engine:
            yield engine

    def tensors(self, model):
        tensors = text_tensors(model)
        return grouped(tensors) if self.about.get("grouped") else tensors

    def zero(self, what, figure):
        self.report.add("updates", self.title, what, float(figure), 0)


def judge(engine):
    if not engine.ask("reset_prefix_cache"):
        raise EngineError("expected the prefix cache to be reset")
    return engine.ask("judge", prompts_of(), NUM_TOKENS)


def difference(left, right):
    """The largest of log-probabilities, as far as the tokens are the same; but never 0 if some are
    not.
    """
    found = 0.0
    for one, other in zip(left, right):
        same = next((i for i, (a, b) in enumerate(zip(one["tokens"], other["tokens"])) if a != b),
                    len(one["tokens"]))
        found = max([found, *(abs(a - b) for a, b in zip(one["logprobs"][:same],
                                                        other["logprobs"][:same]))])
        if same < len(one["tokens"]) and found == 0:
            return math.inf
    return found


def states(engine):
    return engine.ask("rpc", "lockstep_status")


def offer(engine, info):
    """An update until it is staged; returns the status of each rank."""
    engine.ask("rpc", "start_weight_update")
    engine.ask("rpc", "update_weights", info)
    return states(engine)


def give(case, engine, offered, what):
    """An update of a WeightBlock or of a WeightSender; returns the digest that is served then."""
    staged = offer(engine, offered.info(version=what))
    case.zero(f"{what}: ranks that have not staged it",
              sum(one["staged"] != offered.digest for one in staged))
    engine.ask("rpc", "finish_weight_update")
    bad = [one for one in states(engine)
           if one["digest"] != offered.digest or one["state"] != "serving"
           or one["version"] != what or one["error"]]
    case.zero(f"{what}: ranks that do not serve it" + (f": {bad[0]['error']}" if bad else ""),
              len(bad))
    return offered.digest


def update(case, engine, tensors, what):
    with WeightBlock(tensors) as block:
        return give(case, engine, block, what)


def near(tensors):
    """Weights of which one element in twenty is another."""
    letters = torch.Generator().manual_seed(13)
    return {name: torch.where(torch.rand(value.shape, generator=letters) < 0.05,
                              (value.float() * 1.5 + 0.5).to(value.dtype), value)
            for name, value in tensors.items()}


def check_tcp(case, engine, tensors, truth, what):
    """Weights over TCP: whole; then others, and the change from these; then deltas that are not
    taken. Returns the digest that is served.
    """
    image, base = WeightImage(tensors), WeightImage(near(tensors))
    with WeightSender(image) as sender:
        give(case, engine, sender, f"{what} over TCP")
        case.zero(f"{what} over TCP: difference from a fresh process",
                  difference(judge(engine), truth))
        case.zero(f"{what} over TCP: ranks that have not pulled it",
                  case.num_ranks - sum(one["begin"] == 0 for one in sender.requests))
    with WeightSender(base) as sender:
        give(case, engine, sender, f"near {what} over TCP")
        apart = difference(judge(engine), truth)
        case.zero(f"{what} and what is near it are the same ({apart:.3g})", apart == 0)
    delta = delta_of(base, image).to_bytes()
    with WeightSender(image, base=base.digest, delta=delta) as sender:
        share = len(delta) / image.bytes
        digest = give(case, engine, sender, f"{what} as a delta")
        case.zero(f"{what} as a delta ({share:.2f} of the bytes): difference from a fresh process",
                  difference(judge(engine), truth))
        case.zero(f"{what} as a delta: ranks that do not keep it",
                  sum(one["base"] != digest for one in states(engine)))
        case.zero(f"{what} as a delta: requests of the block",
                  sum("base" not in one for one in sender.requests))
    return digest


def check_tcp_faults(case, engine, tensors, digest):
    """Senders of weights that must not be taken. `digest` is that of what is served and kept."""
    image, base = WeightImage(tensors), WeightImage(near(tensors))
    last = max(image.begins.values()) + image.data_begin
    delta = delta_of(base, image).to_bytes()

    def holds_last(request):
        return request["begin"] <= last < request["end"]

    def flipped(request, reply):
        return [reply[:-1] + bytes([reply[-1] ^ 1])] if holds_last(request) else [reply]

    def cut(request, reply):
        return [reply[:-1]] if holds_last(request) else [reply]

    for what, code, sender, changes in (
            ("a stranger", "wrong-token", WeightSender(image), {"token": "0" * 32}),
            ("more bytes than the model", "too-large", WeightSender(image),
             {"bytes": image.bytes + 100_000_000}),
            ("a delta without its base", "wrong-base",
             WeightSender(image, base=base.digest, delta=delta), {}),
            ("a flipped bit over TCP", "digest-mismatch", WeightSender(image, spoil=flipped), {}),
            ("an end in a tensor", "connection-failed", WeightSender(image, spoil=cut), {}),
            ("a delta after that", "wrong-base",
             WeightSender(image, base=digest, delta=delta), {})):
        with sender:
            offer(engine, sender.info(**changes))
            check_refused(case, engine, what, code, digest)
    case.zero("ranks that keep what was broken off",
              sum(one["base"] is not None for one in states(engine)))
    with WeightSender(base) as sender:
        give(case, engine, sender, "near A over TCP, after faults")
    spoilt = bytearray(delta)
    # Behind the header, so in some chunk.
    spoilt[len(delta) * 9 // 10] ^= 64
    with WeightSender(image, base=base.digest, delta=bytes(spoilt)) as sender:
        found = offer(engine, sender.info())
        case.zero("fault: a spoilt delta is taken",
                  sum(one["error"] is None or one["digest"] != base.digest
                      or one["base"] is not None for one in found))


def changed(tensors, name, value):
    return tensors | {name: value}


def check_refused(case, engine, what, code, digest):
    """Every rank has refused the update for that reason and still serves what it did."""
    found = states(engine)
    bad = [one["error"] for one in found
           if one["state"] != "failed" or one["error"]["code"] != code or one["digest"] != digest
           or one["staged"] is not None]
    case.zero(f"fault: {what}" + (f": {bad[0]}" if bad else ""), len(bad))
    # What vLLM would do next must change nothing, and close the update.
    engine.ask("rpc", "finish_weight_update")
    case.zero(f"fault, then finish: {what}",
              sum(one["digest"] != digest or one["error"]["code"] != code
                  for one in states(engine)))


def faulty(tensors):
    """By what is wrong: the code that is expected, the tensors, and changes of the offer."""
    names = sorted(tensors)
    norm = next(name for name in names if name.endswith("layers.1.input_layernorm.weight"))
    part = next(name for name in names if name.endswith("k_proj.weight"))
    without = {name: value for name, value in tensors.items() if name != part}
    wide = torch.float64 if tensors[norm].dtype == torch.float32 else torch.float32
    return {
        "a missing tensor": ("missing-tensor", without, {}),
        "an unknown name": ("unknown-tensor", changed(tensors, "model.other.weight",
                                                      tensors[norm]), {}),
        "a wrong shape": ("wrong-shape", changed(tensors, norm, tensors[norm][:-1]), {}),
        "a wrong type": ("wrong-dtype", changed(tensors, norm, tensors[norm].to(wide)), {}),
        "another digest": ("digest-mismatch", tensors, {"digest": "0" * 32}),
        "another size": ("bad-image", tensors, {"bytes": 1000}),
        "no block": ("no-block", tensors, {"name": "lockstep-" + "0" * 32}),
        "a name that leads elsewhere": ("bad-request", tensors, {"name": "../../etc/passwd"}),
        "a folder": ("unknown-transport", tensors, {"transport": "directory", "path": "x"}),
        "a field that no one reads": ("bad-request", tensors, {"more": 1}),
    }


def check_faults(case, engine, tensors, digest):
    """Weights that must not be taken. `digest` is that of what is served."""
    for what, (code, wrong, changes) in faulty(tensors).items():
        with WeightBlock(wrong) as block:
            offer(engine, block.info(**changes))
            check_refused(case, engine, what, code, digest)
    with WeightBlock(tensors) as block:
        block.flip(sorted(tensors)[len(tensors) // 2])
        offer(engine, block.info())
        check_refused(case, engine, "a flipped bit", "digest-mismatch", digest)
        block.mark_unwritten()
        offer(engine, block.info())
        check_refused(case, engine, "a block being written", "bad-image", digest)
    with WeightBlock(tensors, protocol=2) as block:
        offer(engine, block.info())
        check_refused(case, engine, "weights of another protocol", "wrong-protocol", digest)
    with WeightBlock(tensors) as block:
        offer(engine, block.info())
        block.mark_unwritten()
        engine.ask("rpc", "finish_weight_update")
        check_refused(case, engine, "a block that changed when staged", "bad-image", digest)


def check_calls(case, engine, tensors, digest):
    """Calls in an order that means nothing, and trainers that come and go."""
    init = lambda **info: engine.ask("rpc", "init_weight_transfer_engine", info)
    engine.ask("rpc", "lockstep_reset")
    engine.ask("rpc", "start_weight_update")
    engine.ask("rpc", "finish_weight_update")
    check_refused(case, engine, "finish without update", "nothing-staged", digest)
    engine.ask("rpc", "lockstep_reset")
    engine.ask("rpc", "finish_weight_update")
    check_refused(case, engine, "finish without start", "no-update", digest)
    init(backend="lockstep", protocol=2)
    check_refused(case, engine, "a trainer of another protocol", "wrong-protocol", digest)
    with WeightBlock(tensors) as block:
        init(backend="lockstep", protocol=1, session="1")
        engine.ask("rpc", "lockstep_reset")
        engine.ask("rpc", "update_weights", block.info())
        check_refused(case, engine, "update without start", "no-update", digest)
        offer(engine, block.info())
        init(backend="lockstep", protocol=1, session="1")
        case.zero("the same trainer's init drops its update",
                  sum(one["state"] != "staged" for one in states(engine)))
        init(backend="lockstep", protocol=1, session="2")
        case.zero("another trainer's init leaves an update open",
                  sum(one["state"] != "serving" or one["session"] != "2"
                      for one in states(engine)))
        offer(engine, block.info())
        engine.ask("rpc", "start_weight_update")
        case.zero("a second start leaves weights staged",
                  sum(one["state"] != "open" for one in states(engine)))
        offer(engine, block.info())
        engine.ask("rpc", "lockstep_reset")
        case.zero("a reset leaves an update open",
                  sum(one["state"] != "serving" for one in states(engine)))


def check_broken_off(case, engine, tensors):
    """An update that breaks off leaves a mark, which a refused one does not take away."""
    engine.ask("plant", "broken off")
    with WeightBlock(tensors) as block:
        offer(engine, block.info())
        engine.ask("rpc", "finish_weight_update")
    engine.ask("repair")
    poisoned = lambda: sum(one["state"] != "poisoned" or one["digest"] is not None
                           for one in states(engine))
    case.zero("an update that broke off leaves no mark", poisoned())
    judge(engine)
    engine.ask("rpc", "init_weight_transfer_engine", {"session": "3"})
    engine.ask("rpc", "lockstep_reset")
    engine.ask("rpc", "start_weight_update")
    engine.ask("rpc", "finish_weight_update")
    case.zero("a refused update takes the mark away", poisoned())


def check_plants(case, tensors, fresh_other):
    """Where the plugin's work is spoilt, the new weights are not what a fresh process has."""
    if not case.about.get("plants"):
        return
    with case.engine(case.model) as engine, WeightBlock(tensors) as block:
        for fault in case.about["plants"]:
            engine.ask("plant", fault)
            staged = offer(engine, block.info())
            case.zero(f"plant: {fault}: ranks that have not staged it",
                      sum(one["staged"] != block.digest for one in staged))
            engine.ask("rpc", "finish_weight_update")
            engine.ask("repair")
            error = states(engine)[0]["error"]
            found = math.nan if error else difference(judge(engine), fresh_other)
            seen = error["code"] if error else f"{found:.3g}"
            case.zero(f"plant: {fault} ({seen}) is not seen", found == 0)
        update(case, engine, tensors, "B after the plants")
        case.zero("B after the plants: difference from a fresh process",
                  difference(judge(engine), fresh_other))


def check_case(case):
    with case.engine(case.other) as engine:
        fresh_other = judge(engine)
    first, second = case.tensors(case.model), case.tensors(case.other)
    with case.engine(case.model) as engine:
        fresh = judge(engine)
        # Else the updates could not be told from none.
        apart = difference(fresh, fresh_other)
        case.zero(f"A and B are the same ({apart:.3g})", apart == 0)
        case.zero("a digest before the first update",
                  sum(one["digest"] is not None or one["state"] != "serving"
                      for one in states(engine)))
        for what, tensors, truth in (("B", second, fresh_other), ("A", first, fresh),
                                     ("B again", second, fresh_other)):
            digest = update(case, engine, tensors, what)
            case.zero(f"{what}: difference from a fresh process", difference(judge(engine), truth))
        check_tcp(case, engine, first, fresh, "A")
        digest = check_tcp(case, engine, second, fresh_other, "B")
        check_faults(case, engine, first, digest)
        check_calls(case, engine, first, digest)
        case.zero("after all faults: difference from a fresh process",
                  difference(judge(engine), fresh_other))
        check_tcp_faults(case, engine, first, digest)
        check_tcp(case, engine, second, fresh_other, "B, after faults")
        if case.num_ranks == 1 and not case.about.get("served"):
            check_broken_off(case, engine, first)
        update(case, engine, first, "A at last")
        case.zero("A at last: difference from a fresh process", difference(judge(engine), fresh))
        if case.num_ranks == 1 and not case.about.get("served"):
            case.zero("blocks that are still mapped", engine.ask("num_mapped"))
    check_plants(case, second, fresh_other)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--program", default="build/bin/lockstep")
    parser.add_argument("--only", nargs="*", default=list(CASES), choices=list(CASES))
    options = parser.parse_args()
    # A signal ends the engines too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    report = Report()
    with tempfile.TemporaryDirectory() as folder:
        program = Program(pathlib.Path(options.program), folder)
        for title in options.only:
            try:
                check_case(Case(program, title, report))
            except (ProgramError, VllmError, EngineError) as error:
                report.fail("updates", title, str(error))
    sys.exit(0 if report.end() else 1)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
