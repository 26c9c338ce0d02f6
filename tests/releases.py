"""A release of published weights on a server of this machine, which can be told to misbehave."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import io
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch

from bcos_vit import ViT, create_model
from bcos_vit.models import download
from bcos_vit.models.weights import to_published
from bcos_vit.models.zoo import CARDS, Card
from toys import NAME, toy, toy_spec

CLASSES = tuple("abcde")
SIZES = {"width": 64, "mlp_width": 2048}
"""Of a toy whose file takes several chunks of a download."""


@functools.cache
def published(**overrides: Any) -> bytes:
    """The file of a published toy."""
    return saved(to_published(toy(NAME, **overrides)))


def saved(content: Any, **options: Any) -> bytes:
    """What ``torch.save`` writes."""
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


def publish(
    monkeypatch: pytest.MonkeyPatch,
    content: bytes,
    source: str = "http://127.0.0.1:1",
    *,
    digits: int = 10,
    file: str | None = None,
    **overrides: Any,
) -> Card:
    """Make ``content`` the file of the card of ``NAME``, whose spec is that of the toy."""
    prefix = hashlib.sha256(content).hexdigest()[:digits]
    named = {"file": file or f"{NAME}-{prefix}.pth", "sha256_prefix": prefix, "source": source}
    card = dataclasses.replace(CARDS[NAME], spec=toy_spec(NAME, **overrides), class_names=CLASSES, **named)
    monkeypatch.setitem(CARDS, NAME, card)
    for variable in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "BCOS_VIT_MIRROR", "BCOS_VIT_CACHE"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(download, "WAITS", (0.01, 0.01))
    monkeypatch.setattr(download, "TIMEOUT", 0.5)
    return card


def fetch(cache: Path | None, **options: Any) -> ViT:
    """The entry that is tested, with the network allowed."""
    return create_model(NAME, pretrained=True, cache_dir=cache, **({"offline": False} | options))


def same(model: ViT, **overrides: Any) -> bool:
    """Whether ``model`` is the toy that was published, with what its card says."""
    right = toy(NAME, **overrides)
    state = model.state_dict()
    equal = all(torch.equal(state[key], tensor) for key, tensor in right.state_dict().items())
    card = CARDS[NAME]
    whole = len(model.about["sha256"]) == 64 and model.about["sha256"].startswith(str(card.sha256_prefix))
    return equal and model.spec == right.spec and model.class_names == CLASSES and whole


def names(folder: Path) -> set[str]:
    """What lies in ``folder``, but for the lock."""
    return {path.name for path in folder.iterdir() if path.suffix != ".lock"} if folder.is_dir() else set()


# --- the server ---

Act = Callable[["Answer"], None]


class Server(ThreadingHTTPServer):
    """Answers the first request as the first act says, and so on; the last act answers all further ones."""

    daemon_threads = True

    def __init__(self, content: bytes, *acts: Act) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.content, self.acts = content, acts or (whole,)
        self.asked: list[str | None] = []
        """The Range of every request."""
        self.sent: list[int] = []
        """The bytes that every answer has sent."""
        self.paths: list[str] = []
        self.reached, self.closing = threading.Event(), threading.Event()
        self.address = f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, *_: Any) -> None:
        """Clients that are killed, or have had enough, are no news."""


class Answer(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server = self.server
        number = len(server.asked)
        server.asked.append(self.headers.get("Range"))
        server.paths.append(self.path)
        server.sent.append(0)
        self.number = number
        server.acts[min(number, len(server.acts) - 1)](self)

    def begin(self, code: int, reason: str | None = None, **headers: object) -> None:
        self.send_response(code, reason)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()

    def give(self, data: bytes) -> None:
        self.wfile.write(data)
        self.server.sent[self.number] += len(data)

    def log_message(self, *_: Any) -> None:
        pass

    @property
    def start(self) -> int:
        """The first byte that is asked for."""
        asked = self.server.asked[self.number]
        return int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0


@contextlib.contextmanager
def serving(content: bytes, *acts: Act) -> Iterator[Server]:
    with Server(content, *acts) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield server
        server.closing.set()
        server.shutdown()


# --- what it may do ---


def _head(answer: Answer) -> bytes:
    """Begin an answer to what was asked for, and return it."""
    content, start = answer.server.content, answer.start
    if start >= len(content):
        answer.begin(416, Content_Range=f"bytes */{len(content)}")
        return b""
    ranged = {"Content_Range": f"bytes {start}-{len(content) - 1}/{len(content)}"} if start else {}
    answer.begin(206 if start else 200, Content_Length=len(content) - start, **ranged)
    return content[start:]


def whole(answer: Answer) -> None:
    """What a good server does, ranges included."""
    answer.give(_head(answer))


def cut(at: int) -> Act:
    """Break off after so many bytes of what was asked for."""
    return lambda answer: answer.give(_head(answer)[:at])


def stall(at: int) -> Act:
    """Fall silent after so many bytes."""

    def act(answer: Answer) -> None:
        answer.give(_head(answer)[:at])
        answer.wfile.flush()
        answer.server.reached.set()
        answer.server.closing.wait(60)

    return act


def slow(seconds: float) -> Act:
    """Be good, but not at once."""

    def act(answer: Answer) -> None:
        answer.server.closing.wait(seconds)
        whole(answer)

    return act


def says(code: int, reason: str | None = None, **headers: object) -> Act:
    return lambda answer: answer.begin(code, reason, **({"Content_Length": 0} | headers))


def gives(body: bytes | None = None, *, code: int = 200, **headers: object) -> Act:
    """Send ``body`` (None: the file), whatever was asked for, under these headers alone."""

    def act(answer: Answer) -> None:
        answer.begin(code, **headers)
        answer.give(answer.server.content if body is None else body)

    return act


def chunked(at: int | None = None) -> Act:
    """Send the file in chunks, without its length; break off after ``at`` bytes."""

    def act(answer: Answer) -> None:
        answer.protocol_version = "HTTP/1.1"
        answer.close_connection = True
        answer.begin(200, Transfer_Encoding="chunked", Connection="close")
        for start in range(0, len(answer.server.content) if at is None else at, 1000):
            part = answer.server.content[start : start + 1000]
            answer.give(b"%x\r\n%b\r\n" % (len(part), part))
        if at is None:
            answer.give(b"0\r\n\r\n")

    return act


def endless(answer: Answer) -> None:
    answer.begin(200)
    with contextlib.suppress(OSError):
        while not answer.server.closing.is_set():
            answer.give(bytes(2**16))
