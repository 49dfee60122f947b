# SPDX-License-Identifier: Apache-2.0
"""A headless Chromium for tests and pictures, driven through its DevTools protocol.

It needs Python's standard library and the program `chromium`, and asks nobody else for anything.
"""
import base64
import contextlib
import json
import os
import pathlib
import shutil
import socket
import struct
import subprocess
import tempfile
import time

# How long a page may take for anything that is asked of it.
DEADLINE_S = 30


def program():
    """The browser's path, or None."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))),
                None)


class Socket:
    """The client's side of a web socket: texts of any length, RFC 6455."""

    def __init__(self, host, port, path):
        self.socket = socket.create_connection((host, port), timeout=DEADLINE_S)
        key = base64.b64encode(os.urandom(16)).decode()
        self.socket.sendall((f"GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\nUpgrade: websocket\r\n"
                             f"Connection: Upgrade\r\nSec-WebSocket-Key: {key}\r\n"
                             "Sec-WebSocket-Version: 13\r\n\r\n").encode())
        self.stream = self.socket.makefile("rb")
        status = self.stream.readline()
        assert b" 101 " in status, status
        while self.stream.readline() not in (b"\r\n", b""):
            pass

    def send(self, text):
        data = text.encode()
        size = len(data)
        head = bytes([0x81])
        if size < 126:
            head += bytes([0x80 | size])
        elif size < 1 << 16:
            head += bytes([0x80 | 126]) + struct.pack(">H", size)
        else:
            head += bytes([0x80 | 127]) + struct.pack(">Q", size)
        # A client masks what it sends; the mask may be zero.
        self.socket.sendall(head + bytes(4) + data)

    def receive(self):
        text = b""
        while True:
            first, second = self.stream.read(2)
            size = second & 127
            if size == 126:
                size, = struct.unpack(">H", self.stream.read(2))
            elif size == 127:
                size, = struct.unpack(">Q", self.stream.read(8))
            text += self.stream.read(size)
            if first & 0x80:
                return text.decode()

    def close(self):
        self.stream.close()
        self.socket.close()


class Page:
    """A tab. Errors of the page's own scripts are kept in `errors`."""

    def __init__(self, channel):
        self.channel = channel
        self.number = 0
        self.errors = []
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method, **parameters):
        self.number += 1
        self.channel.send(json.dumps({"id": self.number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self.channel.receive())
            if message.get("method") == "Runtime.exceptionThrown":
                details = message["params"]["exceptionDetails"]
                self.errors.append(details.get("exception", {}).get("description", str(details)))
            if message.get("method") == "Log.entryAdded":
                entry = message["params"]["entry"]
                if entry["level"] == "error":
                    self.errors.append(f"{entry['text']} {entry.get('url', '')}")
            if message.get("id") == self.number:
                assert "error" not in message, (method, message["error"])
                return message["result"]

    def js(self, expression):
        """The value of an expression, which may be a promise."""
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True,
                           awaitPromise=True)
        assert "exceptionDetails" not in result, (expression, result["exceptionDetails"])
        return result["result"].get("value")

    def wait(self, expression, seconds=DEADLINE_S):
        """Waits until an expression is true."""
        until = time.monotonic() + seconds
        while not self.js(expression):
            assert time.monotonic() < until, f"{expression} is not true after {seconds} s"
            time.sleep(0.02)

    def open(self, address):
        self.call("Page.navigate", url=address)
        self.wait("document.documentElement?.dataset.ready === 'true'")
        # What comes into view is drawn in the next frame.
        self.js("new Promise(r => requestAnimationFrame(() => requestAnimationFrame(r)))")

    def size(self, width, height, phone=False, scale=1):
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, mobile=phone,
                  deviceScaleFactor=scale)

    def dark(self, is_dark):
        value = "dark" if is_dark else "light"
        self.call("Emulation.setEmulatedMedia",
                  features=[{"name": "prefers-color-scheme", "value": value}])

    def picture(self, path, **clip):
        options = {"format": "png"}
        if clip:
            options.update(clip={"scale": 1, **clip}, captureBeyondViewport=True)
        data = self.call("Page.captureScreenshot", **options)["data"]
        pathlib.Path(path).write_bytes(base64.b64decode(data))

    def mouse(self, kind, x, y, **more):
        self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, **more)

    def drag(self, start, end):
        held = {"button": "left", "clickCount": 1}
        self.mouse("mousePressed", *start, **held, buttons=1)
        for share in (0.3, 0.7, 1):
            self.mouse("mouseMoved", *(a + (b - a) * share for a, b in zip(start, end)),
                       button="left", buttons=1)
        self.mouse("mouseReleased", *end, **held)

    def key(self, key):
        text = {"text": key} if len(key) == 1 else {}
        self.call("Input.dispatchKeyEvent", type="keyDown", key=key, code=key, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key, code=key)


@contextlib.contextmanager
def opened():
    """A page of a browser of its own, which ends with it."""
    folder = tempfile.mkdtemp(prefix="lockstep-browser-")
    arguments = [program(), "--headless=new", "--remote-debugging-port=0", "--disable-gpu",
                 "--no-first-run", "--disable-extensions", "--disable-background-networking",
                 "--hide-scrollbars", "--force-color-profile=srgb", "--disable-dev-shm-usage",
                 f"--user-data-dir={folder}", "about:blank"]
    if os.geteuid() == 0:
        arguments.insert(1, "--no-sandbox")
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        port_file = pathlib.Path(folder) / "DevToolsActivePort"
        until = time.monotonic() + DEADLINE_S
        while not port_file.exists() or len(port_file.read_text().split()) < 2:
            assert process.poll() is None, f"the browser ended with {process.returncode}"
            assert time.monotonic() < until, "the browser does not start"
            time.sleep(0.05)
        port = int(port_file.read_text().split()[0])
        import urllib.request
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list", timeout=DEADLINE_S) as f:
            target = next(t for t in json.load(f) if t["type"] == "page")
        path = "/" + target["webSocketDebuggerUrl"].split("/", 3)[3]
        channel = Socket("127.0.0.1", port, path)
        page = Page(channel)
        yield page
        channel.close()
    finally:
        process.terminate()
        process.wait(DEADLINE_S)
        shutil.rmtree(folder, ignore_errors=True)
