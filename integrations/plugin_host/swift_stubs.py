# SPDX-License-Identifier: Apache-2.0
"""Stand-ins for ms-swift, so that its plugin files import where it is not installed.

Every module below `swift` can be imported. The names that rewards, schedulers and environments
need are real: ORM, AsyncORM, the registries, ms-swift's own rewards, what turns are sampled with
(turn_stubs.py), loggers, the plain data classes of its protocol. Any other name
is a class that can be derived from and named in annotations, and says what is missing when it is
used. Names are the same in every module, since they have moved between versions.
"""

import dataclasses
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import logging
import os
import sys
import types
import typing

import builtin_orms
import turn_stubs
from plugin_errors import one_line


class MissingMeta(type):
    """A class of ms-swift that is not here."""

    def __call__(cls, *args, **kwargs):
        if cls.__dict__.get("_is_missing"):
            raise ImportError(f"expected ms-swift for {cls.__name__}, got lockstep's stand-in "
                              "(install ms-swift in the interpreter of --plugin_python)")
        return super().__call__(*args, **kwargs)

    def __getattr__(cls, name):
        if name.startswith("__"):
            raise AttributeError(name)
        raise ImportError(f"expected ms-swift for {cls.__name__}.{name}, got lockstep's stand-in "
                          "(install ms-swift in the interpreter of --plugin_python)")


def missing(name, module):
    return MissingMeta(name, (), dict(_is_missing=True, __module__=module))


class ContextManager:
    """An older ms-swift's editor of histories."""

    def __init__(self, ctx_config=None):
        self.ctx_config = ctx_config

    def manage_context(self, history, trajectory_id):
        return history


class PRM:
    """A process reward."""

    def __init__(self, *args, **kwargs):
        pass

    def __call__(self, **kwargs):
        raise NotImplementedError


class DefaultRMPlugin:
    """What a plugin for a reward model derives from."""

    def __init__(self, model, template):
        self.model = model
        self.template = template

    def __call__(self, inputs, **kwargs):
        raise NotImplementedError


@dataclasses.dataclass
class RequestConfig:
    max_tokens: typing.Optional[int] = None
    temperature: typing.Optional[float] = None
    top_k: typing.Optional[int] = None
    top_p: typing.Optional[float] = None
    repetition_penalty: typing.Optional[float] = None
    num_beams: int = 1
    stop: list = dataclasses.field(default_factory=list)
    seed: typing.Optional[int] = None
    stream: bool = False
    logprobs: bool = False
    top_logprobs: typing.Optional[int] = None
    n: int = 1
    best_of: typing.Optional[int] = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    return_details: bool = False


@dataclasses.dataclass
class InferRequest:
    messages: list = dataclasses.field(default_factory=list)
    images: list = dataclasses.field(default_factory=list)
    audios: list = dataclasses.field(default_factory=list)
    videos: list = dataclasses.field(default_factory=list)
    tools: typing.Optional[list] = None
    objects: dict = dataclasses.field(default_factory=dict)
    chat_template_kwargs: dict = dataclasses.field(default_factory=dict)


@dataclasses.dataclass
class RolloutInferRequest(InferRequest):
    data_dict: dict = dataclasses.field(default_factory=dict)
    uuid: typing.Optional[str] = None


def get_logger(*args, **kwargs):
    logger = logging.getLogger("swift")
    if not logger.handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("[%(levelname)s:%(name)s] %(message)s"))
        logger.addHandler(handler)
        logger.setLevel(os.environ.get("LOG_LEVEL", "INFO").upper())
        logger.propagate = False
    return logger


def to_device(data, device, non_blocking=False):
    """Tensors in lists and dictionaries, moved."""
    if isinstance(data, dict):
        return type(data)({key: to_device(value, device) for key, value in data.items()})
    if isinstance(data, (list, tuple)):
        return type(data)(to_device(value, device) for value in data)
    return data.to(device=device) if hasattr(data, "to") else data


class _Names(dict):
    """What the modules offer by name."""

    def __missing__(self, name):
        raise AttributeError(name)


NAMES = _Names(
    ORM=builtin_orms.ORM, AsyncORM=builtin_orms.AsyncORM, orms=dict(builtin_orms.ORMS),
    MathAccuracy=builtin_orms.MathAccuracy, Format=builtin_orms.Format,
    ReActFormat=builtin_orms.ReActFormat, CosineReward=builtin_orms.CosineReward,
    RepetitionPenalty=builtin_orms.RepetitionPenalty, SoftOverlong=builtin_orms.SoftOverlong,
    PRM=PRM, prms={}, DefaultRMPlugin=DefaultRMPlugin, rm_plugins={"default": DefaultRMPlugin},
    ContextManager=ContextManager, context_managers={}, RequestConfig=RequestConfig,
    InferRequest=InferRequest, RolloutInferRequest=RolloutInferRequest, Messages=list,
    get_logger=get_logger, to_device=to_device, **turn_stubs.NAMES)


class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Makes `swift` and every module below it."""

    def find_spec(self, name, path=None, target=None):
        if name != "swift" and not name.startswith("swift."):
            return None
        return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def create_module(self, spec):
        module = types.ModuleType(spec.name, "A stand-in for ms-swift.")
        if spec.name == "swift":
            module.__version__ = "0+lockstep.stub"

        def offer(name):
            if name.startswith("__"):
                raise AttributeError(name)
            if name not in NAMES:
                NAMES[name] = missing(name, spec.name)
            return NAMES[name]

        module.__getattr__ = offer
        return module

    def exec_module(self, module):
        pass


def forget_swift():
    for name in [name for name in sys.modules if name == "swift" or name.startswith("swift.")]:
        del sys.modules[name]


def is_ms_swift_there():
    """Whether the package of that name is ms-swift; others have it, too."""
    try:
        spec = importlib.util.find_spec("swift")
    except (ImportError, ValueError):
        return False
    places = list(spec.submodule_search_locations or []) if spec else []
    return any(os.path.isdir(os.path.join(place, part))
               for place in places for part in ("rewards", "plugin"))


def is_real():
    """Whether `swift` is ms-swift itself."""
    return "swift" in sys.modules and not isinstance(sys.modules["swift"].__spec__.loader, Finder)


def provide(which):
    """Makes `swift` importable: ms-swift itself unless it is not there or `which` is "stub".

    Returns its version, or "stub", and why it is not used although it is there.
    """
    problem = ""
    if which != "stub" and is_ms_swift_there():
        try:
            registry()
            return sys.modules["swift"].__version__, ""
        except (Exception, SystemExit) as error:
            problem = one_line(error)
            forget_swift()
    if not any(isinstance(finder, Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, Finder())
    return "stub", problem


def registry():
    """The dictionary in which plugins register their rewards."""
    return named("orms", "swift.rewards", "swift.plugin")


def named(name, *places):
    """What the first of these modules offers that is there: names have moved between versions."""
    for place in places[:-1]:
        try:
            return getattr(importlib.import_module(place), name)
        except (ModuleNotFoundError, AttributeError) as error:
            if isinstance(error, ModuleNotFoundError) and not place.startswith(error.name or ""):
                raise
    return getattr(importlib.import_module(places[-1]), name)
