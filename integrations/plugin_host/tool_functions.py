# SPDX-License-Identifier: Apache-2.0
"""Tools that are functions, called as TRL calls them: with the model's arguments by keyword."""

import asyncio
import dataclasses
import inspect
import os
import typing

from function_schema import function_schema
from plugin_errors import PluginError


@dataclasses.dataclass
class Tool:
    name: str
    function: typing.Any
    schema: dict
    file: str

    @property
    def is_async(self):
        return inspect.iscoroutinefunction(self.function)

    def description(self):
        return dict(name=self.name, schema=self.schema, is_async=self.is_async)


def load_tool(text, named_object):
    """The tool of "[NAME=]module:function" or "[NAME=]file.py:function"."""
    label, _, place = text.rpartition("=")
    function, module = named_object(place)
    if isinstance(function, type):
        raise PluginError(f"expected a function as {place}, got a class (an object's method is "
                          "named module:object.method)")
    schema = function_schema(function)
    name = label or schema["function"]["name"]
    schema["function"]["name"] = name
    return Tool(name, function, schema, os.path.abspath(module.__file__))


def text_of(result):
    """What the model reads: text, or the texts of a list of blocks, as TRL hands it on."""
    if isinstance(result, list) and result and all(
            isinstance(block, dict) and block.get("type") == "text" for block in result):
        return "".join(str(block.get("text", "")) for block in result)
    return str(result)


def failure(error):
    """TRL's text of an exception."""
    return dict(error=str(error) or type(error).__name__)


async def call_later(tool, arguments):
    try:
        return dict(content=text_of(await tool.function(**arguments)))
    except (Exception, SystemExit) as error:
        return failure(error)


def call_all(tools, calls, loop):
    """An answer for each call. Asynchronous functions wait together."""
    answers = [None] * len(calls)
    later = []
    for place, call in enumerate(calls):
        tool = tools[call["tool"]]
        if tool.is_async:
            later.append(place)
            continue
        try:
            answers[place] = dict(content=text_of(tool.function(**call["arguments"])))
        except (Exception, SystemExit) as error:
            answers[place] = failure(error)

    async def wait_for_all():
        return await asyncio.gather(*[
            call_later(tools[calls[place]["tool"]], calls[place]["arguments"]) for place in later])

    for place, answer in zip(later, loop.run_until_complete(wait_for_all()) if later else []):
        answers[place] = answer
    return answers
