"""A web server on loopback that serves files, and misbehaves as it is told."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import re
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass
class Behaviour:
    """Faults of the next answers of the server.

    Attributes
    ----------
    status : int
        Other than 200: the answer has no file.
    headers : mapping
        Added to the answer, or in place of its own; ``None`` leaves one out.
    ranges : bool
        Whether ``Range`` is obeyed.
    always_partial : bool
        Answer 206 even if the version has changed since.
    cut : int or None
        Break off after so many bytes of the body.
    pause_s, pause_at : float, int
        Say nothing for so long after so many bytes.
    body : bytes or None
        Other content.
    rate : float
        Bytes per second; 0 is as fast as it goes.
    """

    status: int = 200
    headers: Mapping[str, str | None] = field(default_factory=dict)
    ranges: bool = True
    always_partial: bool = False
    cut: int | None = None
    pause_s: float = 0.0
    pause_at: int = 0
    body: bytes | None = None
    rate: float = 0.0


class Server:
    """Serves ``files`` (path → content); ``script`` holds the behaviour of the next answers, then ``always``."""

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self.files = dict(files)
        self.script: list[Behaviour] = []
        self.always = Behaviour()
        self.seen: list[tuple[str, dict[str, str]]] = []
        self.address = ""

    @property
    def ranges(self) -> list[str | None]:
        """The Range header of every request."""
        return [headers.get("range") for _, headers in self.seen]


def _handler(server: Server) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.0"  # one connection for each request

        def log_message(self, format: str, *args: object) -> None:
            pass

        def do_GET(self) -> None:
            server.seen.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
            how = server.script.pop(0) if server.script else server.always
            content = server.files.get(self.path) if how.body is None else how.body
            if content is None or how.status != 200:
                self._head(404 if how.status == 200 else how.status, {"Content-Length": "0"}, how)
                return
            tag = f'"{hashlib.sha256(content).hexdigest()[:12]}"'
            start, headers, status = 0, {"ETag": tag, "Content-Type": "application/octet-stream"}, 200
            asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
            if asked and how.ranges and (how.always_partial or self.headers.get("If-Range") == tag):
                start, status = int(asked[1]), 206
                if start >= len(content):
                    self._head(416, {"Content-Range": f"bytes */{len(content)}"}, how)
                    return
                headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            headers["Content-Length"] = str(len(content) - start)
            self._head(status, headers, how)
            with contextlib.suppress(OSError):  # the client went
                self._body(content[start:], how)

        def _head(self, status: int, headers: Mapping[str, str], how: Behaviour) -> None:
            self.send_response(status)
            for name, value in {**headers, **how.headers}.items():
                if value is not None:
                    self.send_header(name, value)
            self.end_headers()

        def _body(self, body: bytes, how: Behaviour) -> None:
            body = body if how.cut is None else body[: how.cut]
            step = max(1, int(how.rate / 20)) if how.rate else 1 << 16
            sent = 0
            while sent < len(body) or how.pause_s:
                if how.pause_s and sent >= how.pause_at:
                    self.wfile.flush()
                    time.sleep(how.pause_s)
                    return
                end = min(sent + step, how.pause_at) if how.pause_s else sent + step
                self.wfile.write(body[sent:end])
                sent = min(end, len(body))
                if how.rate:
                    time.sleep(step / how.rate)

    return Handler


@contextmanager
def serving(files: Mapping[str, bytes]) -> Iterator[Server]:
    """Serve ``files`` until the block ends."""
    server = Server(files)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _handler(server)) as web:
        web.daemon_threads = True
        server.address = f"http://127.0.0.1:{web.server_port}"
        thread = threading.Thread(target=web.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            web.shutdown()
            thread.join()
