# SPDX-License-Identifier: Apache-2.0
"""Sends weights over TCP, as a trainer does (integrations/vllm/README.md), or as none should."""

import json
import secrets
import socket
import threading

PROTOCOL = 1
FIELDS = {"protocol", "token", "weights", "begin", "end"}


class Refusal(Exception):
    """What is wrong with a request: a code, and words."""


def error_line(code, message):
    return json.dumps({"error": {"code": code, "message": message}}).encode() + b"\n"


def end(one):
    try:
        one.shutdown(socket.SHUT_RDWR)
    except OSError:
        # The other side was first.
        pass


class WeightSender:
    """A trainer's side for the time of a `with`.

    image: a WeightImage. delta: the bytes of a delta to it, and `base`, that of its base.
    spoil(request, reply): what is sent in place of `reply`, a list of bytes or of functions that
    are called with the socket. request: the object that has come. The connection is closed behind a
    reply of another length.
    """

    def __init__(self, image, base=None, delta=None, spoil=None):
        self.image, self.base, self.delta, self.spoil = image, base, delta, spoil
        self.block = b"".join(image.parts)
        self.token = secrets.token_hex(16)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.requests, self.connections, self.threads = [], [], []

    def __enter__(self):
        self.threads.append(threading.Thread(target=self.accept))
        self.threads[0].start()
        return self

    def __exit__(self, *_):
        # Then no connection comes any more.
        end(self.listener)
        self.threads[0].join()
        for connection in self.connections:
            end(connection)
        for thread in self.threads:
            thread.join()
        for one in [self.listener, *self.connections]:
            one.close()

    @property
    def digest(self):
        return self.image.digest

    def info(self, **changes):
        info = {"transport": "tcp", "host": "127.0.0.1", "port": self.port, "token": self.token,
                "bytes": self.image.bytes, "digest": self.image.digest}
        if self.delta is not None:
            info |= {"base": self.base, "delta_bytes": len(self.delta)}
        return info | changes

    def accept(self):
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            self.connections.append(connection)
            self.threads.append(threading.Thread(target=self.serve, args=[connection]))
            self.threads[-1].start()

    def serve(self, connection):
        try:
            lines = connection.makefile("rb")
            while line := lines.readline(1024):
                if not self.answer(connection, line):
                    break
        except OSError:
            # The receiver has gone, or the test is over.
            pass
        end(connection)

    def answer(self, connection, line):
        """Whether the connection goes on."""
        try:
            request = json.loads(line)
            data = self.range_of(request)
        except (ValueError, Refusal) as error:
            code, message = error.args if isinstance(error, Refusal) else ("bad-request", "no JSON")
            connection.sendall(error_line(code, message))
            return False
        self.requests.append(request)
        reply = json.dumps({"bytes": len(data)}).encode() + b"\n" + data
        parts = [reply] if self.spoil is None else self.spoil(request, reply)
        for part in parts:
            if callable(part):
                part(connection)
            else:
                connection.sendall(part)
        return sum(len(part) for part in parts if not callable(part)) == len(reply)

    def range_of(self, request):
        is_delta = "base" in request
        if request.keys() != FIELDS | ({"base"} if is_delta else set()):
            raise Refusal("bad-request", f"expected other fields, got {sorted(request)}")
        if request["protocol"] != PROTOCOL:
            raise Refusal("wrong-protocol", f"expected {PROTOCOL}")
        if request["token"] != self.token:
            raise Refusal("wrong-token", "expected another")
        if request["weights"] != self.image.digest or is_delta and request["base"] != self.base:
            raise Refusal("no-such-weights", "expected others")
        data = self.delta if is_delta else self.block
        begin, end = request["begin"], request["end"]
        if not 0 <= begin < end <= len(data):
            raise Refusal("bad-request", f"expected a range of {len(data)} bytes")
        return data[begin:end]
