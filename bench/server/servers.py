# SPDX-License-Identifier: Apache-2.0
"""Servers that are measured: started on a free port, and ended."""

import ctypes
import os
import pathlib
import signal
import socket
import subprocess
import tempfile
import time

from client import call

START_SECONDS = 300
PR_SET_PDEATHSIG = 1
LIBC = ctypes.CDLL(None)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    """A server in a process of its own, as a context: `url` while it is up."""

    def __init__(self, name, words, environment):
        self.name, self.words, self.environment = name, words, environment

    def __enter__(self):
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self.log = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen(
            [str(word).replace("PORT", str(port)) for word in self.words], stdout=self.log,
            stderr=self.log, env=os.environ | self.environment, start_new_session=True,
            preexec_fn=lambda: LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM))  # ends with this one
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                if call(self.url, "GET", "/health", timeout=5)[0] == 200:
                    return self
            except OSError:
                pass
            time.sleep(0.2)
        self.__exit__()
        raise RuntimeError(f"{self.name} did not start:\n{self.end_of_log()}")

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT if self.name == "vllm" else signal.SIGTERM)
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()

    def end_of_log(self):
        self.log.seek(0)
        return self.log.read()[-3000:]

    def resident_mb(self):
        """Memory of the server with its workers."""
        pages = 0
        for folder in pathlib.Path("/proc").iterdir():
            if folder.name.isdigit():
                try:
                    fields = (folder / "stat").read_text().rpartition(")")[2].split()
                    if int(fields[2]) == self.process.pid:  # the process group
                        pages += int((folder / "statm").read_text().split()[1])
                except OSError:
                    pass
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def lockstep(options, model, flags=()):
    """Ours; --server_flags come last, so that they win over `flags`."""
    words = [options.program, "rollout", "--model", model, "--port", "PORT", "--torch_dtype",
             "bfloat16", "--threads", options.threads, *flags, *options.server_flags]
    return Server("lockstep", words, {"OMP_NUM_THREADS": str(options.threads)})


def vllm(options, model):
    """vLLM with its best settings on these processors: compiled, its allocator in place."""
    words = [options.vllm_python, "-m", "vllm.entrypoints.openai.api_server", "--model", model,
             "--host", "127.0.0.1", "--port", "PORT", "--dtype", "bfloat16", "--max-model-len",
             "4096", "--max-num-seqs", "64", "--generation-config", "vllm", "--logprobs-mode",
             "processed_logprobs", "--disable-uvicorn-access-log"]
    environment = {"VLLM_CPU_KVCACHE_SPACE": "2", "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1",
                   "VLLM_SERVER_DEV_MODE": "1", "OMP_NUM_THREADS": str(options.threads)}
    return Server("vllm", words + (["--enforce-eager"] if options.eager else []), environment)
