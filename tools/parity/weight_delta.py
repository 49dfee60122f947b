# SPDX-License-Identifier: Apache-2.0
"""Writes what has changed between two blocks of weights, one element after the other.

It shares nothing with the reader in integrations/vllm, and is slow.
"""

import dataclasses
import struct

import zstandard

WIDTHS = {"BF16": 2, "F16": 2, "F32": 4}
CHUNK_ELEMENTS = 1 << 20


def packed(raw):
    return zstandard.ZstdCompressor(level=1).compress(bytes(raw))


@dataclasses.dataclass
class Chunk:
    """A chunk's fields as they are written. `size` None: as long as the frame is."""

    tensor: int
    elements: int
    first: int
    changed: int
    gap_bytes: int
    frame: bytes
    zero: int = 0
    size: int | None = None

    def to_bytes(self):
        size = len(self.frame) if self.size is None else self.size
        return struct.pack("<IIQIIII", self.tensor, self.elements, self.first, self.changed,
                           self.gap_bytes, self.zero, size) + self.frame


@dataclasses.dataclass
class Delta:
    """A delta's fields as they are written. None: as they should be."""

    base: str
    digest: str
    bytes: int
    header: bytes
    chunks: list
    mark: bytes = b"LSDELTA1"
    header_bytes: int | None = None
    header_frame: bytes | None = None
    header_size: int | None = None
    num_chunks: int | None = None
    behind: bytes = b""

    def to_bytes(self):
        either = lambda value, other: other if value is None else value
        frame = either(self.header_frame, packed(self.header))
        return b"".join([
            self.mark, self.base.encode(), self.digest.encode(), struct.pack("<Q", self.bytes),
            struct.pack("<QQ", either(self.header_bytes, len(self.header)),
                        either(self.header_size, len(frame))), frame,
            struct.pack("<Q", either(self.num_chunks, len(self.chunks))),
            *(chunk.to_bytes() for chunk in self.chunks), self.behind])


def gap_of(count):
    return bytes([255] * (count // 255) + [count % 255])


def zigzag(new, old, width):
    bits = 8 * width
    change = (new - old) % (1 << bits)
    if change >= 1 << (bits - 1):
        # A negative number.
        return 2 * ((1 << bits) - change) - 1
    return 2 * change


def chunk_of(tensor, first, old, new, width):
    """What changes in a range of elements, given as bytes, or None."""
    gaps, changes, stay = bytearray(), [], 0
    elements = len(old) // width
    for at in range(0, len(old), width):
        before, after = old[at:at + width], new[at:at + width]
        if before == after:
            stay += 1
            continue
        gaps += gap_of(stay)
        stay = 0
        changes.append(zigzag(int.from_bytes(after, "little"), int.from_bytes(before, "little"),
                              width).to_bytes(width, "little"))
    if not changes:
        return None
    planes = b"".join(bytes(change[k] for change in changes) for k in range(width))
    return Chunk(tensor, elements, first, len(changes), len(gaps), packed(gaps + planes))


def delta_of(old, new, chunk_elements=CHUNK_ELEMENTS):
    """From one WeightImage to another."""
    chunks = []
    # Both have the tensors in the order of their bytes: the length, the header, and these.
    for tensor, (name, before, after) in enumerate(zip(old.begins, old.parts[2:], new.parts[2:])):
        width = WIDTHS[old.dtypes[name]]
        step = chunk_elements * width
        for begin in range(0, len(before), step):
            chunk = chunk_of(tensor, begin // width, before[begin:begin + step],
                             after[begin:begin + step], width)
            chunks += [chunk] if chunk else []
    return Delta(old.digest, new.digest, new.bytes, b"".join(new.parts[:2]), chunks)
