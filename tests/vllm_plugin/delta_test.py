# SPDX-License-Identifier: Apache-2.0
"""Deltas over TCP: those of another writer give the new weights, and wrong ones leave the old."""

import dataclasses
import struct
import unittest

import torch
import zstandard
from stand_in import SEED, changed, new_engine, new_tensors, nudged, offer, update

from lockstep_vllm import receive
from weight_block import WeightBlock, WeightImage
from weight_delta import Chunk, chunk_of, delta_of, packed
from weight_sender import WeightSender

OLD = new_tensors(1)
NEW = nudged(OLD, 2)
OLD_IMAGE, NEW_IMAGE = WeightImage(OLD), WeightImage(NEW)
DTYPES = OLD_IMAGE.dtypes
DELTA = delta_of(OLD_IMAGE, NEW_IMAGE, chunk_elements=100)
PLACES = list(OLD_IMAGE.begins)


def unpacked(frame):
    return zstandard.ZstdDecompressor().decompress(frame)


def with_chunk(number, **changes):
    """The delta with other fields in one chunk."""
    chunks = list(DELTA.chunks)
    chunks[number] = dataclasses.replace(chunks[number], **changes)
    return dataclasses.replace(DELTA, chunks=chunks)


class Deltas(unittest.TestCase):
    def setUp(self):
        self.engine = new_engine()
        self.enterContext(changed(receive, PULL_BYTES=2000))
        self.keep_old()
        self.entries = self.engine.kept.entries

    def keep_old(self):
        with WeightSender(OLD_IMAGE) as sender:
            self.expect_served(OLD, update(self.engine, sender.info()), OLD_IMAGE)

    def expect_served(self, tensors, status, image):
        self.assertEqual((status["state"], status["digest"], status["base"], status["error"]),
                         ("serving", image.digest, image.digest, None))
        self.assertTrue(all(self.engine.model[name].equal(tensors[name]) for name in tensors))
        # The header, too.
        self.assertEqual(bytes(self.engine.kept.view()), b"".join(image.parts))

    def sender(self, delta, image=NEW_IMAGE, base=OLD_IMAGE):
        data = delta if isinstance(delta, bytes) else delta.to_bytes()
        return WeightSender(image, base=base.digest, delta=data)

    def refused(self, code, where, delta, is_end=False):
        """The delta is refused, the next one too, for lack of a base; whole weights are taken."""
        self.keep_old()
        with self.sender(delta) as sender:
            status = offer(self.engine, sender.info())
        self.assertEqual((status["state"], status["digest"], status["staged"], status["base"]),
                         ("failed", OLD_IMAGE.digest, None, None), status["error"])
        self.assertEqual(status["error"]["code"], code, status["error"])
        found = status["error"]["where"]
        self.assertTrue(found.endswith(f": {where}") if is_end else where in found, found)
        self.assertIn(str(sender.port), status["error"]["where"])
        self.assertRegex(status["error"]["message"], "expected .*, got ")
        self.engine.finish_weight_update()
        self.assertTrue(all(self.engine.model[name].equal(OLD[name]) for name in OLD))
        with self.sender(DELTA) as sender:
            self.assertEqual(offer(self.engine, sender.info())["error"]["code"], "wrong-base")

    def test_deltas_follow_one_another(self):
        letters = torch.Generator().manual_seed(SEED)
        tensors, image = OLD, OLD_IMAGE
        memory = self.engine.kept.memory
        for step, (share, elements) in enumerate(
                [(0.05, 100), (0.001, 1), (0.001, 1 << 20), (0.2, 60), (0.0, 100), (0.3, 255)]):
            new = nudged(tensors, int(torch.randint(1 << 30, (), generator=letters)), share)
            new_image = WeightImage(new)
            delta = delta_of(image, new_image, elements)
            with self.subTest(step=step), self.sender(delta, new_image, image) as sender:
                # One with no change at all is one, too.
                self.expect_served(new, update(self.engine, sender.info()), new_image)
            tensors, image = new, new_image
        self.assertIs(self.engine.kept.memory, memory)

    def test_gaps_and_changes_of_all_sizes(self):
        """The smallest and the largest of each, over the same tensor of each width."""
        for width, name in ((2, next(n for n in PLACES if DTYPES[n] == "BF16")),
                            (4, next(n for n in PLACES if DTYPES[n] == "F32"))):
            kind = {2: torch.int16, 4: torch.int32}[width]
            count, top = OLD[name].numel(), (1 << (8 * width - 1)) - 1
            for gap in (0, 1, 253, 254, 255, 256, 509, 510, 511):
                for value in (0, 1, -1, top, -top - 1):
                    if gap >= count:
                        continue
                    bits = OLD[name].view(-1).view(kind).clone()
                    bits[gap] = value
                    bits[-1] = ~bits[-1]
                    new = OLD | {name: bits.view(OLD[name].dtype).view(OLD[name].shape)}
                    self.check_delta(new)

    def check_delta(self, new):
        self.restore()
        image = WeightImage(new)
        delta = delta_of(OLD_IMAGE, image)
        with self.sender(delta, image) as sender:
            status = update(self.engine, sender.info())
        self.assertEqual((status["digest"], status["error"]), (image.digest, None))
        for name, value in new.items():
            # By their bytes: a value may be no number.
            self.assertTrue(self.engine.model[name].view(torch.uint8).equal(
                value.view(torch.uint8)), name)

    def restore(self):
        """The old weights are kept again, whatever happened to the bytes."""
        self.engine.reset()
        self.engine.kept.room(OLD_IMAGE.bytes)[:] = b"".join(OLD_IMAGE.parts)
        self.engine.kept.hold(self.entries, OLD_IMAGE.digest)

    def test_a_delta_needs_the_bytes_of_its_base(self):
        self.engine = new_engine()
        with WeightBlock(OLD) as block:
            update(self.engine, block.info())
        with self.sender(DELTA) as sender:
            # Weights that came by shared memory are served, and not kept.
            status = offer(self.engine, sender.info())
            self.assertEqual((status["error"]["code"], status["base"]), ("wrong-base", None))
            self.keep_old()
            status = offer(self.engine, sender.info(base=NEW_IMAGE.digest))
            self.assertEqual(status["error"]["code"], "wrong-base")
            # Nothing was pulled, so the base is there still.
            self.assertEqual((sender.requests, status["base"]), ([], OLD_IMAGE.digest))
            self.expect_served(NEW, update(self.engine, sender.info()), NEW_IMAGE)

    def test_what_is_kept_may_be_newer_than_what_is_served(self):
        with self.sender(DELTA) as sender:
            offer(self.engine, sender.info())
        self.engine.reset()
        status = self.engine.status()
        self.assertEqual((status["digest"], status["base"]), (OLD_IMAGE.digest, NEW_IMAGE.digest))
        last = nudged(NEW, 3)
        delta = delta_of(NEW_IMAGE, WeightImage(last))
        with self.sender(delta, WeightImage(last), NEW_IMAGE) as sender:
            self.expect_served(last, update(self.engine, sender.info()), WeightImage(last))

    def test_a_delta_larger_than_the_weights_is_not_pulled(self):
        with self.sender(DELTA) as sender:
            status = offer(self.engine, sender.info(delta_bytes=NEW_IMAGE.bytes + 1))
            self.assertEqual((status["error"]["code"], sender.requests), ("too-large", []))

    def test_a_delta_is_to_weights_of_the_offered_size(self):
        with self.sender(DELTA) as sender:
            status = offer(self.engine, sender.info(bytes=NEW_IMAGE.bytes + 8))
        self.assertEqual(status["error"]["code"], "bad-delta")
        self.assertIn("bytes of the block", status["error"]["where"])

    def test_each_field_at_the_beginning_is_checked(self):
        change = lambda **changes: dataclasses.replace(DELTA, **changes)
        frame = packed(DELTA.header)
        for where, delta in {
                "its mark": change(mark=b"LSDELTA2"), "its base": change(base="0" * 32),
                "its digest": change(digest="0" * 32),
                "bytes of the block": change(bytes=DELTA.bytes + 1),
                "header: bytes": change(header_bytes=len(DELTA.header) + 8),
                "header: bytes ": change(header_bytes=10 ** 10),
                "header": change(header_size=len(frame) + 1),
                "header ": change(header_size=10 ** 10),
                "header  ": change(header_size=len(frame) - 1),
                "header   ": change(header_frame=frame + b"\0"),
                "header: bytes in its frame": change(header_frame=packed(DELTA.header + b" ")),
                "header    ": change(header_frame=frame[:-1] + bytes([frame[-1] ^ 1])),
                "number of chunks": change(num_chunks=(1 << 64) - 1),
                f"chunk {len(DELTA.chunks)}": change(num_chunks=len(DELTA.chunks) + 1),
                "behind the last chunk": change(num_chunks=len(DELTA.chunks) - 1),
                "behind the last chunk ": change(behind=b"\0")}.items():
            with self.subTest(where):
                if where == "header    ":
                    # Without a checksum the last byte of a frame may mean other weights.
                    frame_of = zstandard.ZstdCompressor(write_checksum=True).compress(DELTA.header)
                    delta = change(header_frame=frame_of[:-1] + bytes([frame_of[-1] ^ 1]))
                self.refused("bad-delta", where.rstrip(), delta)

    def test_each_field_of_a_chunk_is_checked(self):
        number = next(i for i, one in enumerate(DELTA.chunks) if 4 < one.changed == one.gap_bytes
                      and i and one.tensor == DELTA.chunks[i - 1].tensor)
        chunk = DELTA.chunks[number]
        total = OLD[PLACES[chunk.tensor]].numel()
        raw = unpacked(chunk.frame)
        gaps, planes = raw[:chunk.gap_bytes], raw[chunk.gap_bytes:]
        largest = (1 << 32) - 1

        def spoilt(gaps, planes, **changes):
            return with_chunk(number, frame=packed(gaps + planes), gap_bytes=len(gaps), **changes)

        # With a checksum, so that its last byte means something.
        checked = zstandard.ZstdCompressor(write_checksum=True).compress(raw)
        mine = f"chunk {number}"
        name = PLACES[chunk.tensor]
        before = DELTA.chunks[number - 1].first
        # By where the fault is found.
        for where, changes in {
                "tensor": [dict(tensor=len(OLD)), dict(tensor=largest)],
                "elements": [dict(elements=0), dict(elements=largest),
                             dict(elements=total + 1)],
                "first element": [dict(elements=total - chunk.first + 1), dict(first=total),
                                  dict(first=(1 << 64) - 1)],
                "changed elements": [dict(changed=0), dict(changed=chunk.elements + 1),
                                     dict(changed=largest)],
                "bytes of gaps": [dict(gap_bytes=chunk.changed - 1), dict(gap_bytes=largest),
                                  dict(gap_bytes=chunk.changed + 1)],
                "a field of zeros": [dict(zero=1), dict(zero=largest)],
                "": [dict(tensor=chunk.tensor - 1, first=0), dict(first=before),
                     dict(first=before + 1), dict(size=largest)],
                "bytes in its frame": [
                    dict(changed=chunk.changed - 1, gap_bytes=chunk.gap_bytes - 1),
                    dict(frame=packed(raw + b"\0")), dict(frame=packed(raw[:-1])),
                    dict(frame=zstandard.ZstdCompressor(write_content_size=False).compress(raw)),
                    dict(frame=struct.pack("<II", 0x184D2A50, len(raw)) + raw)],
        }.items():
            for change in changes:
                with self.subTest(where, **{key: str(value) for key, value in change.items()}):
                    self.refused("bad-delta", f"{mine}: {where}" if where else mine,
                                 with_chunk(number, **change), is_end=True)
        for what, change in {
                "no zstd": dict(frame=raw), "no frame": dict(size=0),
                "a longer frame": dict(size=len(chunk.frame) + 1),
                "a shorter frame": dict(size=len(chunk.frame) - 1)}.items():
            with self.subTest(what):
                self.refused("bad-delta", "chunk ", with_chunk(number, **change))
        for what, delta in {
                "a byte behind the frame": with_chunk(number, frame=chunk.frame + b"\0"),
                "two frames": with_chunk(number, frame=chunk.frame + packed(b"")),
                "a spoilt frame": with_chunk(number, frame=checked[:-1] + bytes([checked[-1] ^ 1])),
                "a gap beyond": spoilt(bytes([254]) + gaps[1:], planes),
                "an open gap": spoilt(gaps[:-1] + b"\xff", planes),
                "a change of nothing": spoilt(
                    gaps, bytes(0 if i % chunk.changed == 1 else byte
                                for i, byte in enumerate(planes))),
                # The same number of bytes, and too few ends.
                "an end too few": spoilt(b"\xff" + gaps[1:], planes)}.items():
            with self.subTest(what):
                self.refused("bad-delta", f"{mine}: {name}", delta, is_end=True)
        # What has the right form, and is another change.
        other = bytes([planes[0] ^ 1]) + planes[1:]
        self.refused("digest-mismatch", PLACES[chunk.tensor], spoilt(gaps, other))

    def test_a_chunk_that_is_missing_or_besides_is_seen(self):
        only = next(i for i, one in enumerate(DELTA.chunks)
                    if [c.tensor for c in DELTA.chunks].count(one.tensor) == 1)
        name = PLACES[DELTA.chunks[only].tensor]
        self.refused("digest-mismatch", name, dataclasses.replace(
            DELTA, chunks=DELTA.chunks[:only] + DELTA.chunks[only + 1:]))
        tensor = next(i for i, name in enumerate(PLACES) if OLD[name].equal(NEW[name]))
        raw = OLD_IMAGE.parts[2 + tensor]
        width = 2 if DTYPES[PLACES[tensor]] == "BF16" else 4
        besides = chunk_of(tensor, 0, raw, bytes([raw[0] ^ 1]) + raw[1:], width)
        chunks = sorted([*DELTA.chunks, besides], key=lambda one: (one.tensor, one.first))
        self.refused("digest-mismatch", PLACES[tensor],
                     dataclasses.replace(DELTA, chunks=chunks))
        self.refused("bad-delta", "chunk 1", dataclasses.replace(DELTA, chunks=DELTA.chunks[::-1]))

    def test_a_header_of_other_tensors_is_refused(self):
        header = DELTA.header
        first = PLACES[1]
        length = header[8:].rstrip()
        for code, other in (
                ("bad-image", header.replace(b"q_norm", b"k_norm")),
                ("bad-image", bytes(8) + header[8:]),
                ("bad-delta", struct.pack("<Q", len(length)) + header[8:]),
                ("digest-mismatch", OLD_IMAGE.parts[0] + OLD_IMAGE.parts[1]),
                ("bad-delta", header.replace(first.encode(), first.upper().encode()))):
            self.refused(code, "the delta", dataclasses.replace(DELTA, header=other))

    def test_an_end_in_the_delta_is_seen(self):
        data = DELTA.to_bytes()
        for share in (0.0, 0.1, 0.5, 0.9):
            with WeightSender(NEW_IMAGE, base=OLD_IMAGE.digest, delta=data,
                              spoil=lambda _, reply: [reply[:int(share * len(reply))]]) as sender:
                status = offer(self.engine, sender.info())
            self.assertEqual(status["error"]["code"], "connection-failed")
            self.assertEqual((status["digest"], status["base"]), (OLD_IMAGE.digest, None))
            self.keep_old()

    def test_random_bytes_never_pass(self):
        """Whatever a delta says, the served weights are the old ones or just the new ones."""
        letters = torch.Generator().manual_seed(SEED)
        draw = lambda below: int(torch.randint(below, (), generator=letters))
        data = DELTA.to_bytes()
        refused = 0
        for i in range(300):
            spoilt = bytearray(data)
            for _ in range(1 + draw(3)):
                if draw(4):
                    spoilt[draw(len(spoilt))] = draw(256)
                else:
                    at, size = draw(len(spoilt)), draw(40)
                    spoilt[at:at + size] = bytes(draw(256) for _ in range(draw(40)))
            with self.subTest(i), self.sender(bytes(spoilt)) as sender:
                status = offer(self.engine, sender.info(delta_bytes=len(spoilt)))
                self.assertEqual(status["digest"], OLD_IMAGE.digest)
                if status["error"] is None:
                    # Some bytes of a frame mean the same.
                    self.engine.finish_weight_update()
                    self.expect_served(NEW, self.engine.status(), NEW_IMAGE)
                else:
                    refused += 1
                    self.assertIn(status["error"]["code"],
                                  ("bad-delta", "digest-mismatch", "bad-image", "bad-safetensors",
                                   "wrong-dtype", "wrong-protocol"))
                    self.assertIsNone(status["base"])
                if self.engine.status()["digest"] != OLD_IMAGE.digest:
                    self.keep_old()
            self.restore()
        self.assertGreater(refused, 250)

    def test_every_length_of_a_short_delta_is_refused(self):
        data = dataclasses.replace(DELTA, chunks=DELTA.chunks[:2]).to_bytes()
        for size in [*range(1, 100), *range(len(data) - 100, len(data))]:
            with self.sender(data[:size]) as sender:
                status = offer(self.engine, sender.info())
            self.assertEqual(status["error"]["code"], "bad-delta", size)
            self.restore()


if __name__ == "__main__":
    unittest.main()
