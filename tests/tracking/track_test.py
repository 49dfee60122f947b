#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""integrations/tracking/lockstep_track.py as a process, with back ends that write down their calls.

    track_test.py              the tests
    track_test.py --real       whether the installed packages take the calls of the fakes
"""
import csv
import importlib
import inspect
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
import unittest

HERE = pathlib.Path(__file__).resolve().parent
PROGRAM = HERE.parent.parent / "integrations/tracking/lockstep_track.py"
SERVICES = ("wandb", "swanlab", "mlflow", "trackio")


def line(step, steps=10, **more):
    return {"reward": step / 10, "kl": "nan", "memory(GiB)": 1.5, "epoch": 0.5,
            "elapsed_time": f"{step}s", "global_step/max_steps": f"{step}/{steps}", **more}


SUMMARY = {"last_model_checkpoint": "c", "global_step": 10, "train_runtime": 5.0}


class TrackTest(unittest.TestCase):
    def setUp(self):
        self.context = tempfile.TemporaryDirectory()
        self.folder = pathlib.Path(self.context.name)
        self.run_folder = self.folder / "my-run"
        self.run_folder.mkdir()
        self.calls_file = self.folder / "calls"
        self.calls_file.touch()
        self.started = []
        for name in SERVICES:
            (self.folder / f"{name}.py").write_text(
                f"import fake_back_end\nglobals().update(vars(fake_back_end.module('{name}')))\n")

    def tearDown(self):
        for process in self.started:
            process.kill()
            process.wait()
            process.stderr.close()
        self.context.cleanup()

    def log(self, *lines):
        with open(self.run_folder / "logging.jsonl", "a") as file:
            file.writelines(json.dumps(one) + "\n" for one in lines)

    def start(self, *arguments, **environment):
        path = os.pathsep.join((str(self.folder), str(HERE)))
        process = subprocess.Popen(
            [sys.executable, str(PROGRAM), str(self.run_folder), "--poll", "0.05", *arguments],
            env={**os.environ, "PYTHONPATH": path, "FAKE_CALLS": str(self.calls_file),
                 **environment}, stderr=subprocess.PIPE, text=True)
        self.started.append(process)
        return process

    def track(self, *arguments, **environment):
        process = self.start(*arguments, **environment)
        _, err = process.communicate(timeout=60)
        self.assertEqual(process.returncode, 0, err)
        return err

    def calls(self, name=None):
        calls = [json.loads(text) for text in self.calls_file.read_text().splitlines()]
        return [bound for called, bound in calls if called == name] if name else calls

    def logged(self):
        """[(step, {tag: value}) …] of what has come to a back end."""
        found = []
        for bound in self.calls("log"):
            values = dict(bound.get("data") or bound.get("metrics"))
            found.append((values.pop("train/global_step", bound.get("step")), values))
        return found

    def wait_for(self, count):
        for _ in range(200):
            if len(self.calls("log")) >= count:
                return
            time.sleep(0.05)
        self.fail(f"expected {count} calls, got {self.calls()}")

    def test_every_back_end_gets_every_number(self):
        for name in SERVICES:
            with self.subTest(name):
                self.calls_file.write_text("")
                (self.run_folder / "logging.jsonl").write_text("")
                (self.run_folder / ".lockstep_track.json").unlink(missing_ok=True)
                (self.run_folder / "args.json").write_text(json.dumps(
                    {"beta": 0.04, "notices": ["n"], "wandb_api_key": "k"}))
                self.log(line(1), {"eval_reward": 0.5, "global_step/max_steps": "1/10"}, line(2),
                         SUMMARY)
                self.track("--to", name, "--project", "p")
                memory = "memory_GiB_" if name == "mlflow" else "memory(GiB)"
                train = {f"train/{memory}": 1.5, "train/epoch": 0.5}
                self.assertEqual(self.logged(), [(1, {"train/reward": 0.1, **train}),
                                                 (1, {"eval/reward": 0.5}),
                                                 (2, {"train/reward": 0.2, **train})])
                settings = (self.calls("log_params")[0]["params"] if name == "mlflow"
                            else self.calls("init")[0]["config"])
                self.assertEqual({key: float(value) for key, value in settings.items()},
                                 {"beta": 0.04})
                self.assertIn("my-run", json.dumps(self.calls("init")[0]))
                self.assertEqual(self.calls()[-1][0], "finish")

    def test_a_run_is_followed_to_its_end(self):
        process = self.start("--to", "wandb")
        self.log(line(1))
        self.wait_for(1)
        with open(self.run_folder / "logging.jsonl", "a") as file:
            file.write(json.dumps(line(2))[:20])
            file.flush()
            time.sleep(0.3)
            self.assertEqual(len(self.logged()), 1)
            file.write(json.dumps(line(2))[20:] + "\n")
        self.wait_for(2)
        self.log(SUMMARY)
        self.assertEqual(process.wait(30), 0)
        self.assertEqual([step for step, _ in self.logged()], [1, 2])
        self.assertEqual(self.calls("summary")[0]["values"]["train_runtime"], 5.0)

    def test_a_resumed_run_sends_no_step_twice(self):
        process = self.start("--to", "wandb")
        long_lines = [line(step, note="x" * 60) for step in range(1, 6)]
        self.log(*long_lines)
        self.wait_for(5)
        # Cut back to step 1; nobody looks before it has grown beyond where it was.
        with open(self.run_folder / "logging.jsonl", "w") as file:
            for one in [long_lines[0], *(line(step) for step in range(2, 10))]:
                file.write(json.dumps(one) + "\n")
        self.wait_for(9)
        self.log(SUMMARY)
        self.assertEqual(process.wait(30), 0)
        self.assertEqual([step for step, _ in self.logged()], list(range(1, 10)))
        self.assertEqual(len(self.calls("init")), 1)

    def test_started_again_it_goes_on_in_the_same_run(self):
        for name, mark in (("wandb", "run-1"), ("swanlab", "run-2"), ("mlflow", "run-3"),
                           ("trackio", "my-run")):
            with self.subTest(name):
                self.calls_file.write_text("")
                (self.run_folder / "logging.jsonl").write_text("")
                (self.run_folder / ".lockstep_track.json").unlink(missing_ok=True)
                self.log(line(1), line(2))
                self.track("--to", name, "--once")
                self.log(line(3))
                self.track("--to", name, "--once")
                self.assertEqual([step for step, _ in self.logged()], [1, 2, 3])
                self.assertIn(mark, self.calls("init")[1].values())
                self.track("--to", name, "--once", "--anew")
                self.assertEqual([step for step, _ in self.logged()], [1, 2, 3, 1, 2, 3])

    def test_another_run_in_the_same_place_is_another_run(self):
        self.log(line(1), line(2))
        self.track("--to", "wandb", "--once")
        (self.run_folder / "logging.jsonl").write_text("")
        self.log(line(1, reward=0.75), line(2))
        self.assertIn("another run", self.track("--to", "wandb", "--once"))
        self.assertEqual([step for step, _ in self.logged()], [1, 2, 1, 2])
        self.assertNotIn("id", {name: value for name, value in self.calls("init")[1].items()
                                if value})

    def test_a_service_that_fails_is_asked_again(self):
        self.log(line(1), line(2), SUMMARY)
        err = self.track("--to", "wandb", FAKE_FAILURES=str(self.folder / "failed"))
        self.assertIn("nobody answers; trying again", err)
        self.assertEqual([step for step, _ in self.logged()], [1, 2])

    def test_several_back_ends_and_a_table(self):
        self.log(line(1), line(2), SUMMARY)
        self.track("--to", "csv", "--to", "swanlab")
        with open(self.run_folder / "metrics.csv", newline="") as file:
            rows = list(csv.reader(file))
        self.assertEqual(rows[:2], [["step", "metric", "value"], ["1", "train/reward", "0.1"]])
        self.assertEqual(len(rows), 7)
        self.assertEqual(len(self.logged()), 2)

    def test_completions_become_tables(self):
        columns = {"step": ["2", "2"], "prompt": ["p", "p"], "completion": ["a", "b"],
                   "Accuracy": [1, None], "token_ids": [[1], [2]]}
        (self.run_folder / "completions.jsonl").write_text(json.dumps(columns) + "\n")
        self.log(line(2), SUMMARY)
        self.track("--to", "wandb", "--to", "trackio", "--to", "mlflow", "--completions", "2")
        for name in ("data", "metrics"):
            table = next(bound[name]["completions"] for bound in self.calls("log")
                         if "completions" in bound.get(name, {}))
            self.assertEqual(table, {"columns": ["step", "prompt", "completion", "Accuracy"],
                                     "data": [["2", "p", "a", 1], ["2", "p", "b", None]]})
        self.assertEqual(self.calls("log_table")[0]["data"]["completion"], ["a", "b"])

    def test_lines_that_say_nothing_are_passed_over(self):
        with open(self.run_folder / "logging.jsonl", "w") as file:
            file.write("no JSON\n[1]\n{\"loss\": 1}\n")
        self.log({"loss": 0.5, "step": 7}, SUMMARY)
        self.track("--to", "wandb")
        self.assertEqual(self.logged(), [(7, {"train/loss": 0.5})])

    def test_a_package_that_is_missing_is_named(self):
        (self.folder / "wandb.py").write_text("raise ModuleNotFoundError(name='wandb')\n")
        self.log(line(1))
        process = self.start("--to", "wandb")
        _, err = process.communicate(timeout=30)
        self.assertEqual(process.returncode, 1)
        self.assertIn("pip install wandb", err)


def check_real():
    """Binds the parameters of the fakes to the signatures of the installed packages."""
    import fake_back_end as fake
    wrong = 0
    for name in SERVICES:
        try:
            real = importlib.import_module(name)
        except ModuleNotFoundError:
            print(f"{name}: not installed")
            continue
        run = getattr(real, "Run", real)
        for function, signature in vars(fake).items():
            if not function.startswith(name + "_"):
                continue
            method = function[len(name) + 1:]
            is_of_run = name == "wandb" and method in ("define_metric", "log")
            target = inspect.signature(getattr(run if is_of_run else real, method))
            named = dict.fromkeys(inspect.signature(signature).parameters)
            try:
                target.bind(*([None] if "self" in target.parameters else []), **named)
                print(f"{name} {real.__version__}: {method}({', '.join(named)})")
            except TypeError as error:
                wrong += 1
                print(f"{name} {real.__version__}: {method}: {error}; it is {target}")
    return wrong


if __name__ == "__main__":
    if "--real" in sys.argv:
        sys.path.insert(0, str(HERE))
        sys.exit(check_real())
    unittest.main()
