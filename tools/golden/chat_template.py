#!/usr/bin/env python3
"""Renders conversations through transformers' apply_chat_template, for
tests/text/chat_template_test.cpp.

Writes conversations.jsonl and expected.jsonl into tests/data/chat_templates; the templates there
are rendered by transformers 5.23 (jinja2 3.1.6). With --all DIR --out DIR every template of a
folder is rendered instead, for a one-off comparison that is not committed:
LOCKSTEP_CHAT_TEMPLATES=OUT build/…/lockstep_chat_template_test.

SPDX-License-Identifier: Apache-2.0
"""

import argparse
import itertools
import json
import pathlib
import shutil

import jinja2
import tokenizers
import transformers

DATA = pathlib.Path(__file__).parents[2] / "tests" / "data" / "chat_templates"

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Wetter für einen Ort – \"heute\" <b>& morgen</b>",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "description": "City"},
                "days": {"type": "integer", "minimum": 1, "default": None},
                "units": {"type": "string", "enum": ["C", "F"]},
            },
            "required": ["city"],
        },
    },
}
SEARCH = {
    "type": "function",
    "function": {
        "name": "search",
        "description": "Search the web",
        "parameters": {
            "type": "object",
            "properties": {
                "queries": {"type": "array", "items": {"type": "string"}},
                "options": {
                    "type": "object",
                    "properties": {"safe": {"type": "boolean"},
                                   "scores": {"type": "array", "items": {"type": "number"}}},
                },
            },
            "required": [],
        },
    },
}


def system(text):
    return {"role": "system", "content": text}


def user(text):
    return {"role": "user", "content": text}


def assistant(text, **more):
    return {"role": "assistant", "content": text, **more}


def tool(text, **more):
    return {"role": "tool", "content": text, **more}


def call(name, arguments, bare=False, **more):
    function = {"name": name, "arguments": arguments}
    return function if bare else {"type": "function", "function": function, **more}


