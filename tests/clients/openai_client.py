# SPDX-License-Identifier: Apache-2.0
"""The openai package against the server. Every answer, and every chunk of a stream, is validated
strictly against OpenAI's own types: fields that must be there, and their types."""

import json
import math

import openai
import requests
from openai.types import Completion, Model
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from pydantic import TypeAdapter

from server_under_test import TIMEOUT, options_of, run_checks
from taught_model import HELLO, SUM, TOOLS, WEATHER, user

# The parsed answers of the package itself are not validated, so the bodies are.
STRICT = {kind: TypeAdapter(kind) for kind in (Completion, ChatCompletion, ChatCompletionChunk,
                                               Model)}


def is_close(a, b):
    return math.isclose(a, b, rel_tol=0, abs_tol=2e-5)


def valid(kind, body):
    """The body, if it has the form that OpenAI's type says."""
    STRICT[kind].validate_json(json.dumps(body), strict=True)
    return body


def post(options, path, **body):
    answer = requests.post(options.url + path, json=body, timeout=TIMEOUT)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("application/json"), answer.headers
    return answer.json()


def chunks_of(options, path, **body):
    """The chunks of a stream, which must end with [DONE]."""
    answer = requests.post(options.url + path, json=body | {"stream": True}, stream=True,
                           timeout=TIMEOUT)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/event-stream"), answer.headers
    lines = [line for line in answer.iter_lines() if line and not line.startswith(b":")]
    assert all(line.startswith(b"data: ") for line in lines), lines
    assert lines[-1] == b"data: [DONE]", lines[-1]
    return [json.loads(line[6:]) for line in lines[:-1]]


def lists_models(client, options):
    [model] = client.models.list().data
    if not options.is_vllm:
        assert client.models.retrieve(model.id).id == model.id
    body = requests.get(options.url + "/v1/models", timeout=TIMEOUT).json()
    assert body["object"] == "list"
    valid(Model, body["data"][0])


def chats(client, options):
    answer = client.chat.completions.create(model=options.model, messages=[user(HELLO[0])],
                                            temperature=0)
    [choice] = answer.choices
    assert (choice.message.role, choice.message.content) == ("assistant", HELLO[1]), choice
    assert choice.finish_reason == "stop" and not choice.message.tool_calls
    usage = answer.usage
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens, usage
    body = valid(ChatCompletion, post(options, "/v1/chat/completions", messages=[user(HELLO[0])],
                                      temperature=0))
    assert body["usage"]["completion_tokens"] == usage.completion_tokens
    cut = client.chat.completions.create(model=options.model, messages=[user(HELLO[0])],
                                         temperature=0, max_completion_tokens=2)
    assert cut.choices[0].finish_reason == "length" and cut.usage.completion_tokens == 2, cut
    assert HELLO[1].startswith(cut.choices[0].message.content)


def follows_a_conversation(client, options):
    messages = [{"role": "system", "content": "Be kind."}, user(HELLO[0]),
                {"role": "assistant", "content": HELLO[1]},
                {"role": "user", "content": [{"type": "text", "text": "Once more."}]}]
    answer = client.chat.completions.create(model=options.model, messages=messages, temperature=0,
                                            max_tokens=5)
    assert answer.usage.completion_tokens <= 5


def streams_chats(client, options):
    chunks = list(client.chat.completions.create(
        model=options.model, messages=[user(HELLO[0])], temperature=0, stream=True,
        stream_options={"include_usage": True}))
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == HELLO[1], text
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
    assert chunks[0].choices[0].delta.role == "assistant"
    assert len({c.id for c in chunks}) == 1
    assert not chunks[-1].choices and chunks[-1].usage.completion_tokens > 3, chunks[-1]
    bodies = chunks_of(options, "/v1/chat/completions", messages=[user(HELLO[0])], temperature=0)
    for body in bodies:
        valid(ChatCompletionChunk, body)
    # Tokens come one by one, not all at the end.
    assert len([b for b in bodies if b["choices"][0]["delta"].get("content")]) > 3


