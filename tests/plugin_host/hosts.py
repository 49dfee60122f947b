# SPDX-License-Identifier: Apache-2.0
"""Hosts of plugins for tests, asked as lockstep asks them."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import unittest

HERE = pathlib.Path(__file__).resolve().parent
PLUGINS = HERE / "plugins"
HOST = HERE.parents[1] / "integrations" / "plugin_host" / "host.py"
ARGS = dict(max_completion_length=64, soft_max_length=None, soft_cache_length=8)


class Host:
    """A running host."""

    def __init__(self, swift="stub", **keywords):
        command = [sys.executable, "-u", str(HOST), "--swift", swift]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=subprocess.PIPE, text=True, cwd=PLUGINS,
                                        start_new_session=True, **keywords)

    def ask(self, **request):
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        return json.loads(line) if line else None

    def load(self, rewards, plugins=(), builtin=("accuracy", "format")):
        return self.ask(op="load", plugins=[str(PLUGINS / name) for name in plugins],
                        rewards=list(rewards), builtin=list(builtin), args=ARGS)

    def score(self, *groups, reward=0, step=2):
        state = dict(global_step=step, max_steps=4, epoch=0.5, num_train_epochs=1)
        return self.ask(op="score", reward=reward, groups=list(groups), state=state)

    def end(self):
        """Its exit status and what it wrote to stderr."""
        self.process.stdin.close()
        words = self.process.stderr.read()
        self.process.stdout.close()
        self.process.stderr.close()
        return self.process.wait(timeout=20), words


class HostCase(unittest.TestCase):
    longMessage = True

    def setUp(self):
        self.hosts = []

    def tearDown(self):
        for host in self.hosts:
            if host.process.poll() is None:
                os.killpg(host.process.pid, signal.SIGKILL)
            host.process.wait()
            for stream in (host.process.stdin, host.process.stdout, host.process.stderr):
                stream.close()
