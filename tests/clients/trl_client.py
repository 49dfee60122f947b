# SPDX-License-Identifier: Apache-2.0
"""TRL's VLLMClient against the server: every call of it that needs no GPU. A stub stands in for the
vllm package, which the client imports but speaks to over HTTP only."""

import math

from server_under_test import TIMEOUT, options_of, post, run_checks, use_stubs
from taught_model import HELLO, TOOLS, WEATHER, user

use_stubs()
from trl.generation.vllm_client import VLLMClient  # noqa: E402


def tells_about_itself(client, options):
    assert client.get_world_size() == 1
    info = client.get_server_info()
    assert "weight_transfer_config" in info, info.keys()
    client.check_server()


def one_shape(answer, prompts, n, width):
    assert len(answer["prompt_ids"]) == prompts
    assert len(answer["completion_ids"]) == prompts * n
    for ids, logprobs, alternatives in zip(answer["completion_ids"], answer["logprobs"],
                                           answer["logprob_token_ids"], strict=True):
        assert len(ids) == len(logprobs) == len(alternatives) > 0
        for token, values, names in zip(ids, logprobs, alternatives, strict=True):
            assert len(values) == len(names) and width <= len(values) <= width + 1
            assert values == sorted(values, reverse=True)
            assert token in names


def generates(client, options):
    prompts = ["Hello there", "Two and two"]
    answer = client.generate(prompts, n=2, max_tokens=8, generation_kwargs={"seed": 5})
    one_shape(answer, 2, 2, 1)
    again = client.generate(answer["prompt_ids"], n=2, max_tokens=8, generation_kwargs={"seed": 5})
    assert again == answer, "text and ids of one prompt, one seed"
    wide = client.generate(prompts, max_tokens=4, logprobs=3, temperature=0.7, top_k=40, top_p=0.9,
                           min_p=0.01, repetition_penalty=1.1)
    one_shape(wide, 2, 1, 3)
    none = client.generate(prompts, max_tokens=4, logprobs=None)
    assert none["logprobs"] is None


def chats(client, options):
    answer = client.chat([[user(HELLO[0])], [user(WEATHER[0])]], n=1, max_tokens=60, temperature=0,
                         logprobs=2, tools=TOOLS)
    one_shape(answer, 2, 1, 2)
    plain = client.chat([[user(HELLO[0])]], max_tokens=60, temperature=0)
    text = post(options.url, "/detokenize", {"model": client.model,
                                             "tokens": plain["completion_ids"][0]}).json()
    assert HELLO[1] in text["prompt"], text
    thoughtful = client.chat([[user(HELLO[0])]], max_tokens=4,
                             chat_template_kwargs={"enable_thinking": False})
    assert len(thoughtful["prompt_ids"][0]) > len(plain["prompt_ids"][0])


def scores(client, options):
    """What was sampled under the same weights scores as it was sampled."""
    answer = client.generate(["Hello there", "Two and two"], max_tokens=12, temperature=1.0,
                             generation_kwargs={"seed": 9})
    sequences = [p + c for p, c in zip(answer["prompt_ids"], answer["completion_ids"])]
    lengths = [len(p) for p in answer["prompt_ids"]]
    for chunk in (0, 1):
        told = client.get_sequence_logprobs(sequences, lengths, top_logprobs=5, chunk_size=chunk)
        for ids, sampled, actual, ranked in zip(
                answer["completion_ids"], answer["logprobs"], told["actual_logprobs"],
                told["logprobs"], strict=True):
            assert len(ids) == len(actual) == len(ranked)
            for (a, *_), (b,), top in zip(sampled, actual, ranked):
                # Outside of the five likeliest it is still told, as the token of the prompt.
                assert math.isclose(a, b, rel_tol=0, abs_tol=1e-4), (a, b)
                assert len(top) == 5 and top == sorted(top, reverse=True)


def forgets_the_cache(client, options):
    client.reset_prefix_cache()


def opens_and_closes_an_update(client, options):
    """The transfer itself is between GPUs; the calls around it are not."""
    if client.get_server_info()["weight_transfer_config"] is None:
        return
    try:
        with client.weight_update():
            pass
    except Exception as error:  # the client has no other class
        assert not options.is_vllm and "nothing-staged" in str(error), error
    else:
        assert options.is_vllm, "an update without weights was taken"
    generates(client, options)
    client.close_communicator()


def main():
    options = options_of(__doc__.split("\n")[0])
    client = VLLMClient(base_url=options.url, connection_timeout=TIMEOUT)
    run_checks([tells_about_itself, generates, chats, scores, forgets_the_cache,
                opens_and_closes_an_update], client, options)


if __name__ == "__main__":
    main()