def tells_reasoning_apart(client, options):
    if options.is_vllm:
        return  # its parser takes an answer without marks for reasoning
    answer = client.chat.completions.create(model=options.model, messages=[user(SUM[0])],
                                            temperature=0)
    message = answer.choices[0].message
    assert message.content.strip() == SUM[2], message
    thoughts = message.model_extra
    assert (thoughts.get("reasoning_content") or thoughts["reasoning"]).strip() == SUM[1], message
    told, said = "", ""
    for chunk in client.chat.completions.create(model=options.model, messages=[user(SUM[0])],
                                                temperature=0, stream=True):
        delta = chunk.choices[0].delta
        extra = delta.model_extra or {}
        told += extra.get("reasoning_content") or extra.get("reasoning") or ""
        said += delta.content or ""
    assert (told.strip(), said.strip()) == (SUM[1], SUM[2]), (told, said)


def calls_tools(client, options):
    asked = dict(model=options.model, messages=[user(WEATHER[0])], tools=TOOLS, temperature=0)
    answer = client.chat.completions.create(**asked)
    [choice] = answer.choices
    [call] = choice.message.tool_calls
    assert choice.finish_reason == "tool_calls", choice
    assert call.type == "function" and call.id, call
    assert call.function.name == "get_weather"
    assert json.loads(call.function.arguments) == WEATHER[1]
    assert not choice.message.content
    body = post(options, "/v1/chat/completions", messages=[user(WEATHER[0])], tools=TOOLS,
                temperature=0)
    valid(ChatCompletion, body)
    name, arguments, reasons = "", "", []
    for chunk in client.chat.completions.create(**asked, stream=True):
        for piece in chunk.choices[0].delta.tool_calls or []:
            assert piece.index == 0
            name += piece.function.name or ""
            arguments += piece.function.arguments or ""
        reasons.append(chunk.choices[0].finish_reason)
        assert not (chunk.choices[0].delta.content or "").strip(), chunk
    assert name == "get_weather" and json.loads(arguments) == WEATHER[1], (name, arguments)
    assert reasons[-1] == "tool_calls", reasons
    for chunk in chunks_of(options, "/v1/chat/completions", messages=[user(WEATHER[0])],
                           tools=TOOLS, temperature=0):
        valid(ChatCompletionChunk, chunk)
    # The conversation goes on with the call and its result.
    messages = [user(WEATHER[0]), choice.message.model_dump(exclude_none=True),
                {"role": "tool", "tool_call_id": call.id, "content": "Sunny."}]
    following = client.chat.completions.create(model=options.model, messages=messages, tools=TOOLS,
                                               temperature=0, max_tokens=4)
    assert following.usage.prompt_tokens > answer.usage.prompt_tokens


def leaves_tools_alone(client, options):
    answer = client.chat.completions.create(model=options.model, messages=[user(WEATHER[0])],
                                            tools=TOOLS, tool_choice="none", temperature=0,
                                            max_tokens=8)
    assert not answer.choices[0].message.tool_calls


def chooses_a_tool(client, options):
    for choice in ("required", {"type": "function", "function": {"name": "get_weather"}}):
        answer = client.chat.completions.create(
            model=options.model, messages=[user(WEATHER[0])], tools=TOOLS, tool_choice=choice,
            temperature=0, max_tokens=80)
        [call] = answer.choices[0].message.tool_calls
        assert call.function.name == "get_weather", call
        assert json.loads(call.function.arguments) == WEATHER[1], call


