# SPDX-License-Identifier: Apache-2.0
"""What the scripts of this folder share: each takes the address of a running server and asserts
what its client gets from it. The same scripts pass against vLLM's own server, where a difference is
named by `is_vllm`.

    CLIENT.py --url http://127.0.0.1:PORT [--model_folder DIR] [--program lockstep]

The server serves the model of taught_model.py.
"""

import argparse
import pathlib
import sys

import requests

HERE = pathlib.Path(__file__).resolve().parent
# Seconds that any one request of a test may take, on a machine that is busy with other tests.
TIMEOUT = 120


def use_stubs():
    """Puts the stub packages before installed ones; to be called before a client is imported."""
    sys.path.insert(0, str(HERE / "stubs"))


def options_of(description):
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--url", required=True, help="address of the server, without /v1")
    parser.add_argument("--model_folder", type=pathlib.Path, help="the checkpoint that it serves")
    parser.add_argument("--program", type=pathlib.Path, help="the built program")
    options = parser.parse_args()
    options.is_vllm = "vllm" in [model["owned_by"] for model in models(options.url)]
    return options


def models(url):
    answer = requests.get(url + "/v1/models", timeout=TIMEOUT)
    answer.raise_for_status()
    return answer.json()["data"]


def post(url, path, body=None, **others):
    return requests.post(url + path, json=body, timeout=TIMEOUT, **others)


def run_checks(checks, *arguments):
    """Runs the functions in turn and says how many there were; the first that fails ends it."""
    for check in checks:
        try:
            check(*arguments)
        except BaseException:
            print(f"failed: {check.__name__}", file=sys.stderr)
            raise
    print(f"{len(checks)} passed")
