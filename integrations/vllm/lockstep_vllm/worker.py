# SPDX-License-Identifier: Apache-2.0
"""What vLLM's worker has besides: a trainer asks it for the status through /collective_rpc.

The worker keeps a flag of its own for an update that is open, and raises when it does not fit a
call; on several ranks its answers then slip by one. With this backend the engine alone knows what
is open, and the flag follows it.
"""

import functools

from lockstep_vllm import PROTOCOL, __version__
from lockstep_vllm.refusal import Refused

# What the worker's flag must be when it is called.
FLAGS = {"start_weight_update": False, "update_weights": True, "finish_weight_update": True,
         "init_weight_transfer_engine": False, "shutdown_weight_transfer_engine": False}
FLAG = "_weight_update_active"


def engine_of(worker):
    """The engine of this backend, or None."""
    from lockstep_vllm.engine import LockstepEngine

    engine = getattr(worker, "weight_transfer_engine", None)
    return engine if isinstance(engine, LockstepEngine) else None


def following(original, flag):
    @functools.wraps(original)
    def call(self, *args, **kwargs):
        engine = engine_of(self)
        if engine is None:
            return original(self, *args, **kwargs)
        setattr(self, FLAG, flag)
        try:
            return original(self, *args, **kwargs)
        finally:
            setattr(self, FLAG, engine.is_open)

    return call


def lockstep_status(self):
    """What this rank serves and has staged, and why the last update was not taken."""
    engine = engine_of(self)
    if engine is not None:
        return engine.status()
    error = Refused("no-backend", "vLLM", "expected --weight-transfer-config '{\"backend\": "
                    "\"lockstep\"}', got another or none")
    return {"protocol": PROTOCOL, "plugin": __version__, "state": "failed", "error": error.facts()}


def lockstep_reset(self):
    """Closes an open update and drops what is staged; the served weights stay."""
    engine = engine_of(self)
    if engine is not None:
        engine.reset()
        setattr(self, FLAG, False)
    return lockstep_status(self)


def install(kind):
    """Gives the class of workers these methods, once."""
    if hasattr(kind, lockstep_status.__name__):
        return
    for name, flag in FLAGS.items():
        setattr(kind, name, following(getattr(kind, name), flag))
    kind.lockstep_status, kind.lockstep_reset = lockstep_status, lockstep_reset
