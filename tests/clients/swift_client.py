# SPDX-License-Identifier: Apache-2.0
"""ms-swift's clients against the server: that of its trainers, which posts to /infer/, and that of
its command line, which speaks OpenAI's API. A stub stands in for the vllm package, which ms-swift
imports but uses on GPUs only."""

import math

from server_under_test import TIMEOUT, options_of, run_checks, use_stubs
from taught_model import HELLO, TOOLS, WEATHER, user

use_stubs()
from swift.infer_engine import InferClient  # noqa: E402
from swift.infer_engine.protocol import (InferRequest, RequestConfig,  # noqa: E402
                                         RolloutInferRequest)
from swift.rlhf_trainers.vllm_client import VLLMClient, VLLMInferClient  # noqa: E402


def knows_the_engine(client, options):
    told = client.get_engine_type()
    assert isinstance(told["engine_type"], str) and told["engine_type"], told
    assert not client.enable_multi_turn and not client.use_gym_env and not client.enable_lora, told
    assert client.sessions[0].get(options.url + "/get_world_size/").json() == {"world_size": 1}
    assert client.sessions[0].get(options.url + "/health/").status_code == 200
    for path in ("/get_world_size", "/health"):
        assert client.sessions[0].get(options.url + path).status_code == 200


def responses(answers):
    """An answer of a trainer's server holds the response; that of another is one."""
    return [getattr(answer, "response", answer) for answer in answers]


def samples_for_a_trainer(client, options):
    requests = [RolloutInferRequest(messages=[user(HELLO[0])], uuid="a"),
                RolloutInferRequest(messages=[user(WEATHER[0])], uuid="b", tools=TOOLS)]
    config = RequestConfig(max_tokens=60, temperature=0, logprobs=True, return_details=True)
    first, second = responses(client.infer(requests, config))
    [choice] = first.choices
    assert choice.message.content == HELLO[1], choice
    assert choice.finish_reason == "stop"
    assert len(choice.token_ids) == len(choice.logprobs["content"]) > 3, choice
    assert all(entry["logprob"] <= 0 for entry in choice.logprobs["content"])
    assert first.prompt_token_ids, first
    assert first.usage.completion_tokens == len(choice.token_ids)
    assert WEATHER[1]["city"] in str(second.choices[0].message), second


def samples_many(client, options):
    requests = [RolloutInferRequest(messages=[user(f"Question {i}")]) for i in range(8)]
    config = RequestConfig(max_tokens=8, temperature=1.0, top_k=50, top_p=0.9, seed=3,
                           repetition_penalty=1.05, logprobs=True, return_details=True)
    found = responses(client.infer(requests, config))
    assert [1 <= len(r.choices[0].token_ids) <= 8 for r in found] == [True] * 8
    again = responses(client.infer(requests, config))
    assert [r.choices[0].token_ids for r in again] == [r.choices[0].token_ids for r in found]
    assert all(math.isfinite(entry["logprob"]) for r in found
               for entry in r.choices[0].logprobs["content"])


def forgets_caches(client, options):
    client.reset_prefix_cache()
    client.reset_mm_cache()
    client.reset_encoder_cache()


def spreads_over_servers(client, options):
    """Two addresses, of one server here: rows come back in their order."""
    pair = VLLMInferClient(base_urls=[options.url, options.url], connection_timeout=TIMEOUT)
    requests = [RolloutInferRequest(messages=[user(text)])
                for text in (HELLO[0], "Something else", HELLO[0])]
    found = responses(pair.infer(requests, RequestConfig(max_tokens=20, temperature=0)))
    texts = [response.choices[0].message.content for response in found]
    assert texts[0] == texts[2] == HELLO[1], texts


def speaks_openai(client, options):
    other = InferClient(base_url=options.url + "/v1", timeout=TIMEOUT)
    [model] = other.models
    config = RequestConfig(max_tokens=20, temperature=0, logprobs=True, top_logprobs=2)
    [answer] = other.infer([InferRequest(messages=[user(HELLO[0])])], config, use_tqdm=False)
    assert answer.choices[0].message.content == HELLO[1] and answer.model == model, answer
    config.stream = True
    [chunks] = other.infer([InferRequest(messages=[user(HELLO[0])])], config, use_tqdm=False)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == HELLO[1], text


def main():
    options = options_of(__doc__.split("\n")[0])
    checks = [knows_the_engine, samples_for_a_trainer, samples_many, spreads_over_servers,
              forgets_caches, speaks_openai]
    if options.is_vllm:  # it has no /infer/
        checks = [speaks_openai]
    client = VLLMClient(base_urls=[options.url], connection_timeout=TIMEOUT)
    run_checks(checks, client, options)


if __name__ == "__main__":
    main()
