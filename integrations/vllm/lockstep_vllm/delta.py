# SPDX-License-Identifier: Apache-2.0
"""What has changed between two blocks of weights with the same tensors at the same places.

    "LSDELTA1", the base's digest, the new weights' digest (32 hexadecimal digits each)
    u64 bytes of the block
    u64 bytes of its header with the header's length, u64 compressed bytes, a frame of zstd: these
    u64 number of chunks, and for each: its FIELDS, and a frame of zstd: gaps, planes

All little endian. A chunk spans elements of one tensor; chunks ascend and do not overlap. A gap is
the number of elements that stay before one that changes: bytes of 255 add up, and the first lower
one ends it. A change is z = zigzag(new - old) of unsigned integers as wide as the elements, and is
never 0; plane k holds byte k of each z.

Nothing of the kept weights changes before all fields have been checked.
"""

import dataclasses
import os
import struct
from concurrent.futures import ThreadPoolExecutor

import numpy
import zstandard

from lockstep_vllm.block import (DTYPES, LENGTH_BYTES, MAX_HEADER_BYTES, MAX_THREADS, digest_of,
                                 header_of, parse, verify)
from lockstep_vllm.refusal import Refused

MAGIC = b"LSDELTA1"
DIGEST_BYTES = 32
COUNT = struct.Struct("<Q")
# tensor, elements that are spanned, first element, changed ones, bytes of gaps, 0, compressed bytes
FIELDS = struct.Struct("<IIQIIII")
MAX_ELEMENTS = 1 << 20
# The lowest value of a gap's byte after which the gap goes on.
GOES_ON = 255
WORDS = {2: numpy.uint16, 4: numpy.uint32}


@dataclasses.dataclass(frozen=True)
class Chunk:
    number: int
    entry: object
    elements: int
    first: int
    changed: int
    gap_bytes: int
    frame: memoryview

    @property
    def width(self):
        return DTYPES[self.entry.dtype].itemsize

    @property
    def raw_bytes(self):
        return self.gap_bytes + self.changed * self.width

    @property
    def label(self):
        return f"chunk {self.number}"


class Reader:
    """Takes parts of a delta from its beginning on. `where` stands in errors."""

    def __init__(self, data, where):
        self.data, self.at, self.where = data, 0, where

    @property
    def left(self):
        return len(self.data) - self.at

    def refused(self, what, message):
        return Refused("bad-delta", f"{self.where}: {what}", message)

    def take(self, size, what):
        if size > self.left:
            raise self.refused(what, f"expected {size} bytes, got {self.left}, the last ones")
        self.at += size
        return self.data[self.at - size:self.at]

    def count(self, what):
        return COUNT.unpack(self.take(COUNT.size, what))[0]

    def expect(self, what, found, expected):
        if found != expected:
            raise self.refused(what, f"expected {expected!r}, got {found!r}")

    def frame(self, size, raw_bytes, what):
        """A frame of that size that says that it becomes raw_bytes."""
        frame = self.take(size, what)
        try:
            found = zstandard.frame_content_size(frame)
        except zstandard.ZstdError as error:
            raise self.refused(what, f"expected a frame of zstd, got {error}") from None
        self.expect(f"{what}: bytes in its frame", found, raw_bytes)
        return frame


