# SPDX-License-Identifier: Apache-2.0
"""Weights in memory of this process, which stays between updates: a delta changes them in place,
and the next ones are received into pages that are there already.
"""

import mmap
import os

from lockstep_vllm.block import LENGTH_BYTES, Image
from lockstep_vllm.refusal import Refused


class Memory:
    """Memory that can be mapped again for reading alone, so that no loader changes it."""

    def __init__(self, size):
        self.size, self.file, self.mapping = size, None, None
        try:
            self.file = os.memfd_create("lockstep weights", os.MFD_CLOEXEC)
            # All of it now: later a lack of memory would end the process.
            os.posix_fallocate(self.file, 0, size)
            self.mapping = mmap.mmap(self.file, size)
        except (OSError, ValueError, OverflowError) as error:
            raise Refused("no-memory", "lockstep_vllm",
                          f"expected {size} bytes of memory, got {error}") from None

    # When the process ends, modules go before this does.
    def __del__(self, close=os.close):
        if self.file is not None:
            close(self.file)


class Received(Image):
    """Weights that have been received, and verified as they came."""

    def __init__(self, where, memory, size, entries):
        super().__init__(where, mmap.mmap(memory.file, size, mmap.MAP_SHARED, mmap.PROT_READ),
                         entries)


class Kept:
    """The weights that were received last, if they are whole. `digest` is None when they are not.
    """

    def __init__(self):
        self.memory, self.size = None, 0
        self.forget()

    def forget(self):
        """The bytes are no weights any more; the memory stays."""
        self.digest, self.entries = None, ()

    def let_go(self):
        """The memory is given back when nobody shows it any more."""
        self.forget()
        self.memory, self.size = None, 0

    @property
    def header_end(self):
        """Where the first tensor begins."""
        return self.entries[0].begin if self.entries else LENGTH_BYTES

    def room(self, size):
        """Memory for a block of that size, to be written. What was kept is forgotten."""
        self.forget()
        if self.memory is None or self.memory.size < size:
            # Never the old and the new one at once.
            self.memory = None
            self.memory = Memory(size)
        self.size = size
        return self.view()

    def view(self):
        return memoryview(self.memory.mapping)[:self.size]

    def hold(self, entries, digest):
        """The bytes are whole weights."""
        self.entries, self.digest = tuple(entries), digest

    def image(self, where):
        return Received(where, self.memory, self.size, self.entries)
