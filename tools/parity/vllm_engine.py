# SPDX-License-Identifier: Apache-2.0
"""One engine of vLLM in a process of its own, driven over its standard input (OfflineEngine).

    .deps/vllm/bin/python tools/parity/vllm_engine.py '{"model": …, …}'

It is what a server has inside, without HTTP, and starts in a tenth of the time. Each line is a
request, [command, arguments…], and gets a line with its answer.
"""

import contextlib
import functools
import json
import os
import pathlib
import subprocess
import sys

# What undoes the faults that are planted.
REPAIRS = []


class EngineError(Exception):
    pass


class OfflineEngine:
    """The other side, for the time of a `with`. options: arguments of vLLM's class LLM, and
    `packed`: heads compute with a copy of their weight that is made after a load, as they do on
    processors for which vLLM has such a form.
    """

    def __init__(self, python, environment, log, **options):
        self.log = pathlib.Path(log)
        with self.log.open("w") as file:
            self.process = subprocess.Popen(
                [str(python), __file__, json.dumps(options)], env=environment, text=True,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=file)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()

    def ask(self, command, *arguments):
        try:
            self.process.stdin.write(json.dumps([command, *arguments]) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            lines = self.log.read_text(errors="replace").splitlines() or ["(no message)"]
            raise EngineError(f"{command}: the engine ended: {lines[-1]}")
        answer = json.loads(line)
        if "error" in answer:
            raise EngineError(f"{command}: {answer['error']}")
        return answer["result"]


def rpc(llm, method, *arguments):
    return llm.collective_rpc(method, args=arguments)


def judge(llm, prompts, max_tokens):
    """For each prompt the log-probabilities of its tokens and of those that follow, and these."""
    from vllm import SamplingParams

    sampling = SamplingParams(temperature=0, max_tokens=max_tokens, ignore_eos=True, logprobs=0,
                              prompt_logprobs=0)
    rows = llm.generate([{"prompt_token_ids": prompt} for prompt in prompts], sampling,
                        use_tqdm=False)
    answers = []
    for prompt, row in zip(prompts, rows):
        output = row.outputs[0]
        places = row.prompt_logprobs[1:] + output.logprobs
        tokens = prompt[1:] + list(output.token_ids)
        answers.append({"tokens": tokens, "logprobs": [place[token].logprob for token, place
                                                       in zip(tokens, places)]})
    return answers


def reset_prefix_cache(llm):
    return llm.reset_prefix_cache()


def num_mapped(_):
    """How many blocks of weights this process has mapped."""
    return pathlib.Path("/proc/self/maps").read_text().count("lockstep-")


def broken_off(weights):
    """Half of the tensors, and an exception."""
    weights = list(weights)
    yield from weights[:len(weights) // 2]
    raise RuntimeError("broken off")


def swapped(weights):
    """Gate and up changed for one another, in the MLPs and in the experts."""
    for name, tensor in weights:
        if name.endswith("gate_up_proj"):
            tensor = tensor.roll(tensor.shape[1] // 2, 1)
        elif ".gate_proj." in name:
            name = name.replace(".gate_proj.", ".up_proj.")
        else:
            name = name.replace(".up_proj.", ".gate_proj.")
        yield name, tensor


def skipped(weights):
    """Without one of the tensors."""
    weights = list(weights)
    last = max(i for i, (name, _) in enumerate(weights) if "down_proj" in name)
    yield from weights[:last] + weights[last + 1:]


def process_experts_twice(method, process, layer):
    process(layer)
    for _ in range(2):
        method.moe_kernel.fused_experts.process_weights_after_loading(layer)


LOADER_FAULTS = {"broken off": broken_off, "swapped": swapped, "skipped": skipped}


def plant(llm, fault):
    """Spoils a part of the plugin's work, until repair()."""
    from lockstep_vllm import reload

    if fault in LOADER_FAULTS:
        change = LOADER_FAULTS[fault]

        def spoil(model):
            load = model.load_weights
            model.load_weights = lambda weights: load(change(weights))

        llm.apply_model(spoil)
        REPAIRS.append(lambda: llm.apply_model(lambda model: delattr(model, "load_weights")))
        return
    name, value = {"heads": ("process_heads", lambda heads: None),
                   "experts": ("experts_processed", lambda model: contextlib.nullcontext()),
                   "experts twice": ("process_experts", process_experts_twice)}[fault]
    REPAIRS.append(functools.partial(setattr, reload, name, getattr(reload, name)))
    setattr(reload, name, value)


def repair(_):
    while REPAIRS:
        REPAIRS.pop()()


COMMANDS = {"rpc": rpc, "judge": judge, "reset_prefix_cache": reset_prefix_cache,
            "num_mapped": num_mapped, "plant": plant, "repair": repair}


def pack_heads():
    from torch.nn.functional import linear
    from vllm.model_executor.layers import utils
    from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead

    dispatch = utils.dispatch_cpu_unquantized_gemm

    def packed(layer, remove_weight):
        dispatch(layer, remove_weight)
        if isinstance(layer, ParallelLMHead):
            copy = layer.weight.detach().clone()
            layer.cpu_linear = lambda x, weight, bias: linear(x, copy, bias)

    utils.dispatch_cpu_unquantized_gemm = packed


def main():
    # Whatever vLLM prints goes to the log, not between the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    from vllm import LLM

    options = json.loads(sys.argv[1])
    if options.pop("packed", False):
        pack_heads()
    llm = LLM(**options)
    for line in sys.stdin:
        command, *arguments = json.loads(line)
        try:
            answer = {"result": COMMANDS[command](llm, *arguments)}
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
