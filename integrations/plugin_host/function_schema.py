# SPDX-License-Identifier: Apache-2.0
"""The schema of a function that is a tool, from its type hints and its docstring (Google's style).

transformers.utils.get_json_schema says it where transformers is installed; otherwise what is here
says the same for plain types.
"""

import inspect
import json
import re
import types
import typing

from plugin_errors import PluginError, one_line

PLAIN = {int: "integer", float: "number", str: "string", bool: "boolean", type(None): "null",
         list: "array", tuple: "array", dict: "object"}
SECTIONS = re.compile(r"^[ \t]*(Args|Returns|Raises):[ \t]*(.*)$")
ARGUMENT = re.compile(r"^(\s*)(\w+):\s*(.*)$")
CHOICES = re.compile(r"\(choices:\s*(.*?)\)\s*$", re.IGNORECASE)


def enum_schema(values):
    names = []
    for value in values:
        if type(value) not in PLAIN:
            raise TypeError(f"expected texts, numbers or true and false in Literal, got {value!r}")
        if PLAIN[type(value)] not in names:
            names.append(PLAIN[type(value)])
    return {"type": names[0] if len(names) == 1 else names, "enum": list(values)}


def union_schema(hints):
    """One type alone, a list of plain ones, or anyOf."""
    others = [type_schema(hint) for hint in hints if hint is not type(None)]
    if len(others) == 1:
        schema = others[0]
    elif all(list(one) == ["type"] and isinstance(one["type"], str) for one in others):
        names = sorted({one["type"] for one in others})
        schema = {"type": names[0] if len(names) == 1 else names}
    else:
        schema = {"anyOf": others}
    if type(None) in hints:
        schema["nullable"] = True
    return schema


def type_schema(hint):
    """The schema of a type hint."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is typing.Any:
        return {}
    if origin is None and hint in PLAIN:
        return {"type": PLAIN[hint]}
    if origin is typing.Union or origin is getattr(types, "UnionType", typing.Union):
        return union_schema(arguments)
    if origin is typing.Literal:
        return enum_schema(arguments)
    if origin is list:
        return {"type": "array", "items": type_schema(arguments[0])} if arguments else \
            {"type": "array"}
    if origin is tuple and len(arguments) > 1 and ... not in arguments:
        return {"type": "array", "prefixItems": [type_schema(one) for one in arguments]}
    if origin is dict:
        values = {"additionalProperties": type_schema(arguments[1])} if len(arguments) == 2 else {}
        return {"type": "object", **values}
    raise TypeError(f"expected a hint of int, float, str, bool, list, dict, Literal or their "
                    f"unions, got {hint!r}")


def sections_of(text):
    """The lines of a docstring by section; those before any are the description."""
    sections = {"": []}
    name = ""
    for line in text.split("\n"):
        found = SECTIONS.match(line)
        if found:
            name = found.group(1)
            sections[name] = [found.group(2)] if found.group(2) else []
        else:
            sections[name].append(line)
    return sections


def descriptions_of(lines):
    """What the section Args says of each argument, on one line."""
    described, indent, name = {}, None, None
    for line in lines:
        if not line.strip():
            continue
        found = ARGUMENT.match(line)
        if found and (indent is None or len(found.group(1)) <= len(indent)):
            indent, name = found.group(1), found.group(2)
            described[name] = found.group(3).strip()
        elif name:
            described[name] = f"{described[name]} {line.strip()}".strip()
    return described


def own_schema(function):
    """As get_json_schema."""
    name = getattr(function, "__name__", "operation")
    text = (inspect.getdoc(function) or "").strip()
    if not text:
        raise TypeError(f"expected a docstring of {name}, got none")
    sections = sections_of(text)
    described = descriptions_of(sections.get("Args", []))
    hints = typing.get_type_hints(function)
    properties, required = {}, []
    for argument, parameter in inspect.signature(function).parameters.items():
        if argument not in hints:
            raise TypeError(f"expected a type hint of the argument {argument} of {name}, got none")
        if argument not in described:
            raise TypeError(f"expected the argument {argument} in the docstring of {name} (Args), "
                            "got none")
        schema = type_schema(hints[argument])
        choices = CHOICES.search(described[argument])
        if choices:
            schema["enum"] = [one.strip() if isinstance(one, str) else one
                              for one in json.loads(choices.group(1))]
            described[argument] = described[argument][:choices.start()].strip()
        schema["description"] = described[argument]
        properties[argument] = schema
        if parameter.default is inspect.Parameter.empty:
            required.append(argument)
    parameters = {"type": "object", "properties": properties}
    if required:
        parameters["required"] = required
    made = {"name": name, "description": "\n".join(sections[""]).strip(), "parameters": parameters}
    if "return" in hints:
        try:
            made["return"] = type_schema(hints["return"])
            returns = "\n".join(sections.get("Returns", [])).strip()
            if returns:
                made["return"]["description"] = returns
        except TypeError:
            # The model never writes it, so a hint that has no schema is left out.
            pass
    return {"type": "function", "function": made}


def function_schema(function):
    """The schema that a prompt shows; PluginError where the function does not say enough."""
    try:
        try:
            from transformers.utils import get_json_schema
        except ImportError:
            get_json_schema = own_schema
        return get_json_schema(function)
    except (Exception, SystemExit) as error:
        name = getattr(function, "__name__", str(function))
        raise PluginError(f"expected a schema of the tool {name}, got {one_line(error)}") from None
