# SPDX-License-Identifier: Apache-2.0
"""Runs reward plugins of ms-swift and reward functions of TRL for lockstep.

It reads one JSON object a line from stdin and answers each with one line on stdout:

    {"op": "load", "plugins": [FILE], "rewards": [NAME], "builtin": [NAME], "args": {...}}
      -> {"rewards": [null or {"name", "class_name", "is_async", "file"}], "known": [NAME],
          "python", "swift", "problem"}
    {"op": "score", "reward": INDEX, "groups": [[COMPLETION, ...], ...], "state": {...}}
      -> {"groups": [{"values": [number or null], "extra": {...}, "metrics": {...}} or {"error"}]}

or {"error": TEXT}. What plugins print goes to stderr. Only Python's standard library is needed; the
interpreter is the user's, with what the plugins import.
"""

import argparse
import json
import os
import platform
import signal
import sys
import threading
import time

import plugin_calls
import plugin_errors
import plugin_loader


def take_over_pipes():
    """The two ends of the protocol. Whatever else reads or prints has no part in it from now on."""
    source = os.fdopen(os.dup(0), "rb")
    sink = os.fdopen(os.dup(1), "w", encoding="utf-8")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    sys.stdout = os.fdopen(1, "w", buffering=1, encoding="utf-8", errors="replace", closefd=False)
    return source, sink


def end_with(parent):
    """Ends this process and what it has started when lockstep is gone, also in a plugin's loop."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os.killpg(os.getpgrp(), signal.SIGKILL)


class Host:
    """What has been loaded. One request at a time, on the main thread."""

    def __init__(self, swift):
        self.swift = swift
        self.rewards = []

    def load(self, request):
        loaded = plugin_loader.load(request, self.swift)
        self.rewards = loaded.rewards
        answer = dict(python=platform.python_version(), swift=loaded.swift, known=loaded.known,
                      problem=loaded.problem)
        answer["rewards"] = [reward and reward.description() for reward in loaded.rewards]
        return answer

    def score(self, request):
        reward = self.rewards[request["reward"]]
        return {"groups": plugin_calls.score(reward, request["groups"], request["state"])}

    def answer(self, line):
        try:
            request = json.loads(line)
            return {"load": self.load, "score": self.score}[request["op"]](request)
        except plugin_errors.PluginError as error:
            return {"error": str(error)}
        except (Exception, SystemExit) as error:
            return {"error": plugin_errors.one_line(error)}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--swift", choices=["auto", "stub"], default="auto",
                        help="stub: the stand-ins even where ms-swift is installed")
    host = Host(parser.parse_args().swift)
    source, sink = take_over_pipes()
    threading.Thread(target=end_with, args=(os.getppid(),), daemon=True).start()
    for line in source:
        # JSON has no NaN; values were looked at before.
        answer = json.dumps(host.answer(line), allow_nan=False, default=str)
        sink.write(answer + "\n")
        sink.flush()
        sys.stdout.flush()
    # Threads that a plugin has started do not hold the end up.
    os._exit(0)


if __name__ == "__main__":
    main()
