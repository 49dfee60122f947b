# SPDX-License-Identifier: Apache-2.0
"""Pulls weights from a trainer over TCP.

A request is a line of JSON with a range of the block, or of a delta; its answer is a line of JSON
and these bytes. The header is pulled and checked first: before it fits the model, no memory is
taken for the rest. Several connections pull the tensors, each of which is digested as it comes.
"""

import collections
import dataclasses
import json
import mmap
import re
import socket
import threading
from concurrent import futures

import xxhash

from lockstep_vllm import delta
from lockstep_vllm.block import (HEX, LENGTH_BYTES, digest_of, expect_digest, header_bytes,
                                 is_count, parse)
from lockstep_vllm.refusal import Refused

PROTOCOL = 1
# A trainer that is there sends something within this time.
SILENCE_SECONDS = 30
MAX_CONNECTIONS = 4
MAX_LINE_BYTES = 1024
# What a block may have besides the model's tensors: its header.
MAX_BYTES_BESIDES = 100_000_000
# Neighbours of less than this are pulled together.
PULL_BYTES = 16 << 20
# Digested at once, while it is in the cache.
LUMP_BYTES = 256 << 10
HOST = re.compile(r"[0-9A-Za-z._:%-]{1,253}")
# Why a trainer does not send, as its answer says.
TRAINER_CODES = ("bad-request", "wrong-protocol", "wrong-token", "no-such-weights")


@dataclasses.dataclass(frozen=True)
class Offer:
    """Weights that a trainer has, and where. With `base` there is a delta from those weights."""

    host: str
    port: int
    token: str
    size: int
    digest: str
    base: str | None
    delta_size: int | None

    @property
    def where(self):
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def is_hex(value):
    return isinstance(value, str) and HEX.fullmatch(value) is not None


def is_size(value):
    return is_count(value) and value > 0


def is_port(value):
    return is_size(value) and value < 1 << 16


def is_host(value):
    return isinstance(value, str) and HOST.fullmatch(value) is not None


def offer_of(info):
    """The offer of an update_info, whose digest has been checked."""
    for name, value, is_right, expected in (
            ("host", info.host, is_host, "a host's name or address"),
            ("port", info.port, is_port, "a port"),
            ("token", info.token, is_hex, "32 hexadecimal digits"),
            ("bytes", info.bytes, is_size, "a number of bytes")):
        if not is_right(value):
            # A token stands in no message.
            got = "another" if name == "token" else repr(value)
            raise Refused("bad-request", f"update_info: {name}", f"expected {expected}, got {got}")
    if (info.base is None) != (info.delta_bytes is None):
        raise Refused("bad-request", "update_info",
                      "expected base and delta_bytes, or neither, got one of them")
    if info.base is not None and not (is_hex(info.base) and is_size(info.delta_bytes)):
        raise Refused("bad-request", "update_info",
                      "expected the digest of a base and a number of bytes, got "
                      f"{info.base!r} and {info.delta_bytes!r}")
    return Offer(info.host, info.port, info.token, info.bytes, info.digest, info.base,
                 info.delta_bytes)


class Connection:
    """A connection to the trainer, for one request after the other. Not for several threads, but
    for cut().
    """

    def __init__(self, offer, seconds, of_delta=False):
        self.offer, self.of_delta, self.seconds = offer, of_delta, seconds
        self.left = b""
        try:
            self.socket = socket.create_connection((offer.host, offer.port), timeout=seconds)
        except (OSError, UnicodeError) as error:
            raise Refused("connection-failed", offer.where,
                          f"expected a connection within {seconds:g} s, got {error}") from None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def cut(self):
        """Ends what another thread waits for."""
        try:
            self.socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            # It has gone already.
            pass

    def request(self, begin, end):
        """Asks for a range; its bytes are read next."""
        about = {"protocol": PROTOCOL, "token": self.offer.token, "weights": self.offer.digest}
        if self.of_delta:
            about["base"] = self.offer.base
        try:
            self.socket.sendall(json.dumps(about | {"begin": begin, "end": end}).encode() + b"\n")
        except OSError as error:
            raise self.lost("a request to be taken", error) from None
        self.expect_answer(self.line(), end - begin)

    def line(self):
        got = b""
        while b"\n" not in got:
            if len(got) >= MAX_LINE_BYTES:
                raise Refused("bad-answer", self.offer.where,
                              f"expected a line of at most {MAX_LINE_BYTES} bytes, got a longer "
                              "one")
            room = bytearray(MAX_LINE_BYTES - len(got))
            got += room[:self.some(memoryview(room), "a line")]
        line, _, self.left = got.partition(b"\n")
        return line

    def expect_answer(self, line, size):
        try:
            answer = json.loads(line)
        except (ValueError, RecursionError):
            answer = None
        if answer == {"bytes": size} and is_count(answer["bytes"]):
            return
        error = answer.get("error") if isinstance(answer, dict) else None
        if isinstance(error, dict) and error.get("code") in TRAINER_CODES:
            raise Refused(error["code"], self.offer.where,
                          f"expected {size} bytes, got an error: {error.get('message')}")
        raise Refused("bad-answer", self.offer.where,
                      f"expected {size} bytes to be announced, got {line[:200]!r}")

    def read(self, view, what, see=lambda lump: None):
        """Fills the view, and gives `see` the bytes one after the other."""
        size, at, seen = len(view), min(len(view), len(self.left)), 0
        view[:at], self.left = self.left[:at], self.left[at:]
        while at < size:
            at += self.some(view[at:], what, at)
            if at - seen >= LUMP_BYTES:
                see(view[seen:at])
                seen = at
        see(view[seen:])

    def some(self, view, what, before=0):
        """Some bytes, at least one; how many."""
        size = before + len(view)
        try:
            count = self.socket.recv_into(view)
        except TimeoutError:
            raise Refused("deadline", f"{self.offer.where}: {what}",
                          f"expected a byte within {self.seconds:g} s, got none behind {before} "
                          f"of {size}") from None
        except OSError as error:
            raise self.lost(f"{what}, {size} bytes", error) from None
        if count == 0:
            raise self.lost(f"{what}, {size} bytes", f"the connection's end behind {before}")
        return count

    def lost(self, expected, got):
        return Refused("connection-failed", self.offer.where, f"expected {expected}, got {got}")