def conversations():
    """Name -> (messages, tools)."""
    q, a = user("What is 2+2?"), assistant("4")
    paris = call("get_weather", {"city": "Paris"}, id="call_00001")
    nested = call(
        "search",
        {
            "queries": ["größe", 'a "b" c', "日本"],
            "options": {"safe": True, "none": None, "scores": [1, 2.5, 1e-07, 1e20, -0.0],
                        "empty": {}, "list": []},
            "limit": 10,
            "ratio": 0.1,
            "flag": False,
            "nothing": None,
            "text": "line1\nline2\t<tag> & 'quote'",
        },
    )
    return {
        "user": ([q], None),
        "user_spaces": ([user("  spaced \n\n text \t ")], None),
        "user_empty": ([user("")], None),
        "user_unicode": ([user("Grüße 🙂 \u00a0\u2003日本語 עברית \u200bé")], None),
        "user_blank_unicode": ([user("\u3000\u00a0x\u2028\u0085")], None),
        "user_specials": ([user("<|im_end|>\n<|im_start|>system\nhi<|im_end|>")], None),
        "user_jinja": ([user("{{ messages }} {% raise %} {# no #}")], None),
        "system": ([system("You are brief."), q], None),
        "system_spaces": ([system("  You are brief.\n"), q], None),
        "system_empty": ([system(""), q], None),
        "system_only": ([system("You are brief.")], None),
        "system_late": ([q, system("Be kind."), a, user("more")], None),
        "system_twice": ([system("one"), system("two"), q], None),
        "two_turns": ([q, a, user("And 3+3?"), assistant("6")], None),
        "three_turns": ([system("S"), q, a, user("b"), assistant("B"), user("c")], None),
        "assistant_last": ([q, a], None),
        "assistant_first": ([assistant("Hello!"), q], None),
        "assistant_only": ([a], None),
        "assistant_newlines": ([q, assistant("\n\n4\n\n")], None),
        "assistant_none": ([q, {"role": "assistant", "content": None}], None),
        "assistant_missing": ([q, {"role": "assistant"}], None),
        "two_users": ([q, user("Hurry.")], None),
        "two_assistants": ([q, a, assistant("Really 4.")], None),
        "reasoning": ([q, assistant("4", reasoning_content="Two and two.")], None),
        "reasoning_spaces": ([q, assistant("4", reasoning_content="\n\n Two and two. \n")], None),
        "reasoning_empty": ([q, assistant("4", reasoning_content="")], None),
        "reasoning_history": (
            [q, assistant("4", reasoning_content="old"), user("3+3?"),
             assistant("6", reasoning_content="new"), user("ok")],
            None,
        ),
        "reasoning_alias": ([q, assistant("4", reasoning="Two and two."), user("x"),
                             assistant("y", thinking="z")], None),
        "think_inline": ([q, assistant("<think>\nTwo and two.\n</think>\n\n4")], None),
        "think_inline_history": (
            [q, assistant("<think>\nold\n</think>\n\n4"), user("3+3?"),
             assistant("<think>new</think>6")],
            None,
        ),
        "think_unopened": ([q, assistant("Two and two.\n</think>\n\n4")], None),
        "think_unclosed": ([q, assistant("<think>\nTwo and two.")], None),
        "think_twice": ([q, assistant("<think>a</think>b<think>c</think>d")], None),
        "think_many_ends": ([q, assistant("a</think>b</think>c</think>\n\n4")], None),
        "think_nested": ([q, assistant("<think>a<think>b</think>c</think>d")], None),
        "think_in_user": ([user("<think>mine</think> why?"), assistant("<think>t</think>because")],
                          None),
        "think_and_reasoning": ([q, assistant("<think>a</think>b", reasoning_content="c")], None),
        "tools": ([q], [WEATHER]),
        "tools_two": ([system("Use tools."), q], [WEATHER, SEARCH]),
        "tools_empty": ([q], []),
        "tools_empty_system": ([system(" "), q], [WEATHER]),
        "tool_call": ([q, assistant("", tool_calls=[paris])], [WEATHER]),
        "tool_call_content": ([q, assistant("Let me look.", tool_calls=[paris])], [WEATHER]),
        "tool_call_reasoning": ([q, assistant("", reasoning_content="need it", tool_calls=[paris])],
                                [WEATHER]),
        "tool_call_bare": (
            [q, assistant("x", tool_calls=[call("get_weather", {"city": "Rom"}, bare=True)])], None
        ),
        "tool_call_string": (
            [q, assistant("", tool_calls=[call("get_weather", '{"city": "Rom"}')])], [WEATHER]
        ),
        "tool_call_no_arguments": (
            [q, assistant("", tool_calls=[{"type": "function", "function": {"name": "now"}}])], None
        ),
        "tool_call_empty_arguments": ([q, assistant("", tool_calls=[call("now", {})])], None),
        "tool_call_empty_string": ([q, assistant("", tool_calls=[call("now", "")])], None),
        "tool_call_null_arguments": ([q, assistant("", tool_calls=[call("now", None)])], None),
        "tool_call_nested": ([q, assistant("", tool_calls=[nested])], [SEARCH]),
        "tool_call_none_content": ([q, assistant(None, tool_calls=[paris, nested])],
                                   [WEATHER, SEARCH]),
        "tool_calls_null": ([q, assistant("4", tool_calls=None)], None),
        "tool_calls_empty": ([q, assistant("4", tool_calls=[])], None),
        "tool_loop": (
            [q, assistant("", tool_calls=[paris]), tool("18 °C", name="get_weather"),
             assistant("18 °C in Paris.")],
            [WEATHER],
        ),
        "tool_loop_parallel": (
            [
                system("S"),
                user("Paris and Rome?"),
                assistant("Looking.", reasoning_content="two calls",
                          tool_calls=[paris, call("get_weather", {"city": "Rome", "days": 2})]),
                tool(" 18 °C \n"),
                tool("22 °C"),
                assistant("", reasoning_content="one more", tool_calls=[nested]),
                tool('{"hits": []}'),
            ],
            [WEATHER, SEARCH],
        ),
        "tool_loop_next_turn": (
            [
                q,
                assistant("", reasoning_content="r1", tool_calls=[paris]),
                tool("18 °C"),
                assistant("18", reasoning_content="r2"),
                user("Thanks. And Rome?"),
                assistant("", reasoning_content="r3",
                          tool_calls=[call("get_weather", {"city": "Rome"})]),
                tool("22 °C"),
            ],
            [WEATHER],
        ),
        "tool_response_as_user": (
            [q, assistant("", tool_calls=[paris]),
             user("<tool_response>\n18 °C\n</tool_response>")],
            [WEATHER],
        ),
        "tool_response_only": ([user("<tool_response>\n18 °C\n</tool_response>")], None),
        "tool_first": ([tool("18 °C"), q], None),
        "tool_content_list": ([q, assistant("", tool_calls=[paris]),
                               tool([{"type": "text", "text": "18"}])], [WEATHER]),
        "content_parts": ([user([{"type": "text", "text": "Look: "},
                                 {"type": "text", "text": "here"}])], None),
        "content_image": (
            [user([{"type": "image", "image": "a.png"}, {"type": "video"},
                   {"type": "text", "text": "What?"}, {"image_url": "x"}])],
            None,
        ),
        "content_image_system": ([system([{"type": "image"}]), q], None),
        "content_unknown_part": ([user([{"type": "audio"}])], None),
        "content_number": ([user(42)], None),
        "content_object": ([user({"type": "text", "text": "x"})], None),
        "role_unknown": ([q, {"role": "critic", "content": "no"}], None),
        "role_missing": ([{"content": "no"}], None),
        "extra_keys": ([{"role": "user", "content": "x", "name": "Ann", "items": 3, "weight": 0.0}],
                       None),
    }


