"""A server of this machine for the files of one folder: as a release gives them out, and as the Hub does."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
"""Of the only revision."""


class Loopback(ThreadingHTTPServer):
    """Serves the files of ``folder``; for the Hub's ``/user/NAME/resolve/REVISION/FILE`` those of ``folder/NAME``."""

    folder: Path
    requests: list[str]
    """Method and path of every request."""

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Answer(BaseHTTPRequestHandler):
    server: Loopback
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        self.server.requests.append(f"{self.command} {path}")
        parts = path.strip("/").split("/")
        file = self.server.folder / (f"{parts[1]}/{parts[-1]}" if "resolve" in parts else parts[-1])
        if not file.is_file():
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound")  # what the Hub says of a file, not of a model
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        with file.open("rb") as content:
            digest = hashlib.file_digest(content, "sha256").hexdigest()
        self.send_response(200)
        self.send_header("ETag", f'"{digest}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", str(file.stat().st_size))
        self.end_headers()
        if self.command == "GET":
            with file.open("rb") as content:
                shutil.copyfileobj(content, self.wfile)

    def do_HEAD(self) -> None:
        self.do_GET()

    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[Loopback]:
    """A server of ``folder`` while inside."""
    with Loopback(("127.0.0.1", 0), _Answer) as server:
        server.daemon_threads = True
        server.folder, server.requests = folder, []
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()
