"""A web server on this machine that misbehaves as it is told."""

import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest


@dataclass
class Page:
    """A file on the server and its faults; `faults` are used up, one a request."""

    content: bytes
    etag: str = '"one"'
    type: str = "application/octet-stream"
    ranges: bool = True
    length: bool = True
    faults: list = field(default_factory=list)
    requests: list = field(default_factory=list)


@dataclass
class Drop:
    """Close the connection after this many bytes of the answer."""

    after: int


@dataclass
class Status:
    """Answer with nothing but a status."""

    code: int
    headers: dict = field(default_factory=dict)


@dataclass
class Range:
    """Answer with 206 and this Content-Range, whatever was asked."""

    text: str


@dataclass
class Claim:
    """Say another length than the content has."""

    length: int


class Web:
    Drop, Status, Range, Claim = Drop, Status, Range, Claim

    def __init__(self):
        self.pages = {}
        web = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                web.answer(self)

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    def put(self, path, content, **faults):
        self.pages[path] = Page(content, **faults)
        return self.url + path

    def answer(self, handler):
        page = self.pages.get(handler.path)
        if page is None:
            handler.send_error(404)
            return
        page.requests.append(dict(handler.headers))
        fault = page.faults.pop(0) if page.faults else None
        if isinstance(fault, Status):
            handler.send_response(fault.code)
            for name, value in fault.headers.items():
                handler.send_header(name, value)
            handler.send_header("Content-Length", "0")
            handler.end_headers()
            return
        self._send(handler, page, fault)

    def _send(self, handler, page, fault):
        start = self._start(handler, page)
        body, total = page.content[start:], len(page.content)
        if start >= total > 0:
            handler.send_response(416)
            handler.end_headers()
            return
        if start or isinstance(fault, Range):
            handler.send_response(206)
            span = fault.text if isinstance(fault, Range) else f"bytes {start}-{total - 1}/{total}"
            handler.send_header("Content-Range", span)
        else:
            handler.send_response(200)
        handler.send_header("Content-Type", page.type)
        if page.etag:
            handler.send_header("ETag", page.etag)
        if page.length:
            length = fault.length if isinstance(fault, Claim) else len(body)
            handler.send_header("Content-Length", str(length))
        handler.end_headers()
        handler.wfile.write(body[: fault.after] if isinstance(fault, Drop) else body)

    @staticmethod
    def _start(handler, page):
        asked = handler.headers.get("Range")
        same = handler.headers.get("If-Range", page.etag) == page.etag
        if not asked or not page.ranges or not same:
            return 0
        return int(asked.removeprefix("bytes=").partition("-")[0])


@pytest.fixture
def web():
    server = Web()
    yield server
    server.close()
