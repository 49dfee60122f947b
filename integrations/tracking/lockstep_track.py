#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Sends what a run logs to wandb, swanlab, mlflow, trackio or a CSV file, as it goes on or later.

    lockstep_track.py RUN --to wandb [--to mlflow …] [--project P] [--name N]

RUN is a run directory of lockstep or ms-swift. The program reads logging.jsonl as it grows and ends
with the run (--once: with what is there now). It needs Python 3.9 and the package of the back end
that is named, and the run knows nothing of it.

Metrics have the names that transformers' callbacks give them: eval/x for eval_x, train/x for all
else. What has been sent is kept in RUN/.lockstep_track.json, so that the program can be stopped and
started again, and a run that is resumed sends no step twice.
"""
import argparse
import csv
import hashlib
import importlib
import json
import math
import os
import pathlib
import re
import sys
import time

STATE = ".lockstep_track.json"
# Bytes before the place that has been read, by which a log that was cut back and has grown again is
# known.
TAIL = 256
SECRET = re.compile(r"api_?key|secret|password|hub_token|auth_token", re.IGNORECASE)
FAILURES = 8


def say(text):
    print(f"lockstep_track: {text}", file=sys.stderr, flush=True)


class GrowingLog:
    """The lines of a file that grows, and that a resumed run cuts back to its checkpoint."""

    def __init__(self, path):
        self.path, self.offset, self.tail = path, 0, b""
        # Whether the last call has begun at the start.
        self.is_restarted = False

    def read(self):
        """The whole lines that have come since the last call, from the start after a cut."""
        try:
            with open(self.path, "rb") as file:
                size = os.fstat(file.fileno()).st_size
                file.seek(max(0, self.offset - len(self.tail)))
                self.is_restarted = (size < self.offset
                                     or file.read(len(self.tail)) != self.tail)
                if self.is_restarted:
                    self.offset, self.tail = 0, b""
                    file.seek(0)
                data = file.read()
        except FileNotFoundError:
            self.offset, self.tail = 0, b""
            return []
        data = data[:data.rfind(b"\n") + 1]
        self.offset += len(data)
        self.tail = (self.tail + data)[-TAIL:]
        return data.decode(errors="replace").splitlines()


def step_of(line):
    """The step of a logged line, as ms-swift or as transformers writes it; None without one."""
    text = line.get("global_step/max_steps")
    if isinstance(text, str) and re.match(r"\d+/", text):
        return int(text.split("/")[0])
    for name in ("step", "global_step"):
        if isinstance(line.get(name), int):
            return line[name]
    return None


def is_summary(line):
    return any(name in line for name in ("train_runtime", "last_model_checkpoint", "log_history"))


def metrics_of(line):
    """{tag: number} of a line. What is no finite number is left out: few back ends take it."""
    metrics = {}
    for name, value in line.items():
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if is_number and math.isfinite(value) and name not in ("step", "global_step"):
            tag = f"eval/{name[5:]}" if name.startswith("eval_") else f"train/{name}"
            metrics[tag] = value
    return metrics


def settings_of(run):
    try:
        args = json.loads((run / "args.json").read_text())
    except (OSError, ValueError):
        return {}
    return {name: value for name, value in args.items()
            if name != "notices" and not (SECRET.search(name) and value)}


class Wandb:
    """wandb.init with an id, so that the same run goes on after a restart; the step is a metric of
    its own, as in transformers' callback, since wandb drops steps that it has seen."""

    def __init__(self, options, settings, kept):
        wandb = importlib.import_module("wandb")
        self.run = wandb.init(project=options.project, name=options.name, config=settings,
                              id=kept.get("id"), resume="allow" if kept.get("id") else None)
        self.run.define_metric("*", step_metric="train/global_step", step_sync=True)
        self.table = wandb.Table
        kept["id"] = self.run.id

    def log(self, metrics, step):
        self.run.log({**metrics, "train/global_step": step})

    def completions(self, names, rows, step):
        self.run.log({"completions": self.table(columns=names, data=rows),
                      "train/global_step": step})

    def finish(self, summary):
        self.run.summary.update(summary)
        self.run.finish()


