# SPDX-License-Identifier: Apache-2.0
"""Imports plugin files and finds the rewards, schedulers and tools that a run asks for."""

import dataclasses
import importlib
import importlib.util
import inspect
import os
import sys
import types
import typing

import builtin_orms
import swift_stubs
from plugin_errors import PluginError, one_line


@dataclasses.dataclass
class Reward:
    """A reward as it is called."""

    name: str
    class_name: str
    function: typing.Any
    # TRL's functions get keywords only, ms-swift's objects get completions by position.
    is_trl: bool
    files: tuple

    @property
    def is_async(self):
        call = getattr(self.function, "__call__", None)
        return inspect.iscoroutinefunction(self.function) or inspect.iscoroutinefunction(call)

    def description(self):
        return dict(name=self.name, class_name=self.class_name, is_async=self.is_async)


@dataclasses.dataclass
class Loaded:
    """The rewards in the order in which they were asked for, None for those that are lockstep's."""

    rewards: list
    # The names that ms-swift and the plugins have registered.
    known: list
    # The version of ms-swift, or "stub"; why the real one is not used, where it should be.
    swift: str
    problem: str
    # turns.Turns, where the request asks for schedulers or tools.
    turns: typing.Any = None


def options_of(args):
    """The options as ms-swift's plugins read them: attributes by the same names."""
    options = types.SimpleNamespace(**args)
    for name, default in dict(cosine_max_len="max_completion_length",
                              soft_max_length="max_completion_length").items():
        if getattr(options, name, None) is None:
            setattr(options, name, getattr(options, default, None))
    return options


def module_name(path):
    return os.path.basename(path).split(".", 1)[0]


def import_file(path):
    """ms-swift's way: the file's folder is searched first, and the module has the file's name."""
    path = os.path.abspath(os.path.expanduser(path))
    if not os.path.isfile(path):
        raise PluginError(f"expected a file of Python, got none: {path}")
    sys.path.insert(0, os.path.dirname(path))
    return import_module(module_name(path), path)


def import_module(name, path=None):
    try:
        module = importlib.import_module(name)
    except (Exception, SystemExit) as error:
        text = one_line(error, (path,) if path else ())
        raise PluginError(f"expected to import {path or name}, got {text}") from None
    found = getattr(module, "__file__", None)
    if path and found and not os.path.samefile(found, path):
        raise PluginError(f"expected to import {path}, got {found}, which has the same name "
                          "(give the plugin another one)")
    return module


def named_object(text):
    """The object of "module:name" or "file.py:name", and its module."""
    place, _, name = text.rpartition(":")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    module = import_file(place) if place.endswith(".py") else import_module(place)
    found = module
    for part in name.split("."):
        if not hasattr(found, part):
            raise PluginError(f"expected {part} in {module.__file__}, got none")
        found = getattr(found, part)
    if not callable(found):
        raise PluginError(f"expected a function or a class as {text}, got {type(found).__name__}")
    return found, module


def make(function_class, options):
    """An object of a class of rewards, made as ms-swift makes it."""
    try:
        return function_class(args=options)
    except (Exception, SystemExit) as error:
        name = getattr(function_class, "__name__", str(function_class))
        raise PluginError(f"expected to make {name}(args=...), got {one_line(error)}") from None


def files_of(*objects):
    """The files in which these are written."""
    files = []
    for one in objects:
        module = sys.modules.get(getattr(one, "__module__", None) or "")
        if getattr(module, "__file__", None):
            files.append(os.path.abspath(module.__file__))
    return tuple(files)


def reward_of(name, orms, options):
    """The reward of this name; None where there is none."""
    label, _, text = name.rpartition("=") if ":" in name else ("", "", name)
    if ":" in text:
        found, module = named_object(text)
        own = getattr(found, "__name__", text.rpartition(":")[2])
        function = make(found, options) if isinstance(found, type) else found
        return Reward(label or own, label or own, function, not isinstance(found, type),
                      (os.path.abspath(module.__file__),))
    if name == "math_verify":
        return Reward(name, "MathVerify", make(builtin_orms.MathAccuracy, options), False, ())
    if name not in orms:
        return None
    function = make(orms[name], options)
    if not callable(function):
        raise PluginError(f"expected something to call as orms['{name}'], got "
                          f"{type(function).__name__}")
    class_name = function.__name__ if inspect.isfunction(function) else type(function).__name__
    return Reward(name, class_name, function, False, files_of(type(function), orms[name]))


def load_with(request, swift):
    """What the request asks for, with ms-swift itself or with the stand-ins."""
    wants_turns = request.get("turns")
    wants_swift = bool(request["plugins"]) or any(":" in name for name in request["rewards"]) or \
        bool(wants_turns and wants_turns["scheduler"])
    version, problem = swift_stubs.provide(swift) if wants_swift else ("stub", "")
    orms = swift_stubs.registry() if wants_swift else {}
    before = dict(orms)
    for path in request["plugins"]:
        import_file(path)
    changed = [name for name in orms if before.get(name) is not orms[name]]
    options = options_of(request["args"])
    rewards = []
    for name in request["rewards"]:
        # lockstep's own serve unless a plugin has put another in their place.
        is_own = name in request["builtin"] and name not in changed
        rewards.append(None if is_own else reward_of(name, orms, options))
    loaded = Loaded(rewards, sorted(changed), version, problem)
    if wants_turns:
        # It needs this module, too.
        import turns
        loaded.turns = turns.load(wants_turns)
    return loaded


def load(request, swift):
    """What the request asks for.

    An installed ms-swift may lack what its parts import. Where a plugin cannot be read with it, the
    stand-ins may do; where they do not either, the first error counts.
    """
    path = list(sys.path)
    try:
        return load_with(request, swift)
    except PluginError as error:
        first = error
    if swift == "stub" or not swift_stubs.is_real():
        raise first
    for plugin in request["plugins"]:
        sys.modules.pop(module_name(plugin), None)
    sys.path[:] = path
    swift_stubs.forget_swift()
    try:
        loaded = load_with(request, "stub")
    except PluginError:
        raise first from None
    loaded.problem = str(first)
    return loaded
