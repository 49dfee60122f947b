# SPDX-License-Identifier: Apache-2.0
"""Makes a block of weights (src/sync/weight_image.h) in shared memory, as a trainer does."""

import fcntl
import json
import os
import pathlib
import secrets

import torch
import xxhash

FOLDER = pathlib.Path("/dev/shm")
LENGTH_BYTES = 8
DTYPES = {torch.bfloat16: "BF16", torch.float16: "F16", torch.float32: "F32",
          torch.float64: "F64"}


def bytes_of(tensor):
    return tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes()


class WeightImage:
    """The bytes of a block of tensors, {name: tensor}.

    change: what is done to the header, {name: {dtype, shape, data_offsets}}, before it is written.
    """

    def __init__(self, tensors, protocol=1, change=lambda header: None):
        # Wide elements go first, so that each lies where its size wants it.
        tensors = sorted(tensors.items(), key=lambda item: -item[1].element_size())
        header, forms, data, digests = {}, [], [], {}
        # In the order of the bytes.
        self.begins, self.dtypes = {}, {}
        at = 0
        for name, tensor in tensors:
            raw = bytes_of(tensor)
            digests[name] = xxhash.xxh3_128_hexdigest(raw)
            dtype, shape = DTYPES[tensor.dtype], list(tensor.shape)
            header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + len(raw)]}
            forms.append(f"{name} {dtype} {','.join(map(str, shape))} {digests[name]}\n")
            self.begins[name], self.dtypes[name] = at, dtype
            data.append(raw)
            at += len(raw)
        change(header)
        about = {"protocol": protocol, "digests": digests}
        text = json.dumps(header | {"__metadata__": {"lockstep": json.dumps(about)}}).encode()
        text += b" " * (-len(text) % LENGTH_BYTES)
        self.data_begin = LENGTH_BYTES + len(text)
        self.parts = [len(text).to_bytes(LENGTH_BYTES, "little"), text, *data]
        self.bytes = self.data_begin + at
        self.digest = xxhash.xxh3_128_hexdigest("".join(sorted(forms)).encode())

    def place(self, name):
        """Where a tensor's bytes begin."""
        return self.data_begin + self.begins[name]


class WeightBlock:
    """A block of tensors in shared memory, for the time of a `with`."""

    def __init__(self, tensors, protocol=1):
        self.name = "lockstep-" + secrets.token_hex(16)
        self.path = FOLDER / self.name
        self.image = WeightImage(tensors, protocol)
        self.bytes, self.digest = self.image.bytes, self.image.digest
        file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        # A trainer removes what others have left there: blocks that nobody holds a lock on.
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self.file = os.fdopen(file, "wb")
        self.file.writelines(self.image.parts)
        self.file.flush()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.path.unlink()
        self.file.close()

    def info(self, **changes):
        return {"transport": "shm", "name": self.name, "bytes": self.bytes,
                "digest": self.digest} | changes

    def flip(self, name):
        """Another last bit in the first byte of a tensor."""
        at = self.image.place(name)
        with self.path.open("r+b") as block:
            block.seek(at)
            byte = block.read(1)[0]
            block.seek(at)
            block.write(bytes([byte ^ 1]))

    def mark_unwritten(self):
        with self.path.open("r+b") as block:
            block.write(bytes(LENGTH_BYTES))