def options():
    """Variables to render each conversation with."""
    yield False, {}
    yield True, {}
    yield True, {"enable_thinking": True}
    yield True, {"enable_thinking": False}


SPECIAL = [
    ("content_image", False, {"add_vision_id": True}),
    ("reasoning_history", True, {"preserve_thinking": True}),
    ("reasoning_history", True, {"preserve_thinking": False}),
    ("tool_loop_next_turn", True, {"preserve_thinking": True}),
    ("tool_loop_next_turn", False, {"preserve_thinking": False, "enable_thinking": False}),
    *[
        (name, True, {"reasoning_effort": effort, **more})
        for name in ("user", "system", "system_empty", "tools_two")
        for effort in ("xhigh", "medium", "low", "high", None, 3)
        for more in ({}, {"enable_thinking": False})
        if name == "user" or not more
    ],
]


def make_tokenizer():
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel({"<unk>": 0}, unk_token="<unk>"))
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="<|im_end|>",
        pad_token="<|endoftext|>", unk_token="<unk>"
    )


def render(tokenizer, source, messages, tools, prompt, variables):
    try:
        return {
            "text": tokenizer.apply_chat_template(
                messages, tools=tools, chat_template=source, tokenize=False,
                add_generation_prompt=prompt, **variables
            )
        }
    except jinja2.exceptions.TemplateError as error:
        # What raise_exception throws; undefined values and the sandbox have classes of their own.
        raised = type(error) is jinja2.exceptions.TemplateError
        return {"raised": error.message} if raised else {"error": type(error).__name__}
    except Exception as error:  # a TypeError and the like: the row does not fit the template
        return {"error": type(error).__name__}


def requests(is_complete):
    """(conversation, add_generation_prompt, variables): all, or for the committed files a share."""
    for index, name in enumerate(conversations()):
        chosen = list(options())
        # Two of the four options for each conversation, in turn: the committed file stays small.
        yield from ((name, *option) for i, option in enumerate(chosen)
                    if is_complete or (i + index) % 2 == 0)
    yield from SPECIAL


def write(path, rows):
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--all", type=pathlib.Path, help="folder of templates to compare with")
    parser.add_argument("--out", type=pathlib.Path, default=DATA)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    templates = sorted((arguments.all or DATA).glob("*.jinja"))
    if arguments.all:
        for template in templates:
            shutil.copy(template, arguments.out)
    tokenizer = make_tokenizer()
    known = conversations()
    rows = []
    all_requests = requests(bool(arguments.all))
    for template, (name, prompt, variables) in itertools.product(templates, all_requests):
        messages, tools = known[name]
        result = render(tokenizer, template.read_text(encoding="utf-8"), messages, tools, prompt,
                        variables)
        rows.append(
            {"template": template.name, "conversation": name, "add_generation_prompt": prompt,
             "variables": variables, **result}
        )
    write(arguments.out / "expected.jsonl", rows)
    write(
        arguments.out / "conversations.jsonl",
        ({"name": name, "messages": messages, "tools": tools}
         for name, (messages, tools) in known.items()),
    )
    print(f"{len(rows)} renderings of {len(known)} conversations by {len(templates)} templates")


if __name__ == "__main__":
    main()
