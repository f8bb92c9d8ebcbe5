"""A real web server on loopback that behaves as each path says: well, badly, or not at all."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = Callable[[BaseHTTPRequestHandler], None]


class WebServer(ThreadingHTTPServer):
    """Answers GET by path.

    Attributes:
        answers: Path to what answers it; 404 for others.
        asked: How often each path was asked for.
        most: Requests answered at a time, at most.
        headers: Of the last request.
        ending: Set when the server is to end; an answer that waits, waits for this.
    """

    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(self, address: str = "127.0.0.1") -> None:
        super().__init__((address, 0), _Handler)
        self.answers: dict[str, Answer] = {}
        self.asked: Counter[str] = Counter()
        self.now = self.most = 0
        self.headers: Mapping[str, str] = {}
        self.lock = threading.Lock()
        self.ending = threading.Event()

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    def url(self, path: str, host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self.port}{path}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is what many tests are about."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: WebServer

    def do_GET(self) -> None:
        server = self.server
        with server.lock:
            server.asked[self.path] += 1
            server.headers = dict(self.headers)
            server.now += 1
            server.most = max(server.most, server.now)
        try:
            server.answers.get(self.path, status(404))(self)
        finally:
            with server.lock:
                server.now -= 1

    def log_message(self, format: str, *arguments: object) -> None:
        pass


@contextmanager
def web_server(address: str = "127.0.0.1") -> Iterator[WebServer]:
    server = WebServer(address)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.ending.set()
        server.shutdown()
        server.server_close()
        thread.join()


def sends(body: bytes, **headers: object) -> Answer:
    """200 with a body; underscores in names of headers stand for dashes."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        told = {name.replace("_", "-"): value for name, value in headers.items()}
        for name, value in {"Content-Length": len(body), **told}.items():
            if value is not None:
                handler.send_header(name, str(value))
        handler.end_headers()
        handler.wfile.write(body)

    return answer


def status(code: int, **headers: object) -> Answer:
    """A status with an empty body."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(code)
        for name, value in {"Content-Length": 0, **headers}.items():
            handler.send_header(name.replace("_", "-"), str(value))
        handler.end_headers()

    return answer


def in_turn(*answers: Answer) -> Answer:
    """Each request gets the next answer, the last one for ever."""
    left = list(answers)

    def answer(handler: BaseHTTPRequestHandler) -> None:
        (left.pop(0) if len(left) > 1 else left[0])(handler)

    return answer


def drips(head: bytes, byte: bytes = b"x", every: float = 0.05) -> Answer:
    """A body without end, a byte at a time."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        handler.wfile.write(head)
        while not handler.server.ending.wait(every):  # type: ignore[attr-defined]
            handler.wfile.write(byte)
        handler.close_connection = True

    return answer


def stalls(handler: BaseHTTPRequestHandler) -> None:
    """No answer at all."""
    handler.server.ending.wait(60)  # type: ignore[attr-defined]
    handler.close_connection = True


def breaks_off(body: bytes, after: int) -> Answer:
    """Says it sends a whole body, and is gone after some bytes of it."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body[:after])
        handler.wfile.flush()
        handler.close_connection = True

    return answer