class Swanlab:
    def __init__(self, options, settings, kept):
        self.swanlab = importlib.import_module("swanlab")
        more = {"id": kept["id"], "resume": "allow"} if kept.get("id") else {}
        run = self.swanlab.init(project=options.project, experiment_name=options.name,
                                config=settings, **more)
        kept["id"] = getattr(run, "id", None)

    def log(self, metrics, step):
        self.swanlab.log(metrics, step=step)

    def completions(self, names, rows, step):
        texts = [self.swanlab.Text("\n".join(f"{name}: {value}" for name, value in zip(names, row)))
                 for row in rows]
        self.swanlab.log({"completions": texts}, step=step)

    def finish(self, summary):
        self.swanlab.finish()


class Mlflow:
    """Names of metrics lose what mlflow does not take; settings are parameters."""

    def __init__(self, options, settings, kept):
        self.mlflow = importlib.import_module("mlflow")
        self.mlflow.set_experiment(options.project)
        run = self.mlflow.start_run(run_id=kept.get("id"), run_name=options.name)
        if not kept.get("id"):
            texts = [(name, str(value)[:500]) for name, value in settings.items()]
            for begin in range(0, len(texts), 100):
                self.mlflow.log_params(dict(texts[begin:begin + 100]))
        kept["id"] = run.info.run_id

    def log(self, metrics, step):
        self.mlflow.log_metrics({self.tag(name): value for name, value in metrics.items()},
                                step=step)

    @staticmethod
    def tag(name):
        """train/entropy and train/entropy.max: on a disk one cannot be a folder of the other."""
        kind, _, rest = re.sub(r"[^\w\-. /]", "_", name).partition("/")
        return f"{kind}/{rest.replace('/', '.')}"

    def completions(self, names, rows, step):
        columns = {name: [row[i] for row in rows] for i, name in enumerate(names)}
        try:
            self.mlflow.log_table(data=columns, artifact_file=f"completions-{step}.json")
        except ModuleNotFoundError:
            # mlflow-skinny has no pandas, of which its tables are made.
            self.mlflow.log_dict(columns, f"completions-{step}.json")

    def finish(self, summary):
        self.mlflow.end_run()


class Trackio:
    def __init__(self, options, settings, kept):
        self.trackio = importlib.import_module("trackio")
        # A run of the same name is the same run.
        kept["id"] = kept.get("id") or options.name
        self.trackio.init(project=options.project, name=kept["id"], config=settings,
                          resume="allow")

    def log(self, metrics, step):
        self.trackio.log(metrics, step=step)

    def completions(self, names, rows, step):
        table = self.trackio.Table(columns=names, data=rows)
        self.trackio.log({"completions": table}, step=step)

    def finish(self, summary):
        self.trackio.finish()


class Csv:
    """RUN/metrics.csv: step, metric, value; for programs that read tables."""

    def __init__(self, options, settings, kept):
        path = options.run / "metrics.csv"
        is_new = not path.exists() or not kept.get("id")
        self.file = open(path, "w" if is_new else "a", newline="")
        self.rows = csv.writer(self.file)
        if is_new:
            self.rows.writerow(["step", "metric", "value"])
        kept["id"] = path.name

    def log(self, metrics, step):
        self.rows.writerows([step, name, value] for name, value in metrics.items())
        self.file.flush()

    def completions(self, names, rows, step):
        pass

    def finish(self, summary):
        self.file.close()


BACK_ENDS = {"wandb": Wandb, "swanlab": Swanlab, "mlflow": Mlflow, "trackio": Trackio, "csv": Csv}


class Sender:
    """Sends to one back end, what it has not sent yet."""

    def __init__(self, name, options, state):
        self.name = name
        # The greatest step that was sent of steps and of evaluations.
        self.kept = state.setdefault(name, {"train": -1, "eval": -1, "completions": -1})
        try:
            self.back_end = BACK_ENDS[name](options, settings_of(options.run), self.kept)
        except ModuleNotFoundError as error:
            sys.exit(f"lockstep_track: expected the package {error.name} for --to {name}, got none "
                     f"(hint: pip install {error.name})")

    def attempt(self, what, *arguments):
        """A service that does not answer is asked again; the log waits for it."""
        for failure in range(1, FAILURES + 1):
            try:
                return getattr(self.back_end, what)(*arguments)
            except (OSError, RuntimeError, ConnectionError) as error:
                if failure == FAILURES:
                    raise
                say(f"{self.name}: {error}; trying again")
                time.sleep(min(60, 0.5 * 2 ** failure))

    def send(self, kind, step, metrics):
        if step > self.kept[kind] and metrics:
            self.attempt("log", metrics, step)
            self.kept[kind] = step

    def send_completions(self, step, columns):
        names = [name for name in columns if name != "token_ids"]
        if step > self.kept["completions"]:
            rows = [list(row) for row in zip(*(columns[name] for name in names))]
            self.attempt("completions", names, rows, step)
            self.kept["completions"] = step