def pull(offer, seconds, jobs, work, of_delta=False):
    """Does work(connection, job) for all jobs over several connections. The first error stops all.
    """
    waiting, lock = collections.deque(jobs), threading.Lock()
    connections, errors = [], []

    def stop(error):
        with lock:
            errors.append(error)
            waiting.clear()
            for connection in connections:
                connection.cut()

    def run():
        try:
            with Connection(offer, seconds, of_delta) as connection:
                with lock:
                    connections.append(connection)
                while waiting and not errors:
                    try:
                        job = waiting.popleft()
                    except IndexError:
                        return
                    work(connection, job)
        except Exception as error:
            stop(error)

    count = min(MAX_CONNECTIONS, len(waiting))
    # No thread is left behind: it would write into memory that is used for something else then.
    with futures.ThreadPoolExecutor(count) as threads:
        try:
            futures.wait([threads.submit(run) for _ in range(count)])
        except BaseException as error:
            stop(error)
    if errors:
        raise errors[0]


def pull_header(offer, seconds):
    """The text of the block's header. No more memory is taken than it has bytes."""
    with Connection(offer, seconds) as connection:
        start = bytearray(LENGTH_BYTES)
        connection.request(0, LENGTH_BYTES)
        connection.read(memoryview(start), "the header's length")
        text = bytearray(header_bytes(start, offer.size, offer.where))
        connection.request(LENGTH_BYTES, LENGTH_BYTES + len(text))
        connection.read(memoryview(text), "the header")
    return bytes(text)


def groups_of(entries):
    """The tensors by what is pulled with one request, the largest first."""
    groups = []
    for entry in entries:
        if not groups or entry.end - groups[-1][0].begin > PULL_BYTES:
            groups.append([])
        groups[-1].append(entry)
    return sorted(groups, key=lambda group: group[0].begin - group[-1].end)


def pull_tensors(connection, group, view):
    begin, end = group[0].begin, group[-1].end
    if end > begin:
        connection.request(begin, end)
    for entry in group:
        digest = xxhash.xxh3_128()
        connection.read(view[entry.begin:entry.end], entry.name, digest.update)
        expect_digest(entry, digest.hexdigest(), connection.offer.where)


def receive_whole(kept, offer, check, seconds):
    text = pull_header(offer, seconds)
    entries = parse(text, offer.size, offer.where)
    check(entries, offer.where)
    if digest_of(entries) != offer.digest:
        raise Refused("digest-mismatch", offer.where, f"expected weights of digest {offer.digest}, "
                      f"got {digest_of(entries)}")
    view = kept.room(offer.size)
    start = len(text).to_bytes(LENGTH_BYTES, "little") + text
    view[:len(start)] = start
    pull(offer, seconds, groups_of(entries),
         lambda connection, group: pull_tensors(connection, group, view))
    kept.hold(entries, offer.digest)


def pull_delta(offer, seconds):
    room = memoryview(mmap.mmap(-1, offer.delta_size))

    def work(connection, begin):
        end = min(begin + PULL_BYTES, offer.delta_size)
        connection.request(begin, end)
        connection.read(room[begin:end], "the delta")

    pull(offer, seconds, range(0, offer.delta_size, PULL_BYTES), work, of_delta=True)
    return room.toreadonly()


def receive_delta(kept, offer, seconds):
    if kept.digest != offer.base:
        raise Refused("wrong-base", offer.where,
                      f"expected a delta from {kept.digest or 'none'}, got one from {offer.base}")
    if offer.delta_size > offer.size:
        raise Refused("too-large", f"{offer.where}: the delta",
                      f"expected at most {offer.size} bytes, got {offer.delta_size}")
    try:
        entries = delta.apply(pull_delta(offer, seconds), kept, offer)
    except BaseException:
        # Some of the tensors may be the new ones.
        kept.forget()
        raise
    kept.hold(entries, offer.digest)


def receive(kept, offer, model_bytes, check, seconds):
    """Weights that are whole and verified, in the memory of `kept`.

    `model_bytes` is what the model's tensors have at most; `check(entries, where)` refuses what are
    not just these. A trainer that sends nothing for so many seconds is given up.
    """
    if offer.size > model_bytes + MAX_BYTES_BESIDES:
        raise Refused("too-large", f"{offer.where}: bytes",
                      f"expected at most {model_bytes} of tensors and {MAX_BYTES_BESIDES} besides, "
                      f"got {offer.size}")
    if offer.base is None:
        receive_whole(kept, offer, check, seconds)
    else:
        receive_delta(kept, offer, seconds)
    return kept.image(offer.where)
