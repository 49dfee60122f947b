# SPDX-License-Identifier: Apache-2.0
"""vLLM's own server, from .deps/vllm (tools/vllm.sh), for comparisons with the real program."""

import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import time

import requests

ROOT = pathlib.Path(__file__).resolve().parents[2]
PYTHON = ROOT / ".deps" / "vllm" / "bin" / "python"
MAX_RANK = 16
START_SECONDS, ANSWER_SECONDS = 600, 300
# A line that ends a traceback, behind the name of the process and the time.
RAISED = re.compile(r"^(\([^)]*\) )?(ERROR [^\]]*\] )?\w*(Error|Exception): ")


class VllmError(Exception):
    pass


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def environment(plugins=None):
    """What a process of vLLM is given; `plugins` is a folder with packages that it loads."""
    mine = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1",
            "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True"}
    if plugins:
        others = os.environ.get("PYTHONPATH")
        mine["PYTHONPATH"] = os.pathsep.join([str(plugins), *([others] if others else [])])
    return os.environ | mine


class VllmServer:
    """A server of one model for the time of a `with`.

    adapters: {name: folder}, or a dict of what vLLM's `--lora-modules` has in place of a folder.
    plugins: folder of packages that vLLM loads. The model's own sampling defaults do not count.
    variables: of its environment, besides.
    """

    def __init__(self, model, log, dtype="auto", adapters=None, extra=(), plugins=None,
                 variables=None):
        self.port, self.log = free_port(), pathlib.Path(log)
        self.words = [
            PYTHON, "-m", "vllm.entrypoints.openai.api_server", "--model", model,
            "--served-model-name", "base", "--host", "127.0.0.1", "--port", self.port,
            "--dtype", dtype, "--enforce-eager", "--max-model-len", 512, "--max-num-seqs", 8,
            "--generation-config", "vllm", *extra]
        if adapters:
            modules = [value if isinstance(value, dict) else {"path": str(value)}
                       for value in adapters.values()]
            self.words += ["--enable-lora", "--max-lora-rank", MAX_RANK,
                           "--max-loras", len(adapters), "--lora-modules",
                           *(json.dumps({"name": name} | module)
                             for name, module in zip(adapters, modules))]
        self.plugins, self.process = plugins, None
        self.variables = variables or {}

    def __enter__(self):
        with self.log.open("w") as log:
            # A group of its own, so that the workers end with the server.
            self.process = subprocess.Popen(
                [str(word) for word in self.words],
                env=environment(self.plugins) | self.variables, stdout=log,
                stderr=subprocess.STDOUT, start_new_session=True)
        try:
            self.wait()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_):
        self.stop()

    def wait(self):
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end:
            if self.process.poll() is not None:
                raise VllmError(f"vLLM ended with {self.process.returncode}: {self.last_error()}")
            try:
                if requests.get(self.url("/health"), timeout=5).ok:
                    return
            except requests.RequestException:
                pass
            time.sleep(0.5)
        raise VllmError(f"expected vLLM's server within {START_SECONDS} s: {self.last_error()}")

    def last_error(self):
        """The first exception that the log names: the ones behind it only pass it on."""
        lines = self.log.read_text(errors="replace").splitlines()
        errors = [line for line in lines if RAISED.match(line)]
        return (errors or lines or ["(no message)"])[0].strip()

    def stop(self):
        if self.process is None:
            return
        for sign, seconds in ((signal.SIGTERM, 30), (signal.SIGKILL, 30)):
            try:
                os.killpg(self.process.pid, sign)
            except ProcessLookupError:
                break
            try:
                self.process.wait(seconds)
            except subprocess.TimeoutExpired:
                continue
        self.process = None

    def url(self, path):
        return f"http://127.0.0.1:{self.port}{path}"

    def post(self, path, body):
        try:
            answer = requests.post(self.url(path), json=body, timeout=ANSWER_SECONDS)
        except requests.RequestException as error:
            raise VllmError(f"{path}: {error}: {self.last_error()}") from error
        if not answer.ok:
            raise VllmError(f"{path}: {answer.status_code}: {answer.text[:400]}")
        return answer

    def complete(self, name, prompt, **options):
        """One greedy completion of ids by the model, or the adapter, of that name."""
        body = {"model": name, "prompt": prompt, "temperature": 0, "ignore_eos": True,
                "return_token_ids": True} | options
        return self.post("/v1/completions", body).json()["choices"][0]

    def greedy(self, name, prompts, max_tokens):
        """For each prompt the tokens and their log-probabilities."""
        choices = [self.complete(name, prompt, max_tokens=max_tokens, logprobs=0)
                   for prompt in prompts]
        return [(c["token_ids"], c["logprobs"]["token_logprobs"]) for c in choices]

    def judge(self, name, prompt, tokens):
        """For each token behind the prompt its log-probability, and that of the likeliest one."""
        choice = self.complete(name, prompt + tokens, max_tokens=1, prompt_logprobs=1)
        places = choice["prompt_logprobs"][len(prompt):]
        return [(place[str(token)]["logprob"], max(one["logprob"] for one in place.values()))
                for token, place in zip(tokens, places)]
