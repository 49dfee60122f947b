# SPDX-License-Identifier: Apache-2.0
"""Whole weights over TCP, and trainers that do it wrong: the old weights stay, and the next update
works.
"""

import json
import os
import socket
import struct
import threading
import time
import unittest

import torch
from stand_in import SEED, changed, new_engine, new_tensors, offer, update

from lockstep_vllm import receive
from weight_block import WeightBlock, WeightImage
from weight_sender import WeightSender, error_line

OLD, NEW = new_tensors(1), new_tensors(2)
NAMES = sorted(NEW)
# In the middle of the bytes.
MIDDLE = list(WeightImage(NEW).begins)[len(NEW) // 2]
# A reset in place of an end.
ABORT = struct.pack("ii", 1, 0)


def is_data(request):
    """Whether it is not for the header."""
    return request["begin"] >= WeightImage(NEW).data_begin


def holds(request, name):
    return request["begin"] <= WeightImage(NEW).place(name) < request["end"]


def of_data(spoilt):
    """Spoils what is sent of the tensors."""
    return lambda request, reply: spoilt(request, reply) if is_data(request) else [reply]


def with_header(length=None, text=None):
    """Another header's length, or another header, both as they are sent in the first requests."""
    def spoil(request, reply):
        line, _, data = reply.partition(b"\n")
        if request["begin"] == 0 and length is not None:
            data = length.to_bytes(8, "little")
        if request["begin"] == 8 and text is not None:
            data = text.ljust(len(data))
        return [line + b"\n" + data]
    return spoil


def corrupt(request, reply):
    if not holds(request, MIDDLE):
        return [reply]
    spoilt = bytearray(reply)
    spoilt[len(reply) - (request["end"] - WeightImage(NEW).place(MIDDLE))] ^= 1
    return [bytes(spoilt)]


def reset(connection):
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, ABORT)
    connection.close()


def in_pieces(request, reply):
    """All of it, byte by byte at first, and then with a pause."""
    pieces = [bytes([byte]) for byte in reply[:40]] + [reply[40:100]]
    return pieces + [lambda connection: time.sleep(0.05), reply[100:]]


