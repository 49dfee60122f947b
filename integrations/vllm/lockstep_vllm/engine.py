# SPDX-License-Identifier: Apache-2.0
"""The backend `lockstep`: weights are staged and verified whole before anything changes.

    closed -- start --> open -- update --> staged -- finish --> closed, new weights
    open, staged -- what is refused, another trainer's init, a reset --> closed, old weights

Nothing that a trainer sends raises: with several ranks vLLM would take answers that were left
unread for those of the next calls. What happened is asked for (`status`), of every rank.
"""

import dataclasses
import gc
import logging
import weakref
from typing import Any

import torch
import vllm
from vllm.distributed.weight_transfer.base import (WeightTransferEngine, WeightTransferInitInfo,
                                                   WeightTransferUpdateInfo)

import lockstep_vllm
from lockstep_vllm import names, receive, reload
from lockstep_vllm.block import HEX, Block
from lockstep_vllm.kept import Kept, Received
from lockstep_vllm.refusal import Refused, facts_of, plain

LOGGER = logging.getLogger("vllm.lockstep")
# What an update says of each transport, besides `digest` and `version`.
TRANSPORTS = {"shm": ("name", "bytes"),
              "tcp": ("host", "port", "token", "bytes", "base", "delta_bytes")}
SAFETENSORS_NAMES = {torch.bfloat16: "BF16", torch.float16: "F16", torch.float32: "F32"}


@dataclasses.dataclass
class InitInfo(WeightTransferInitInfo):
    """What a trainer says when it comes. What is wrong with it, the engine finds."""

    backend: Any = lockstep_vllm.BACKEND
    protocol: Any = lockstep_vllm.PROTOCOL
    session: Any = None
    others: Any = ()


@dataclasses.dataclass
class UpdateInfo(WeightTransferUpdateInfo):
    """Where the weights of an update are. `bytes` and `digest` are those of the whole block."""

    transport: Any = None
    digest: Any = None
    version: Any = None
    bytes: Any = None
    # By shared memory.
    name: Any = None
    # By TCP; the last two for a delta.
    host: Any = None
    port: Any = None
    token: Any = None
    base: Any = None
    delta_bytes: Any = None
    others: Any = ()


def parsed(kind, values):
    """An info of a JSON object; fields that it has not are kept as `others`."""
    if not isinstance(values, dict):
        return kind(others=("no object",))
    known = {field.name for field in dataclasses.fields(kind)} - {"others"}
    return kind(others=tuple(sorted(map(str, values.keys() - known))),
                **{name: value for name, value in values.items() if name in known})


def expect_known(info, where):
    if info.others:
        raise Refused("bad-request", where, f"expected no such fields, got {info.others[0]}")


def check_init(info):
    where = "init_info"
    if info.backend != lockstep_vllm.BACKEND:
        raise Refused("unknown-backend", where,
                      f"expected {lockstep_vllm.BACKEND}, got {info.backend!r}")
    if type(info.protocol) is not int or info.protocol != lockstep_vllm.PROTOCOL:
        raise Refused("wrong-protocol", where,
                      f"expected protocol {lockstep_vllm.PROTOCOL}, got {info.protocol!r}")
    if info.session is not None and not isinstance(info.session, str):
        raise Refused("bad-request", where, f"expected a session's name, got {info.session!r}")
    expect_known(info, where)


def check_update(info):
    where = "update_info"
    if not isinstance(info.transport, str) or info.transport not in TRANSPORTS:
        raise Refused("unknown-transport", where,
                      f"expected {' or '.join(TRANSPORTS)}, got {info.transport!r}")
    expect_known(info, where)
    others = {field for fields in TRANSPORTS.values() for field in fields}
    for field in sorted(others.difference(TRANSPORTS[info.transport])):
        if getattr(info, field) is not None:
            raise Refused("bad-request", where, f"expected no {field} with {info.transport}, got "
                          f"{getattr(info, field)!r}")
    if not isinstance(info.digest, str) or not HEX.fullmatch(info.digest):
        raise Refused("bad-request", where,
                      f"expected the 32 hexadecimal digits of a digest, got {info.digest!r}")
    if info.version is not None and not isinstance(info.version, str):
        raise Refused("bad-request", where, f"expected a version's name, got {info.version!r}")


def unsupported(vllm_config):
    """What of a server's settings no update has been tried with, or None."""
    if vllm_config.parallel_config.pipeline_parallel_size > 1:
        return "pipeline parallelism"
    if vllm_config.quant_config is not None:
        return "quantized weights"
    if vllm_config.lora_config is not None:
        return "adapters (--enable-lora)"
    return None


