"""A web server on this machine that sends what a test wants, as badly as the test wants it."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Page:
    """What the server sends for a path.

    Attributes:
        announced: Content-Length; that of the body where it is None, no such header where it is 0.
    """

    body: bytes
    status: int = 200
    announced: int | None = None


@dataclass
class FileServer:
    """Pages by path (any other is 404), and the paths that were asked for."""

    url: str
    pages: dict[str, Page]
    asked: list[str] = field(default_factory=list)


@contextmanager
def serve_files(pages: dict[str, Page]) -> Iterator[FileServer]:
    """Serve `pages`, which may be changed meanwhile."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            server.asked.append(self.path)
            page = server.pages.get(self.path, Page(b"no such page", 404))
            self.send_response(page.status)
            if page.announced != 0:
                self.send_header("Content-Length", str(page.announced or len(page.body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(page.body)

        def do_HEAD(self) -> None:
            self.do_GET()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        server = FileServer(f"http://127.0.0.1:{http.server_port}", pages)
        threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield server
        http.shutdown()


def closed_port() -> int:
    """A port of this machine on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
