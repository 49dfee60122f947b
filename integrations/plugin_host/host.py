# SPDX-License-Identifier: Apache-2.0
"""Runs plugins of ms-swift (rewards, schedulers, environments) and functions of TRL (rewards,
tools) for lockstep.

It reads one JSON object a line from stdin and answers each with one line on stdout:

    {"op": "load", "plugins": [FILE], "rewards": [NAME], "builtin": [NAME], "args": {...}}
      -> {"rewards": [null or {"name", "class_name", "is_async", "file"}], "known": [NAME],
          "python", "swift", "problem"}
    {"op": "score", "reward": INDEX, "groups": [[COMPLETION, ...], ...], "state": {...}}
      -> {"groups": [{"values": [number or null], "extra": {...}, "metrics": {...}} or {"error"}]}

    {"op": "load", …, "turns": {"scheduler": NAME, "gym_env": NAME, "max_turns", "model": FOLDER,
     "tools": [NAME]}}
      -> as above, with "turns": {"scheduler": CLASS, "tools": [{"name", "schema", "is_async"}]}
    {"op": "begin", "trajectories": [{"id", "messages", "tools", "columns",
     "chat_template_kwargs"}]}
      -> {"trajectories": [{"messages", "tools"} or {"error"}]}
    {"op": "follow", "trajectories": [{"id", "turn", "messages", "completion", "token_ids",
     "finish_reason", "calls": [{"name", "arguments"}], "is_last"}]}
      -> {"trajectories": [{"infos", and where it goes on "messages": […] or
          "continuation": {"text", "kept", "ids"}, "turn": MESSAGE where it changes} or {"error"}]}
    {"op": "end", "trajectories": [ID]} -> {"trajectories": [{} or {"error"}]}
    {"op": "call", "calls": [{"tool": INDEX, "arguments": {…}}]}
      -> {"answers": [{"content": TEXT} or {"error": TEXT}]}

or {"error": TEXT}. While it works on trajectories it may write {"progress": N} each second; an
empty line is no request, so that one can wait for the next line with it. What plugins print goes to
stderr. Only Python's standard library is needed; the interpreter is the user's, with what the
plugins import.
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
        self.turns = None

    def load(self, request):
        loaded = plugin_loader.load(request, self.swift)
        self.rewards = loaded.rewards
        answer = dict(python=platform.python_version(), swift=loaded.swift, known=loaded.known,
                      problem=loaded.problem)
        answer["rewards"] = [reward and reward.description() for reward in loaded.rewards]
        self.turns = loaded.turns
        if self.turns:
            answer["turns"] = self.turns.description()
        return answer

    def score(self, request):
        reward = self.rewards[request["reward"]]
        return {"groups": plugin_calls.score(reward, request["groups"], request["state"])}

    def answer(self, line, progress):
        try:
            request = json.loads(line)
            operation = request["op"]
            if operation in ("begin", "follow", "end", "call"):
                return getattr(self.turns, operation)(request, progress)
            return {"load": self.load, "score": self.score}[operation](request)
        except plugin_errors.PluginError as error:
            return {"error": str(error)}
        except (Exception, SystemExit) as error:
            return {"error": plugin_errors.one_line(error)}


def plain(value):
    """A value that JSON does not have: numbers of numpy and tensors as numbers, else its text."""
    for convert in ("item", "tolist"):
        if hasattr(value, convert):
            try:
                return getattr(value, convert)()
            except (Exception, SystemExit):
                continue
    return str(value)


def as_json(answer):
    """The answer's line. JSON has no NaN: what plugins tell besides their values has null there."""
    try:
        return json.dumps(answer, allow_nan=False, default=plain)
    except ValueError:
        line = json.dumps(answer, default=plain)
        return json.dumps(json.loads(line, parse_constant=lambda name: None))


class Progress:
    """Says that there is progress, once a second at most."""

    def __init__(self, sink):
        self.sink = sink
        self.count = 0
        self.last = time.monotonic()

    def __call__(self):
        self.count += 1
        if time.monotonic() - self.last >= 1:
            self.sink.write(json.dumps(dict(progress=self.count)) + "\n")
            self.sink.flush()
            self.last = time.monotonic()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--swift", choices=["auto", "stub"], default="auto",
                        help="stub: the stand-ins even where ms-swift is installed")
    host = Host(parser.parse_args().swift)
    source, sink = take_over_pipes()
    threading.Thread(target=end_with, args=(os.getppid(),), daemon=True).start()
    for line in source:
        if not line.strip():
            continue
        sink.write(as_json(host.answer(line, Progress(sink))) + "\n")
        sink.flush()
        sys.stdout.flush()
    # Threads that a plugin has started do not hold the end up.
    os._exit(0)


if __name__ == "__main__":
    main()