class Tracker:
    def __init__(self, options):
        self.options = options
        self.state_file = options.run / STATE
        self.log = GrowingLog(options.run / "logging.jsonl")
        self.completions = GrowingLog(options.run / "completions.jsonl")
        self.summary = None
        self.state = {}
        if self.state_file.exists() and not options.anew:
            self.state = json.loads(self.state_file.read_text())
        self.senders = []

    def begin(self, first_line):
        """Opens the back ends when the log has a line, and anew where it is another run's: one that
        was put in the place of the first (--overwrite true) has another first line."""
        mark = hashlib.sha256(first_line.encode()).hexdigest()
        is_other = self.state.get("first", mark) != mark
        if self.senders and not is_other:
            return
        if is_other:
            say(f"{self.options.run} holds another run now")
            self.finish()
            self.state = {}
        self.state["first"] = mark
        self.senders = [Sender(name, self.options, self.state) for name in self.options.to]
        self.keep()

    def finish(self):
        for sender in self.senders:
            sender.attempt("finish", self.summary or {})

    def keep(self):
        """Remembers what was sent: the file appears as a whole."""
        fresh = self.state_file.with_name(STATE + ".tmp")
        fresh.write_text(json.dumps(self.state))
        fresh.replace(self.state_file)

    def take(self):
        """Sends what is new. Returns whether the run is over."""
        is_start = self.log.offset == 0
        lines = self.log.read()
        # After a cut everything is read again.
        if lines and (is_start or self.log.is_restarted):
            self.begin(lines[0])
        for text in lines:
            try:
                line = json.loads(text)
            except ValueError:
                continue
            if not isinstance(line, dict):
                continue
            if is_summary(line):
                self.summary = {name: value for name, value in line.items()
                                if isinstance(value, (int, float, str))}
                continue
            step = step_of(line)
            if step is None:
                continue
            # A run that goes on is no longer at its end.
            self.summary = None
            kind = "eval" if any(name.startswith("eval_") for name in line) else "train"
            for sender in self.senders:
                sender.send(kind, step, metrics_of(line))
        if self.options.completions:
            self.take_completions()
        if lines:
            self.keep()
        return self.summary is not None

    def take_completions(self):
        for text in self.completions.read():
            try:
                columns = json.loads(text)
                step = int(columns["step"][0])
            except (ValueError, KeyError, IndexError, TypeError):
                continue
            if step % self.options.completions == 0 or step == 1:
                for sender in self.senders:
                    sender.send_completions(step, columns)

    def follow(self):
        while not self.take() and not self.options.once:
            time.sleep(self.options.poll)
        self.finish()
        self.keep()


def options_of(arguments):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run", type=pathlib.Path, help="the run's directory")
    parser.add_argument("--to", action="append", required=True, choices=sorted(BACK_ENDS),
                        help="where to; may be given more than once")
    parser.add_argument("--project", default="lockstep", help="project or experiment there")
    parser.add_argument("--name", help="the run's name there; unset: that of its folder")
    parser.add_argument("--completions", type=int, default=0, metavar="N",
                        help="sends the completions of every N-th step as a table; 0: none")
    parser.add_argument("--once", action="store_true", help="sends what is there now and ends")
    parser.add_argument("--anew", action="store_true",
                        help="begins a new run there and sends everything again")
    parser.add_argument("--poll", type=float, default=2, help="seconds between two looks")
    options = parser.parse_args(arguments)
    if not options.run.is_dir():
        parser.error(f"expected a run directory, got {options.run}")
    options.name = options.name or options.run.resolve().name
    return options


def main(arguments=None):
    options = options_of(arguments)
    tracker = Tracker(options)
    try:
        tracker.follow()
    except KeyboardInterrupt:
        tracker.keep()
        say("stopped; started again, it goes on where it was")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