def unpacked(frame, raw_bytes):
    """What a frame becomes; it has said raw_bytes."""
    try:
        found = zstandard.ZstdDecompressor().decompress(frame, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise ValueError(f"expected a frame of zstd, got {error}") from None
    if len(found) != raw_bytes:
        raise ValueError(f"expected {raw_bytes} bytes in a frame, got {len(found)}")
    return found


def read_header(reader, kept, offer):
    """The new block's first bytes, and its tensors; these lie where those that are kept do."""
    reader.expect("its mark", bytes(reader.take(len(MAGIC), "its mark")), MAGIC)
    for what, digest in (("its base", offer.base), ("its digest", offer.digest)):
        reader.expect(what, bytes(reader.take(DIGEST_BYTES, what)), digest.encode())
    size = reader.count("bytes of the block")
    reader.expect("bytes of the block", size, offer.size)
    reader.expect("bytes of the block", size, kept.size)
    what = "the block's header"
    reader.expect(f"{what}: bytes", reader.count(what), kept.header_end)
    frame = reader.frame(reader.count(what), kept.header_end, what)
    try:
        start = memoryview(unpacked(frame, kept.header_end))
    except ValueError as error:
        raise reader.refused(what, str(error)) from None
    text = header_of(start, reader.where)
    reader.expect(f"{what}: its length", LENGTH_BYTES + len(text), len(start))
    return start, parse(text, kept.size, reader.where)


def expect_same_places(reader, entries, kept):
    """The new tensors are those that are kept, but for their values."""
    reader.expect("tensors", len(entries), len(kept.entries))
    for new, old in zip(entries, kept.entries):
        for field in ("name", "dtype", "shape", "begin"):
            reader.expect(f"{new.name}: {field}", getattr(new, field), getattr(old, field))


def read_chunk(reader, number, entries, least):
    """A chunk that begins at `least`, (tensor, element), or behind it."""
    what = f"chunk {number}"
    tensor, elements, first, changed, gap_bytes, zero, size = FIELDS.unpack(
        reader.take(FIELDS.size, what))

    def expect_within(field, value, low, high):
        if not low <= value <= high:
            raise reader.refused(f"{what}: {field}", f"expected {low} to {high}, got {value}")

    expect_within("tensor", tensor, 0, len(entries) - 1)
    entry = entries[tensor]
    width = DTYPES[entry.dtype].itemsize
    total = (entry.end - entry.begin) // width
    expect_within("elements", elements, 1, min(MAX_ELEMENTS, total))
    expect_within("first element", first, 0, total - elements)
    if (tensor, first) < least:
        raise reader.refused(what, f"expected one behind the last, from tensor {least[0]}, element "
                             f"{least[1]}, got {tensor}, {first}")
    expect_within("changed elements", changed, 1, elements)
    # A gap has a byte that ends it, and one more for each 255 elements that it passes over.
    expect_within("bytes of gaps", gap_bytes, changed,
                  changed + (elements - changed) // GOES_ON)
    expect_within("a field of zeros", zero, 0, 0)
    frame = reader.frame(size, gap_bytes + changed * width, what)
    return Chunk(number, entry, elements, first, changed, gap_bytes, frame), (
        tensor, first + elements)


def read_chunks(reader, entries):
    count, least, chunks = reader.count("number of chunks"), (0, 0), []
    if count > reader.left // FIELDS.size:
        raise reader.refused("number of chunks", f"expected at most {reader.left // FIELDS.size} "
                             f"in {reader.left} bytes, got {count}")
    for number in range(count):
        chunk, least = read_chunk(reader, number, entries, least)
        chunks.append(chunk)
    reader.expect("bytes behind the last chunk", reader.left, 0)
    return chunks


def places_of(gaps, chunk):
    """The elements of the chunk that change, in ascending order."""
    ends = numpy.flatnonzero(gaps < GOES_ON)
    if len(ends) != chunk.changed or ends[-1] != len(gaps) - 1:
        raise ValueError(f"expected {chunk.changed} gaps, got {len(ends)} ends, or an open one")
    places = numpy.cumsum(gaps, dtype=numpy.int64)[ends] + numpy.arange(chunk.changed)
    if places[-1] >= chunk.elements:
        raise ValueError(f"expected gaps within {chunk.elements} elements, got element "
                         f"{places[-1]}")
    return places


def changes_of(planes, word):
    """new - old of each element, of an unsigned type, in which sums wrap around."""
    zigzag = numpy.zeros(planes.shape[1], word)
    for k, plane in enumerate(planes):
        zigzag |= plane.astype(word) << word(8 * k)
    if not zigzag.all():
        raise ValueError("expected changes, got one of nothing")
    return (zigzag >> word(1)) ^ (word(0) - (zigzag & word(1)))


def apply_chunk(chunk, view, where):
    try:
        raw = numpy.frombuffer(unpacked(chunk.frame, chunk.raw_bytes), numpy.uint8)
        places = places_of(raw[:chunk.gap_bytes], chunk)
        planes = raw[chunk.gap_bytes:].reshape(chunk.width, chunk.changed)
        changes = changes_of(planes, WORDS[chunk.width])
    except ValueError as error:
        raise Refused("bad-delta", f"{where}: {chunk.label}: {chunk.entry.name}",
                      str(error)) from None
    begin = chunk.entry.begin + chunk.first * chunk.width
    elements = numpy.frombuffer(view[begin:begin + chunk.elements * chunk.width],
                                WORDS[chunk.width])
    elements[places] += changes


def expect_unchanged(entries, kept, changed, where):
    """A tensor without a chunk has the digest that it had."""
    for new, old in zip(entries, kept.entries):
        if new.name not in changed and new.digest != old.digest:
            raise Refused("digest-mismatch", f"{where}: {new.name}",
                          f"expected a chunk, or the digest {old.digest}, got {new.digest}")


def apply(data, kept, offer):
    """Makes the kept bytes the new ones and returns their tensors. After an exception the bytes are
    those of no weights.
    """
    reader = Reader(data, f"{offer.where}: the delta")
    start, entries = read_header(reader, kept, offer)
    expect_same_places(reader, entries, kept)
    if digest_of(entries) != offer.digest:
        raise Refused("digest-mismatch", reader.where, f"expected weights of digest "
                      f"{offer.digest}, got {digest_of(entries)}")
    chunks = read_chunks(reader, entries)
    changed = {chunk.entry.name for chunk in chunks}
    expect_unchanged(entries, kept, changed, reader.where)
    view = kept.view()
    view[:len(start)] = start
    with ThreadPoolExecutor(min(MAX_THREADS, os.cpu_count() or 1)) as threads:
        for done in [threads.submit(apply_chunk, chunk, view, reader.where) for chunk in chunks]:
            done.result()
    verify(view, [one for one in entries if one.name in changed], offer.where)
    return entries
