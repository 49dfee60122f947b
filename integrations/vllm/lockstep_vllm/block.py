# SPDX-License-Identifier: Apache-2.0
"""A model's weights as one block of bytes that a trainer has written.

The block is a safetensors file, here in shared memory (Block); receive.py pulls one over TCP. Its
metadata have a key "lockstep" with the text of a JSON object: {"protocol": 1, "digests": {NAME:
XXH3-128 of the tensor's bytes, 32 hexadecimal digits}}. While the trainer writes a block the length
of its header is 0.
"""

import dataclasses
import functools
import json
import math
import mmap
import os
import re
import stat
import warnings
from concurrent.futures import ThreadPoolExecutor

import torch
import xxhash

from lockstep_vllm import PROTOCOL
from lockstep_vllm.refusal import Refused

FOLDER = "/dev/shm"
KEY = "lockstep"
LENGTH_BYTES = 8
# The limit of the format's reference implementation.
MAX_HEADER_BYTES = 100_000_000
NAME = re.compile(r"lockstep-[0-9a-f]{32}")
HEX = re.compile(r"[0-9a-f]{32}")
DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}
# More threads than this read memory no faster.
MAX_THREADS = 8


@dataclasses.dataclass(frozen=True)
class Entry:
    """Where a tensor lies in its block, and what its writer said of its bytes."""

    name: str
    dtype: str
    shape: tuple
    begin: int
    end: int
    digest: str

    @property
    def form(self):
        """What the digest of all tensors says of this one."""
        return f"{self.name} {self.dtype} {','.join(map(str, self.shape))} {self.digest}\n"


def is_count(value):
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def without_duplicates(pairs):
    names = dict(pairs)
    if len(names) != len(pairs):
        raise ValueError("a name stands twice in an object")
    return names


def parse_json(text, where):
    try:
        # A surrogate without its other half is no text that a status could carry.
        value = json.loads(text, object_pairs_hook=without_duplicates)
        json.dumps(value, ensure_ascii=False).encode()
        return value
    except (ValueError, RecursionError) as error:
        raise Refused("bad-image", where, f"expected JSON, got an error: {error}") from None


def header_bytes(start, size, where):
    """How long the header is, by the first bytes of a block of that size."""
    length = int.from_bytes(start[:LENGTH_BYTES], "little")
    if size < LENGTH_BYTES or length == 0:
        raise Refused("bad-image", where, "expected whole weights, got a block being written")
    if length > min(MAX_HEADER_BYTES, size - LENGTH_BYTES):
        raise Refused("bad-safetensors", where,
                      f"expected a header inside {size} bytes, got one of {length}")
    return length


def header_of(view, where):
    """The text of the header."""
    length = header_bytes(view, len(view), where)
    return bytes(view[LENGTH_BYTES:LENGTH_BYTES + length])


def digests_of(header, names, where):
    """What the writer said of each tensor of those names."""
    metadata = header.get("__metadata__")
    text = metadata.get(KEY) if isinstance(metadata, dict) else None
    if not isinstance(text, str):
        raise Refused("bad-image", where, f"expected metadata \"{KEY}\", got none")
    about = parse_json(text, where)
    protocol = about.get("protocol") if isinstance(about, dict) else None
    if type(protocol) is not int or protocol != PROTOCOL:
        raise Refused("wrong-protocol", where,
                      f"expected weights of protocol {PROTOCOL}, got {json.dumps(protocol)}")
    digests = about.get("digests")
    if not isinstance(digests, dict) or digests.keys() != names:
        raise Refused("bad-image", where, f"expected digests of {len(names)} tensors, got others")
    for name, digest in digests.items():
        if not isinstance(digest, str) or not HEX.fullmatch(digest):
            raise Refused("bad-image", f"{where}: {name}",
                          "expected the 32 hexadecimal digits of its digest, got others")
    return digests


def entry_of(name, value, digest, data_begin, where):
    where = f"{where}: {name}"
    if not isinstance(value, dict) or value.keys() != {"dtype", "shape", "data_offsets"}:
        raise Refused("bad-safetensors", where,
                      "expected an object of dtype, shape and data_offsets, got another")
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise Refused("wrong-dtype", where, f"expected one of {', '.join(DTYPES)}, got {dtype!r}")
    if not isinstance(shape, list) or not all(map(is_count, shape)):
        raise Refused("bad-safetensors", where, f"expected a shape, got {shape!r}")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(map(is_count, offsets)):
        raise Refused("bad-safetensors", where, f"expected data_offsets, got {offsets!r}")
    size = math.prod(shape) * DTYPES[dtype].itemsize
    if offsets[1] - offsets[0] != size:
        raise Refused("bad-safetensors", where,
                      f"expected offsets of {size} bytes, got {offsets}")
    return Entry(name, dtype, tuple(shape), data_begin + offsets[0], data_begin + offsets[1],
                 digest)