class Updates(unittest.TestCase):
    def setUp(self):
        self.engine = new_engine()
        with WeightBlock(OLD) as block:
            update(self.engine, block.info())
            self.old_digest = block.digest
        # Several connections, for weights as small as these.
        self.enterContext(changed(receive, PULL_BYTES=2000))

    def expect_served(self, tensors, status, digest):
        self.assertEqual((status["state"], status["digest"], status["error"]),
                         ("serving", digest, None))
        self.assertEqual(self.engine.model.keys(), tensors.keys())
        self.assertTrue(all(self.engine.model[name].equal(tensors[name]) for name in tensors))

    def expect_works(self):
        """An update that is right."""
        image = WeightImage(NEW)
        with WeightSender(image) as sender:
            self.expect_served(NEW, update(self.engine, sender.info()), image.digest)
        self.assertEqual(self.engine.status()["base"], image.digest)

    def expect_refused(self, status, code, where="", then=True):
        self.assertEqual((status["state"], status["digest"], status["staged"]),
                         ("failed", self.old_digest, None), status["error"])
        self.assertEqual(status["error"]["code"], code, status["error"])
        self.assertIn(where, status["error"]["where"])
        self.assertRegex(status["error"]["message"], "^expected .*, got ")
        self.engine.finish_weight_update()
        self.assertTrue(all(self.engine.model[name].equal(OLD[name]) for name in OLD))
        if then:
            self.expect_works()

    def refused(self, code, where="", spoil=None, image=None, **changes):
        """The update of a sender that does something wrong is refused, and a right one works."""
        with WeightSender(image or WeightImage(NEW), spoil=spoil) as sender:
            status = offer(self.engine, sender.info(**changes))
            self.expect_refused(status, code, where.replace("PORT", str(sender.port)), then=False)
        self.expect_works()
        # For the next fault of the same test.
        with WeightBlock(OLD) as block:
            update(self.engine, block.info())

    def test_whole_weights_arrive_over_several_connections_each_byte_once(self):
        self.assertEqual(self.engine.status()["transports"], ["shm", "tcp"])
        self.assertIsNone(self.engine.status()["base"])
        image = WeightImage(NEW)
        with WeightSender(image) as sender:
            staged = offer(self.engine, sender.info(version="step-3"))
            self.assertEqual((staged["state"], staged["staged"]), ("staged", image.digest))
            self.assertEqual((staged["digest"], staged["version"]), (self.old_digest, None))
            self.engine.finish_weight_update()
            status = self.engine.status()
            self.expect_served(NEW, status, image.digest)
            self.assertEqual(status["version"], "step-3")
            ranges = sorted((one["begin"], one["end"]) for one in sender.requests)
            # One for the header, and four, of which the sender may not have seen the last yet.
            end = time.monotonic() + 5
            while len(sender.connections) < 5 and time.monotonic() < end:
                time.sleep(0.01)
            self.assertEqual(len(sender.connections), 5)
        self.assertEqual([0, *(end for _, end in ranges)],
                         [*(begin for begin, _ in ranges), image.bytes])

    def test_the_memory_is_used_again(self):
        self.expect_works()
        memory, mapping = self.engine.kept.memory, self.engine.kept.memory.mapping
        for tensors in (OLD, NEW, OLD):
            with WeightSender(WeightImage(tensors)) as sender:
                self.expect_served(tensors, update(self.engine, sender.info()),
                                   sender.image.digest)
        self.assertIs(self.engine.kept.memory, memory)
        self.assertIs(memory.mapping, mapping)

    def test_memory_that_the_model_still_shows_is_not_used_again(self):
        shown = []

        def keep(tensors):
            for name, tensor in tensors:
                shown.append((name, tensor))
                yield name, tensor

        self.engine.model.fault = keep
        with WeightSender(WeightImage(NEW)) as sender:
            update(self.engine, sender.info())
        del self.engine.model.fault
        self.assertIsNone(self.engine.status()["base"])
        with WeightSender(WeightImage(OLD)) as sender:
            self.expect_served(OLD, update(self.engine, sender.info()), sender.image.digest)
        self.assertTrue(all(tensor.equal(NEW[name]) for name, tensor in shown))

    def test_a_slow_trainer_is_waited_for(self):
        with WeightSender(WeightImage(NEW), spoil=in_pieces) as sender:
            self.expect_served(NEW, update(self.engine, sender.info()), sender.image.digest)

    def test_update_info_is_checked(self):
        with WeightSender(WeightImage(NEW)) as sender:
            for field, values in {
                    "host": (None, 1, "", "a b", "x" * 254, "a\n", "é"),
                    "port": (None, 0, -1, 65536, "80", 80.0, True),
                    "token": (None, 7, "", "A" * 32, "0" * 31, "0" * 33, "0" * 32 + "\n"),
                    "bytes": (None, 0, -1, "1", 1.5, True),
                    "digest": (None, 1, "0" * 31, "G" * 32),
                    "base": ("0" * 32, 1), "delta_bytes": (5, "x"), "name": ("lockstep-",),
                    "version": (1,), "more": (1,)}.items():
                for value in values:
                    status = offer(self.engine, sender.info(**{field: value}))
                    self.expect_refused(status, "bad-request", then=False)
            for base, size in (("0" * 31, 5), (7, 5), ("0" * 32, 0), ("0" * 32, True)):
                status = offer(self.engine, sender.info(base=base, delta_bytes=size))
                self.expect_refused(status, "bad-request", then=False)
            for transport in (None, "udp", 1, ["tcp"]):
                status = offer(self.engine, sender.info(transport=transport))
                self.expect_refused(status, "unknown-transport", then=False)
            self.assertEqual(sender.requests, [])
        self.assertIsNone(self.engine.kept.memory)
        with WeightBlock(NEW) as block:
            status = offer(self.engine, block.info(host="127.0.0.1"))
            self.expect_refused(status, "bad-request")

    def test_bytes_beyond_the_model_take_no_memory(self):
        size = sum(4 * value.numel() for value in NEW.values()) + 100_000_000
        with WeightSender(WeightImage(NEW)) as sender:
            for bytes_ in (size + 1, 10 ** 12, 10 ** 30):
                self.expect_refused(offer(self.engine, sender.info(bytes=bytes_)), "too-large",
                                    "bytes", then=False)
            self.assertEqual(sender.requests, [])
            # So many may be; but the block has fewer.
            self.expect_refused(offer(self.engine, sender.info(bytes=size)), "bad-safetensors",
                                then=False)
            self.assertEqual(len(sender.requests), 2)
        self.assertIsNone(self.engine.kept.memory)

    def test_strangers_and_other_weights_are_refused_by_the_trainer(self):
        self.refused("wrong-token", "127.0.0.1:PORT", token="0" * 32)
        self.refused("no-such-weights", "127.0.0.1:PORT", digest="0" * 32)

    def test_a_trainer_that_is_not_there_is_seen(self):
        with socket.create_server(("127.0.0.1", 0)) as one:
            port = one.getsockname()[1]
        begin = time.monotonic()
        self.refused("connection-failed", f"127.0.0.1:{port}", port=port)
        self.refused("connection-failed", "no-such-host.invalid", host="no-such-host.invalid")
        self.refused("connection-failed", host="a" * 64)
        self.assertLess(time.monotonic() - begin, 20)

    def test_a_header_that_is_wrong_takes_no_memory_and_leaves_what_is_kept(self):
        self.expect_works()
        with WeightBlock(OLD) as block:
            update(self.engine, block.info())
        base = self.engine.status()["base"]
        part = NAMES[len(NAMES) // 2]
        without = {name: value for name, value in NEW.items() if name != part}
        first, second = NAMES[:2]

        def overlap(header):
            header[second]["data_offsets"] = [at - 2 for at in header[second]["data_offsets"]]

        text = WeightImage(NEW).parts[1]
        double = text.replace(f'"{second}"'.encode(), f'"{first}"'.encode(), 1)
        for code, where, image, spoil in (
                ("missing-tensor", part, WeightImage(without), None),
                ("unknown-tensor", "model.other.weight",
                 WeightImage(NEW | {"model.other.weight": NEW[part]}), None),
                ("wrong-shape", part, WeightImage(NEW | {part: NEW[part][:-1]}), None),
                ("wrong-dtype", part, WeightImage(NEW | {part: NEW[part].double()}), None),
                ("wrong-protocol", "", WeightImage(NEW, protocol=2), None),
                ("bad-safetensors", second, WeightImage(NEW, change=overlap), None),
                ("bad-safetensors", "", None, with_header(length=10_000_000_000)),
                ("bad-safetensors", "", None, with_header(length=(1 << 64) - 1)),
                ("bad-image", "", None, with_header(length=0)),
                ("bad-image", "", None, with_header(text=double)),
                ("bad-image", "", None, with_header(text=b"{")),
                ("bad-image", "", None, with_header(text=b"[" * 1000)),
                # What the trainer says of each tensor is not what it says of all.
                ("digest-mismatch", "", None, with_header(text=WeightImage(OLD).parts[1]))):
            with self.subTest(code, where=where):
                with WeightSender(image or WeightImage(NEW), spoil=spoil) as sender:
                    status = offer(self.engine, sender.info())
                    self.expect_refused(status, code, where, then=False)
                    self.assertFalse(any(is_data(one) for one in sender.requests))
                self.assertEqual(self.engine.status()["base"], base)
        self.expect_works()

    def test_another_byte_is_found_in_its_tensor(self):
        self.refused("digest-mismatch", f"127.0.0.1:PORT: {MIDDLE}", spoil=corrupt)

    def test_what_breaks_off_is_seen_at_once(self):
        begin = time.monotonic()
        for code, spoil in {
                "an end in a tensor": ("connection-failed",
                                       of_data(lambda _, r: [r[:len(r) // 2]])),
                "an end before the line": ("connection-failed", of_data(lambda *_: [b""])),
                "an end in the line": ("connection-failed", of_data(lambda _, r: [r[:5]])),
                "a byte too few": ("connection-failed", of_data(lambda _, r: [r[:-1]])),
                "a reset": ("connection-failed", of_data(lambda _, r: [r[:900], reset])),
                "an end in the header": ("connection-failed", lambda _, r: [r[:-3]]),
        }.values():
            self.refused(code, "127.0.0.1:PORT", spoil=spoil)
        self.assertLess(time.monotonic() - begin, 20)

    def test_a_trainer_that_hangs_is_given_up(self):
        release = threading.Event()
        self.addCleanup(release.set)
        hang = lambda connection: release.wait(20)
        with changed(receive, SILENCE_SECONDS=0.3):
            for spoil in (of_data(lambda _, r: [r[:len(r) // 2], hang]),
                          of_data(lambda _, r: [hang]), lambda _, r: [r[:4], hang]):
                release.clear()
                begin = time.monotonic()
                with WeightSender(WeightImage(NEW), spoil=spoil) as sender:
                    status = offer(self.engine, sender.info())
                    took = time.monotonic() - begin
                    release.set()
                self.expect_refused(status, "deadline", f"127.0.0.1:{sender.port}", then=False)
                self.assertLess(took, 5)
        self.expect_works()

    def test_one_that_hangs_does_not_hide_another_error(self):
        """The connections that wait are ended with the first error."""
        release = threading.Event()
        self.addCleanup(release.set)

        def spoil(request, reply):
            if holds(request, MIDDLE):
                time.sleep(0.2)
                return corrupt(request, reply)
            return [reply[:-1], lambda connection: release.wait(25)]

        begin = time.monotonic()
        with WeightSender(WeightImage(NEW), spoil=of_data(spoil)) as sender:
            status = offer(self.engine, sender.info())
            took = time.monotonic() - begin
            release.set()
        self.expect_refused(status, "digest-mismatch", MIDDLE)
        self.assertLess(took, 10)

    def test_answers_that_mean_nothing_are_refused(self):
        line = lambda value: lambda *_: [json.dumps(value).encode() + b"\n"]
        for spoil in (line({"bytes": 7}), line({"bytes": 8.0}), line({"bytes": True}), line([]),
                      line({"bytes": 8, "more": 1}), line(None), line({"error": "no"}),
                      line({"error": {"code": "other", "message": "x"}}),
                      line({"error": {"code": ["wrong-token"]}}),
                      lambda *_: [b"HTTP/1.1 400 Bad Request\r\n\r\n"], lambda *_: [b"\n"],
                      lambda *_: [b"[" * 1023 + b"\n"], lambda *_: [b"x" * 5000],
                      lambda *_: [b"\xff\xfe\n"]):
            self.refused("bad-answer", "127.0.0.1:PORT", spoil=spoil)
        for code in receive.TRAINER_CODES:
            self.refused(code, spoil=lambda *_: [error_line(code, "no\ud800")])

    def test_random_cuts_and_bytes_are_seen(self):
        letters = torch.Generator().manual_seed(SEED)
        draw = lambda below: int(torch.randint(below, (), generator=letters))
        image = WeightImage(NEW)
        for _ in range(60):
            victim, at, is_cut = draw(image.bytes), draw(1 << 30), draw(2)

            def spoil(request, reply):
                place = at % len(reply)
                if not request["begin"] <= victim < request["end"]:
                    return [reply]
                if is_cut:
                    return [reply[:place]]
                return [reply[:place] + bytes([reply[place] ^ (1 << at % 8)]) + reply[place + 1:]]

            with WeightSender(image, spoil=spoil) as sender, changed(receive, SILENCE_SECONDS=2):
                status = update(self.engine, sender.info())
            # Some bytes mean nothing: spaces in a line, or at the end of the header.
            served = OLD if is_cut or status["error"] else NEW
            self.assertEqual(status["digest"], WeightImage(served).digest)
            self.assertTrue(all(self.engine.model[name].equal(served[name]) for name in served))
            with WeightBlock(OLD) as block:
                update(self.engine, block.info())
        self.expect_works()

    def test_a_load_that_breaks_off_is_a_mixture_until_weights_come_again(self):
        def broken(tensors):
            for i, one in enumerate(tensors):
                if i == 5:
                    raise RuntimeError("broken off")
                yield one

        for _ in range(2):
            self.engine.model.fault = broken
            with WeightSender(WeightImage(OLD)) as sender:
                status = update(self.engine, sender.info())
            del self.engine.model.fault
            self.assertEqual((status["state"], status["digest"]), ("poisoned", None))
            with WeightSender(WeightImage(NEW), spoil=corrupt) as sender:
                status = update(self.engine, sender.info())
            # Refused, and the weights are a mixture as before.
            self.assertEqual((status["state"], status["error"]["code"]),
                             ("poisoned", "digest-mismatch"))
            self.expect_works()

    def test_what_is_staged_is_dropped_with_its_trainer(self):
        with WeightSender(WeightImage(NEW)) as sender:
            for drop in (self.engine.reset, self.engine.start_weight_update,
                         lambda: self.engine.init_transfer_engine(
                             self.engine.parse_init_info({"session": "another"}))):
                offer(self.engine, sender.info())
                drop()
                self.engine.finish_weight_update()
                status = self.engine.status()
                self.assertEqual((status["digest"], status["staged"]), (self.old_digest, None))
                self.assertIn(status["error"]["code"], ("nothing-staged", "no-update"))
        self.expect_works()

    def test_no_thread_and_no_file_is_left(self):
        self.expect_works()
        with WeightBlock(OLD) as block:
            update(self.engine, block.info())
        before = len(os.listdir("/proc/self/fd")), threading.active_count()
        for spoil in (None, corrupt, of_data(lambda _, reply: [reply[:-1]])):
            for _ in range(5):
                with WeightSender(WeightImage(NEW), spoil=spoil) as sender:
                    update(self.engine, sender.info())
        self.assertEqual((len(os.listdir("/proc/self/fd")), threading.active_count()), before)


if __name__ == "__main__":
    unittest.main()