class LockstepEngine(WeightTransferEngine):
    """One rank's part of it. All calls come from the worker's main thread."""

    init_info_cls, update_info_cls = InitInfo, UpdateInfo
    supports_draft_weight_update = False

    def __init__(self, config, vllm_config, device, model):
        super().__init__(config, vllm_config, device, model)
        self.is_open, self.session = False, None
        self.staged, self.staged_version = None, None
        self.digest, self.version = None, None
        self.kept = Kept()
        # Why a trainer's init was refused; why an update was; why the weights are a mixture.
        self.init_error, self.error, self.poison = None, None, None
        self.is_tied = bool(reload.tied_heads(model))

    @property
    def text_config(self):
        return self.model_config.hf_text_config

    def parse_init_info(self, init_dict):
        return parsed(InitInfo, init_dict)

    def parse_update_info(self, update_dict):
        return parsed(UpdateInfo, update_dict)

    def drop(self):
        """Closes what is open. The served weights stay, and so does the mark of a mixture."""
        self.is_open, self.error = False, None
        self.let_go()

    def let_go(self):
        self.staged = self.staged_version = None

    def reset(self):
        self.drop()
        self.init_error = None

    def init_transfer_engine(self, init_info):
        try:
            check_init(init_info)
        except Refused as error:
            self.drop()
            self.init_error = error.facts()
            return
        self.init_error = None
        if init_info.session is None or init_info.session != self.session:
            self.drop()
        self.session = init_info.session

    def start_weight_update(self):
        self.drop()
        self.is_open = self.init_error is None

    def update_weights(self, update_info):
        self.receive_weights(self.parse_update_info(update_info))

    def receive_weights(self, update_info):
        if not self.is_open:
            self.refuse(Refused("no-update", "update_weights", "expected a start, got none"))
            return
        try:
            self.let_go()
            self.staged = self.load(update_info)
            self.staged_version = update_info.version
        except Exception as error:
            self.refuse(error)

    def load(self, info):
        """Maps or receives the weights of an update, and verifies them."""
        check_update(info)
        reason = unsupported(self.vllm_config)
        if reason:
            raise Refused("unsupported-server", "vLLM", f"expected a server without {reason}")
        model = (self.model_config.architecture, self.text_config, self.is_tied,
                 SAFETENSORS_NAMES.get(self.model_config.dtype))
        if info.transport == "tcp":
            return receive.receive(
                self.kept, receive.offer_of(info), names.largest_bytes(*model),
                lambda entries, where: names.check_entries(entries, *model, where),
                receive.SILENCE_SECONDS)
        block = Block(info.name, info.bytes)
        names.check_entries(block.entries, *model, block.where)
        if block.digest != info.digest:
            raise Refused("digest-mismatch", block.where,
                          f"expected weights of digest {info.digest}, got {block.digest}")
        block.verify()
        return block

    def refuse(self, error):
        """Closes the update. The first error of one says most."""
        if self.error is None:
            self.error = facts_of(error)
            LOGGER.warning("lockstep: weights are refused (%s): %s: %s", self.error["code"],
                           self.error["where"], self.error["message"])
        self.is_open = False
        self.let_go()

    def finish_weight_update(self):
        if self.staged is None:
            code = "nothing-staged" if self.is_open else "no-update"
            self.refuse(Refused(code, "finish_weight_update", "expected staged weights, got none"))
            return
        try:
            self.staged.expect_unchanged()
        except Exception as error:
            self.refuse(error)
            return
        self.commit(self.staged, self.staged_version)
        self.is_open = False

    def commit(self, block, version):
        self.digest = self.version = None
        try:
            reload.apply(self.model, self.model_config, block.tensors())
            block.verify_loaded()
            self.digest, self.version, self.poison = block.digest, version, None
        except Exception as error:
            self.poison = facts_of(error)
            LOGGER.exception("lockstep: an update broke off; the weights are a mixture until the "
                             "next one")
        mapping, is_received = weakref.ref(block.mapping), isinstance(block, Received)
        block.close()
        del block
        self.let_go()
        if mapping() is not None:
            # Cycles may hold it. Looking for them takes longer than the update of a small model.
            gc.collect()
        if mapping() is not None:
            if is_received:
                # The next weights must not come into memory that the model shows.
                self.kept.let_go()
            LOGGER.warning("lockstep: the memory of an update is still in use")

    def shutdown(self):
        self.drop()
        self.kept.let_go()

    def state(self):
        if self.poison:
            return "poisoned"
        if self.error or self.init_error:
            return "failed"
        if self.staged is not None:
            return "staged"
        return "open" if self.is_open else "serving"

    def status(self):
        config = self.text_config
        return {
            "protocol": lockstep_vllm.PROTOCOL, "plugin": lockstep_vllm.__version__,
            "vllm": plain(vllm.__version__), "session": self.session and plain(self.session),
            "state": self.state(), "digest": self.digest,
            "version": self.version and plain(self.version),
            "staged": self.staged and self.staged.digest,
            "error": self.init_error or self.error or self.poison,
            "transports": list(TRANSPORTS), "base": self.kept.digest,
            "model": {
                "architecture": plain(self.model_config.architecture),
                "vocab_size": int(config.vocab_size),
                "num_hidden_layers": int(config.num_hidden_layers),
                "hidden_size": int(config.hidden_size),
                "dtype": str(self.model_config.dtype).removeprefix("torch."),
                "tied": self.is_tied,
            },
        }
