# SPDX-License-Identifier: Apache-2.0
"""Stands for wandb, swanlab, mlflow and trackio: a module of each name that writes every call into
the file FAKE_CALLS. A call whose arguments the real package would not take is refused: the
signatures are those of wandb 0.31, swanlab 0.10, mlflow 3.17 and trackio 0.43, as far as used."""
import inspect
import json
import os
import types


def wandb_init(entity=None, project=None, id=None, name=None, config=None, resume=None): ...
def wandb_define_metric(name, step_metric=None, step_sync=None): ...
def wandb_log(data, step=None, commit=None): ...
def swanlab_init(project=None, experiment_name=None, config=None, id=None, resume=None): ...
def swanlab_log(data, step=None): ...
def mlflow_set_experiment(experiment_name=None): ...
def mlflow_start_run(run_id=None, experiment_id=None, run_name=None): ...
def mlflow_log_params(params): ...
def mlflow_log_metrics(metrics, step=None): ...
def mlflow_log_table(data, artifact_file): ...
def trackio_init(project, name=None, config=None, resume="never"): ...
def trackio_log(metrics, step=None): ...
def nothing(): ...


def recorded(name, signature, result=None):
    def call(*arguments, **named):
        bound = inspect.signature(signature).bind(*arguments, **named).arguments
        failures = os.environ.get("FAKE_FAILURES", "")
        if name.endswith("log") and failures and not os.path.exists(failures):
            open(failures, "w").close()
            raise ConnectionError("nobody answers")
        with open(os.environ["FAKE_CALLS"], "a") as file:
            file.write(json.dumps([name, bound], default=str) + "\n")
        return result
    return call


def module(name):
    made = types.ModuleType(name)
    if name == "wandb":
        made.Table = lambda columns, data: {"columns": columns, "data": data}
        run = types.SimpleNamespace(
            id="run-1", define_metric=recorded("define_metric", wandb_define_metric),
            log=recorded("log", wandb_log), finish=recorded("finish", nothing),
            summary=types.SimpleNamespace(update=recorded("summary", lambda values: None)))
        made.init = recorded("init", wandb_init, run)
    if name == "swanlab":
        made.Text = str
        made.init = recorded("init", swanlab_init, types.SimpleNamespace(id="run-2"))
        made.log = recorded("log", swanlab_log)
        made.finish = recorded("finish", nothing)
    if name == "mlflow":
        made.set_experiment = recorded("set_experiment", mlflow_set_experiment)
        info = types.SimpleNamespace(info=types.SimpleNamespace(run_id="run-3"))
        made.start_run = recorded("init", mlflow_start_run, info)
        made.log_params = recorded("log_params", mlflow_log_params)
        made.log_metrics = recorded("log", mlflow_log_metrics)
        made.log_table = recorded("log_table", mlflow_log_table)
        made.end_run = recorded("finish", nothing)
    if name == "trackio":
        made.Table = lambda columns, data: {"columns": columns, "data": data}
        made.init = recorded("init", trackio_init)
        made.log = recorded("log", trackio_log)
        made.finish = recorded("finish", nothing)
    return made
