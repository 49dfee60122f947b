# SPDX-License-Identifier: Apache-2.0
"""Exceptions of plugins as one line that names the plugin's file and line."""

import importlib
import os
import sys
import traceback

HERE = os.path.dirname(os.path.abspath(__file__))


class PluginError(Exception):
    """What is wrong, in the words that the user reads."""


def place_of(error, files=()):
    """"plugin.py:12" of the innermost frame in one of the files, else of the innermost one that is
    not the host's; "" where there is none."""
    frames = traceback.extract_tb(error.__traceback__)
    foreign = [frame for frame in frames
               if os.path.dirname(os.path.abspath(frame.filename)) != HERE
               and not frame.filename.startswith(("<frozen", importlib.__file__))]
    own = [frame for frame in foreign if os.path.abspath(frame.filename) in files]
    chosen = (own or foreign)[-1:]
    return "".join(f"{frame.filename}:{frame.lineno}" for frame in chosen)


def one_line(error, files=()):
    """"/path/plugin.py:12: ValueError: text", with a long text cut."""
    if isinstance(error, SyntaxError) and error.filename:
        place = f"{error.filename}:{error.lineno}"
    else:
        place = place_of(error, files)
    text = " ".join(str(error).split())
    if len(text) > 400:
        text = text[:400] + " ..."
    if isinstance(error, ModuleNotFoundError):
        text += f" (install it for {sys.executable})"
    parts = [place, type(error).__name__, text]
    return ": ".join(part for part in parts if part)