def chat_logprobs(client, options):
    answer = client.chat.completions.create(model=options.model, messages=[user(HELLO[0])],
                                            temperature=0, logprobs=True, top_logprobs=3)
    told = answer.choices[0].logprobs.content
    assert len(told) == answer.usage.completion_tokens
    for token in told:
        assert len(token.top_logprobs) == 3
        values = [top.logprob for top in token.top_logprobs]
        assert values == sorted(values, reverse=True) and values[0] <= 0
        # Greedy: the token is the likeliest.
        assert token.token == token.top_logprobs[0].token
        assert is_close(token.logprob, values[0])
    assert b"".join(bytes(token.bytes) for token in told).startswith(HELLO[1].encode())
    valid(ChatCompletion, post(options, "/v1/chat/completions", messages=[user(HELLO[0])],
                               temperature=0, logprobs=True, top_logprobs=3))
    streamed = []
    for chunk in chunks_of(options, "/v1/chat/completions", messages=[user(HELLO[0])],
                           temperature=0, logprobs=True, top_logprobs=3):
        valid(ChatCompletionChunk, chunk)
        streamed += (chunk["choices"][0].get("logprobs") or {}).get("content") or []
    assert len(streamed) == len(told)
    assert all(is_close(a["logprob"], b.logprob) for a, b in zip(streamed, told))


def completes(client, options):
    answer = client.completions.create(model=options.model, prompt="Hello there", temperature=0,
                                       max_tokens=6, logprobs=2)
    [choice] = answer.choices
    logprobs = choice.logprobs
    count = answer.usage.completion_tokens
    assert len(logprobs.tokens) == len(logprobs.token_logprobs) == len(logprobs.top_logprobs)
    assert len(logprobs.tokens) == count
    assert all(2 <= len(top) <= 3 for top in logprobs.top_logprobs), logprobs.top_logprobs
    body = valid(Completion, post(options, "/v1/completions", prompt="Hello there", temperature=0,
                                  max_tokens=6, logprobs=2))
    assert body["choices"][0]["text"] == choice.text
    # The default of the API.
    assert client.completions.create(
        model=options.model, prompt="x", extra_body={"ignore_eos": True}
    ).usage.completion_tokens == 16


def completes_several(client, options):
    prompts = ["One", "Two and two"]
    answer = client.completions.create(model=options.model, prompt=prompts, n=2, seed=7,
                                       max_tokens=8, extra_body={"return_token_ids": True})
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    ids = [choice.model_extra["token_ids"] for choice in answer.choices]
    asked = [choice.model_extra["prompt_token_ids"] for choice in answer.choices]
    assert asked[0] == asked[1] != asked[2] == asked[3]
    # Prompts as ids are the same prompts, and a seed gives the same answer again.
    again = client.completions.create(model=options.model, prompt=[asked[0], asked[2]], n=2, seed=7,
                                      max_tokens=8, extra_body={"return_token_ids": True})
    assert [choice.model_extra["token_ids"] for choice in again.choices] == ids
    alone = client.completions.create(model=options.model, prompt=asked[2], n=2, seed=7,
                                      max_tokens=8, extra_body={"return_token_ids": True})
    assert [choice.model_extra["token_ids"] for choice in alone.choices] == ids[2:]
    # Samples of one prompt differ, and so do requests without a seed.
    wide = client.completions.create(model=options.model, prompt="One", n=4, max_tokens=16,
                                     temperature=1.5)
    assert len({choice.text for choice in wide.choices}) > 1


def streams_completions(client, options):
    asked = dict(model=options.model, prompt=["One", "Two"], n=2, seed=3, max_tokens=8)
    whole = client.completions.create(**asked)
    texts, reasons = [""] * 4, [None] * 4
    for chunk in client.completions.create(**asked, stream=True):
        for choice in chunk.choices:
            texts[choice.index] += choice.text
            reasons[choice.index] = choice.finish_reason
    assert texts == [choice.text for choice in whole.choices]
    assert reasons == [choice.finish_reason for choice in whole.choices]
    for body in chunks_of(options, "/v1/completions", prompt="One", seed=3, max_tokens=8,
                          logprobs=1):
        # A chunk's finish_reason is null until the last; OpenAI's type has no null there.
        for choice in body["choices"]:
            choice["finish_reason"] = choice["finish_reason"] or "stop"
        valid(Completion, body)