def parse(text, size, where):
    """The tensors of a block of that size with that header, in the order of their bytes, which they
    cover without a hole.
    """
    header = parse_json(text, where)
    if not isinstance(header, dict):
        raise Refused("bad-safetensors", where, "expected an object as header, got another")
    names = header.keys() - {"__metadata__"}
    digests = digests_of(header, names, where)
    data_begin = LENGTH_BYTES + len(text)
    entries = sorted((entry_of(name, header[name], digests[name], data_begin, where)
                      for name in names), key=lambda one: (one.begin, one.end))
    covered = data_begin
    for entry in entries:
        if entry.begin != covered:
            raise Refused("bad-safetensors", f"{where}: {entry.name}",
                          f"expected its data to begin at byte {covered}, got {entry.begin}")
        covered = entry.end
    if covered != size:
        raise Refused("bad-safetensors", where,
                      f"expected {covered} bytes with the last tensor, got {size}")
    return entries


def digest_of(entries):
    """One digest of names, types, shapes and digests of all tensors."""
    return xxhash.xxh3_128_hexdigest("".join(sorted(one.form for one in entries)).encode())


def expect_digest(entry, found, where):
    if found != entry.digest:
        raise Refused("digest-mismatch", f"{where}: {entry.name}",
                      f"expected bytes of digest {entry.digest}, got {found}")


def digest_in(view, entry):
    return xxhash.xxh3_128_hexdigest(view[entry.begin:entry.end])


def verify(view, entries, where):
    """Digests these tensors of a block. Refuses the first of which the writer said otherwise."""
    sizes = sorted(entries, key=lambda one: one.begin - one.end)
    with ThreadPoolExecutor(min(MAX_THREADS, os.cpu_count() or 1)) as threads:
        found = dict(zip((one.name for one in sizes), threads.map(
            functools.partial(digest_in, view), sizes)))
    for entry in entries:
        expect_digest(entry, found[entry.name], where)


def open_block(name, size, where):
    """A file of shared memory, of that size."""
    try:
        file = os.open(f"{FOLDER}/{name}", os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError as error:
        raise Refused("no-block", where, f"expected a block, got {error.strerror}") from None
    found = os.fstat(file)
    if not stat.S_ISREG(found.st_mode) or found.st_size != size:
        os.close(file)
        raise Refused("bad-image", where, f"expected {size} bytes, got {found.st_size}")
    return file


class Image:
    """Whole weights in memory, parsed; verify() reads their bytes.

    `mapping` is the block's, which nobody may write by it. It goes when this and all tensors are
    gone.
    """

    def __init__(self, where, mapping, entries):
        self.where, self.mapping, self.entries = where, mapping, entries
        self.digest = digest_of(entries)

    def verify(self):
        """Digests all bytes. Refuses the first tensor of which the writer said otherwise."""
        verify(memoryview(self.mapping), self.entries, self.where)

    def expect_unchanged(self):
        """Refuses weights that are seen to have changed since they were verified. It is cheap."""

    def verify_loaded(self):
        """Refuses weights that may have been others while they were loaded."""

    def close(self):
        """Lets go of what is not needed once the weights are loaded."""

    def tensors(self):
        """Each name with a tensor over the block's bytes, which nobody may write."""
        for entry in self.entries:
            yield entry.name, self.tensor(entry)

    def tensor(self, entry):
        if entry.begin == entry.end:
            return torch.empty(entry.shape, dtype=DTYPES[entry.dtype])
        with warnings.catch_warnings():
            # That the memory is read-only; loaders copy from it.
            warnings.simplefilter("ignore", UserWarning)
            flat = torch.frombuffer(self.mapping, dtype=DTYPES[entry.dtype], offset=entry.begin,
                                    count=math.prod(entry.shape))
        return flat.view(entry.shape)


class Block(Image):
    """Weights in shared memory, which the trainer can still write."""

    def __init__(self, name, size):
        where = name if isinstance(name, str) else "update_info"
        if not isinstance(name, str) or not NAME.fullmatch(name):
            raise Refused("bad-request", where,
                          "expected a name of lockstep- and 32 hexadecimal digits, got another")
        if not is_count(size) or size == 0:
            raise Refused("bad-request", where, f"expected a number of bytes, got {size!r}")
        self.size, self.file = size, None
        self.file = open_block(name, size, where)
        try:
            mapping = mmap.mmap(self.file, size, mmap.MAP_SHARED, mmap.PROT_READ)
        except (OSError, ValueError) as error:
            self.close()
            raise Refused("no-block", where, f"expected to map it, got {error}") from None
        try:
            self.header = header_of(mapping, where)
            super().__init__(where, mapping, parse(self.header, size, where))
        except BaseException:
            self.close()
            raise

    def close(self):
        """Lets go of the file; the mapping stays while a tensor shows it."""
        if self.file is not None:
            os.close(self.file)
        self.file = None

    def __del__(self):
        if getattr(self, "file", None) is not None:
            self.close()

    def expect_unchanged(self):
        """A trainer that writes to a block begins with the header."""
        if os.fstat(self.file).st_size != self.size:
            raise Refused("block-changed", self.where, "expected its size of before, got another")
        if header_of(self.mapping, self.where) != self.header:
            raise Refused("block-changed", self.where, "expected its header of before, got another")

    def verify_loaded(self):
        """Whatever was written while the weights were read is seen here, whoever wrote it."""
        self.expect_unchanged()
        self.verify()
