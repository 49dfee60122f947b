# SPDX-License-Identifier: Apache-2.0
"""An HTTP client for measuring servers. It keeps what arrives with the time of its arrival and
reads it afterwards, so that it takes little of the processors that the server computes with."""

import asyncio
import http.client
import io
import json
import time
import urllib.parse


class Answer:
    """A finished request: its status, the objects that came, and when."""

    def __init__(self, start, pieces):
        self.start = start
        self.pieces = pieces
        self.is_cut = False

    def read(self):
        """Takes the bytes apart, once; (time, object) for each event of a stream, or for the
        body."""
        self.status, headers, body = parse_head(b"".join(data for _, data in self.pieces))
        total = sum(len(data) for _, data in self.pieces)
        is_chunked = headers.get("transfer-encoding", "").lower() == "chunked"
        self.events = []
        ends = self.end_times(total - len(body))
        if "text/event-stream" not in headers.get("content-type", ""):
            plain = dechunk(body)[0] if is_chunked else body
            self.events = [(self.pieces[-1][0], json.loads(plain))] if plain else []
            return self
        plain, places = dechunk(body) if is_chunked else (body, None)
        position = 0
        for line in plain.split(b"\n\n"):
            position += len(line) + 2
            if line.startswith(b"data: ") and line != b"data: [DONE]":
                raw = places(position - 1) if places else position
                self.events.append((ends(raw), json.loads(line[6:])))
        self.is_whole = plain.rstrip().endswith(b"data: [DONE]")
        return self

    def end_times(self, head_bytes):
        """A function from a place in the body to the time of its arrival."""
        marks, seen = [], -head_bytes
        for when, data in self.pieces:
            seen += len(data)
            marks.append((seen, when))

        def time_of(place):
            while len(marks) > 1 and marks[0][0] < place:
                marks.pop(0)
            return marks[0][1]

        return time_of

    def choices(self):
        """For each choice its token ids and log-probabilities, and the times of its chunks."""
        found = {}
        for when, body in self.events:
            for choice in body.get("choices", []):
                entry = found.setdefault(choice["index"], {"ids": [], "logprobs": [], "times": [],
                                                           "finish": None})
                entry["ids"] += choice.get("token_ids") or []
                entry["logprobs"] += (choice.get("logprobs") or {}).get("token_logprobs") or []
                entry["times"].append(when)
                entry["finish"] = choice.get("finish_reason") or entry["finish"]
        return [found[index] for index in sorted(found)]


def parse_head(data):
    head, _, body = data.partition(b"\r\n\r\n")
    status, *lines = head.split(b"\r\n")
    headers = http.client.parse_headers(io.BytesIO(b"\r\n".join(lines) + b"\r\n\r\n"))
    return int(status.split()[1]), {k.lower(): v for k, v in headers.items()}, body


def dechunk(body):
    """The body without its chunks' sizes, and a function from a place in it to one in `body`."""
    out, starts, position = [], [], 0
    length = 0
    while position < len(body):
        end = body.find(b"\r\n", position)
        size = int(body[position:end].split(b";")[0] or b"0", 16) if end > 0 else 0
        if size == 0:
            break
        starts.append((length, end + 2))
        out.append(body[end + 2:end + 2 + size])
        length += size
        position = end + 2 + size + 2

    def place(i):
        while len(starts) > 1 and starts[1][0] <= i:
            starts.pop(0)
        return starts[0][1] + i - starts[0][0] if starts else i

    return b"".join(out), place


class Connection(asyncio.Protocol):
    def __init__(self, request, done):
        self.request, self.done, self.pieces = request, done, []

    def connection_made(self, transport):
        self.transport = transport
        transport.write(self.request)

    def data_received(self, data):
        self.pieces.append((time.perf_counter(), data))

    def connection_lost(self, error):
        if not self.done.done():
            self.done.set_result(None)


async def ask(url, path, body, cut_after=None, timeout=600):
    """Posts a request and waits for all of the answer, or leaves after `cut_after` seconds."""
    parts = urllib.parse.urlsplit(url)
    text = json.dumps(body).encode()
    request = (f"POST {path} HTTP/1.1\r\nHost: {parts.netloc}\r\nConnection: close\r\n"
               f"Content-Type: application/json\r\nContent-Length: {len(text)}\r\n\r\n").encode()
    loop = asyncio.get_running_loop()
    done, start = loop.create_future(), time.perf_counter()
    _, connection = await loop.create_connection(lambda: Connection(request + text, done),
                                                 parts.hostname, parts.port)
    answer = Answer(start, connection.pieces)
    try:
        await asyncio.wait_for(asyncio.shield(done), cut_after or timeout)
    except asyncio.TimeoutError:
        if cut_after is None:
            raise
        answer.is_cut = True
        connection.transport.abort()
    return answer


def ask_together(url, path, bodies):
    """Sends all at once; the answers, read."""
    async def all_of_them():
        return await asyncio.gather(*(ask(url, path, body) for body in bodies))

    answers = [answer.read() for answer in asyncio.run(all_of_them())]
    for answer in answers:
        if answer.status != 200:
            raise RuntimeError(f"{path}: {answer.status}: {answer.events}")
    return answers


def call(url, method, path, body=None, timeout=120):
    """One request without a stream: status and text."""
    parts = urllib.parse.urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=timeout)
    try:
        connection.request(method, path, None if body is None else json.dumps(body),
                           {"Content-Type": "application/json"})
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def metrics_of(url):
    """Name to value; the series of one name are added up."""
    values = {}
    for line in call(url, "GET", "/metrics")[1].splitlines():
        if line and not line.startswith("#"):
            name, _, value = line.rpartition(" ")
            name = name.partition("{")[0]
            values[name] = values.get(name, 0.0) + float(value)
    return values