def stops(client, options):
    asked = dict(model=options.model, messages=[user(HELLO[0])], temperature=0)
    answer = client.chat.completions.create(**asked, stop=["friend"])
    assert answer.choices[0].message.content == HELLO[1].split("friend")[0], answer
    assert answer.choices[0].finish_reason == "stop"
    text = "".join(chunk.choices[0].delta.content or ""
                   for chunk in client.chat.completions.create(**asked, stop="friend", stream=True))
    assert text == HELLO[1].split("friend")[0], text


def scores_a_prompt(client, options):
    answer = client.completions.create(model=options.model, prompt="Hello there, friend", echo=True,
                                       max_tokens=0, logprobs=1)
    logprobs = answer.choices[0].logprobs
    assert answer.choices[0].text == "Hello there, friend"
    assert logprobs.token_logprobs[0] is None
    assert all(value <= 0 for value in logprobs.token_logprobs[1:])
    body = post(options, "/v1/completions", prompt="Hello there, friend", max_tokens=1,
                prompt_logprobs=0)
    entries = body["choices"][0]["prompt_logprobs"]
    assert entries[0] is None
    told = [list(entry.values())[0]["logprob"] for entry in entries[1:]]
    assert len(told) == len(logprobs.tokens) - 1
    assert all(is_close(a, b) for a, b in zip(told, logprobs.token_logprobs[1:]))


def penalties_change_what_comes(client, options):
    asked = dict(model=options.model, prompt="a a a a", temperature=0, max_tokens=24,
                 extra_body={"ignore_eos": True, "return_token_ids": True})
    plain = client.completions.create(**asked).choices[0].model_extra["token_ids"]
    for name, value in (("frequency_penalty", 2.0), ("presence_penalty", 2.0)):
        other = client.completions.create(**asked, **{name: value})
        ids = other.choices[0].model_extra["token_ids"]
        assert len(set(ids)) > len(set(plain)) or ids != plain, (name, ids)


def expect_error(kind, param, call):
    try:
        call()
    except kind as error:
        body = error.body
        assert set(body) >= {"message", "type", "code"}, body
        assert body["message"], body
        if param is not None:
            assert body["param"] == param, body
        return body
    raise AssertionError(f"no {kind.__name__}")


def refuses(client, options):
    chat, text = client.chat.completions.create, client.completions.create
    hello = dict(model=options.model, messages=[user("x")])
    expect_error(openai.NotFoundError, None, lambda: chat(model="nobody", messages=[user("x")]))
    expect_error(openai.NotFoundError, None, lambda: text(model="nobody", prompt="x"))
    expect_error(openai.BadRequestError, "temperature", lambda: chat(**hello, temperature=-1))
    expect_error(openai.BadRequestError, "top_p", lambda: chat(**hello, top_p=2))
    expect_error(openai.BadRequestError, None, lambda: chat(**hello, n=0))
    expect_error(openai.BadRequestError, None, lambda: chat(model=options.model, messages="x"))
    expect_error(openai.BadRequestError, None, lambda: text(model=options.model, prompt=[10**6]))
    expect_error(openai.BadRequestError, None, lambda: text(model=options.model, prompt=""))
    expect_error(openai.BadRequestError, None,
                 lambda: text(model=options.model, prompt=[5] * 100_000))
    expect_error(openai.BadRequestError, None, lambda: chat(**hello, stream=True, temperature=-1))
    answer = requests.post(options.url + "/v1/chat/completions", data="{", timeout=TIMEOUT,
                           headers={"Content-Type": "application/json"})
    assert answer.status_code == 400 and answer.json()["error"]["message"], answer.text
    # It still serves.
    chats(client, options)


def main():
    options = options_of(__doc__.split("\n")[0])
    client = openai.OpenAI(base_url=options.url + "/v1", api_key="none", timeout=TIMEOUT,
                           max_retries=0)
    options.model = client.models.list().data[0].id
    run_checks([lists_models, chats, follows_a_conversation, streams_chats, tells_reasoning_apart,
                calls_tools, leaves_tools_alone, chooses_a_tool, chat_logprobs, completes,
                completes_several, streams_completions, stops, scores_a_prompt,
                penalties_change_what_comes, refuses], client, options)


if __name__ == "__main__":
    main()
