"""Downloads from servers that do not do what they should: whole or in a sentence, and nothing broken is kept."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from bcos_vit.models import download
from releases import (
    SIZES,
    chunked,
    cut,
    endless,
    fetch,
    gives,
    names,
    publish,
    published,
    same,
    saved,
    says,
    serving,
    stall,
    whole,
)
from toys import NAME

FILE = published()
HALF = len(FILE) // 2
JUNK = bytes(range(256)) * 20


def kept(file: str) -> set[str]:
    """What a cache holds after a download."""
    stem = file.removesuffix(".pth")
    return {file, f"{file}.sha256", f"{stem}.safetensors", f"{stem}.json"}


# --- whole ---


@pytest.mark.parametrize(
    ("acts", "asked"),
    [
        ([whole], [None]),
        ([cut(HALF), whole], [None, f"bytes={HALF}-"]),
        ([cut(1), cut(1000), whole], [None, "bytes=1-", "bytes=1001-"]),
        ([cut(0), whole], [None, None]),
        ([cut(len(FILE) - 1), whole], [None, f"bytes={len(FILE) - 1}-"]),
        *(([says(code), whole], [None, None]) for code in (408, 425, 429, 500, 502, 503, 504)),
        ([says(503), cut(HALF), whole], [None, None, f"bytes={HALF}-"]),
        ([stall(0), whole], [None, None]),
        ([cut(HALF), stall(0), whole], [None, f"bytes={HALF}-", f"bytes={HALF}-"]),
        ([cut(HALF), gives()], [None, f"bytes={HALF}-"]),
        ([cut(HALF), gives(Content_Length=len(FILE))], [None, f"bytes={HALF}-"]),
        ([gives(Content_Length=len(FILE) + 7)], [None]),
        ([gives()], [None]),
        ([gives(Content_Length="soon")], [None]),
        ([chunked()], [None]),
        ([chunked(1000), whole], [None, None]),
        ([says(302, Location="/elsewhere"), whole], [None, None]),
        ([says(307, Location="/elsewhere"), whole], [None, None]),
    ],
    ids=[
        *("good", "cut", "cut-twice", "cut-at-once", "cut-before-its-end"),
        *(str(code) for code in (408, 425, 429, 500, 502, 503, 504)),
        *("503-and-cut", "silent", "cut-and-silent", "no-ranges", "no-ranges-but-a-length", "length-too-large"),
        *("no-length", "length-is-no-number", "chunked", "chunked-and-cut", "302", "307"),
    ],
)
def test_it_ends_whole(acts: list, asked: list, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(FILE, *acts) as server:
        card = publish(monkeypatch, FILE, server.address)
        assert same(fetch(tmp_path))
    assert [found and found for found in server.asked] == asked
    assert server.paths[0] == f"/{card.file}"
    assert names(tmp_path) == kept(str(card.file))
    assert (tmp_path / str(card.file)).read_bytes() == FILE


def test_the_rest_alone_is_transferred(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = published(**SIZES)
    with serving(content, cut(600_000), whole) as server:
        publish(monkeypatch, content, server.address, **SIZES)
        monkeypatch.setattr(download, "WAITS", ())
        with pytest.raises(OSError, match=f"the transfer was cut after 600,000 of {len(content):,} bytes"):
            fetch(tmp_path)
        assert next(path for path in tmp_path.glob("*.partial")).stat().st_size == 600_000
        assert same(fetch(tmp_path), **SIZES)
    assert server.asked == [None, "bytes=600000-"]
    assert server.sent == [600_000, len(content) - 600_000]
    assert not list(tmp_path.glob("*.partial"))


@pytest.mark.parametrize(
    "acts",
    [[whole], [gives()], [gives(JUNK, code=206, Content_Range="bytes 7-99/100"), whole], [says(416), whole]],
    ids=["ranges", "no-ranges", "another-range", "416"],
)
@pytest.mark.parametrize(
    "there",
    [JUNK[:1000], JUNK * 9, FILE + JUNK, FILE[:HALF], FILE],
    ids=["other-bytes", "other-bytes-and-more", "too-much", "half", "whole"],
)
def test_whatever_lies_there_unfinished(
    acts: list, there: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(FILE, *acts) as server:
        card = publish(monkeypatch, FILE, server.address)
        (tmp_path / f"{card.file}.partial").write_bytes(there)
        assert same(fetch(tmp_path))
    assert server.asked[0] == f"bytes={len(there)}-"
    assert names(tmp_path) == kept(str(card.file))


# --- or in one sentence ---


OTHER = saved({"another": 1})
SENTENCES = {
    "404": ([says(404)], "it answers 404 Not Found", 1),
    "403": ([says(403)], "it answers 403 Forbidden", 1),
    "503-for-ever": ([says(503)], "asked 3 times in vain, at last: it answers 503 Service Unavailable", 3),
    "silent-for-ever": ([stall(0)], "asked 3 times in vain, at last: .*timed out", 3),
    "silent-after-half": ([stall(HALF)], "asked 3 times in vain, at last: .*timed out", 3),
    "cut-for-ever": (
        [cut(0)],
        f"asked 3 times in vain, at last: the transfer was cut after 0 of {len(FILE):,} bytes",
        3,
    ),
    "no-http": (
        [lambda answer: answer.give(b"SSH-2.0-OpenSSH_9.2\r\n")],
        "asked 3 times in vain, at last: .*SSH-2.0",
        3,
    ),
    "hung-up": ([lambda answer: None], "asked 3 times in vain, at last: Remote end closed", 3),
    "another-file": ([gives(OTHER)], "it is another file: its SHA-256 starts with", 1),
    "page": ([gives(b"<html>", Content_Length=6)], "it is another file: its SHA-256 starts with", 1),
    "nothing": ([gives(b"", Content_Length=0)], "it is another file: its SHA-256 starts with e3b0c44298", 1),
    "too-much": ([gives(FILE + JUNK)], "it is another file: its SHA-256 starts with", 1),
    "too-much-and-says-so": ([gives(FILE + b"\0", Content_Length=len(FILE) + 1)], "it is another file", 1),
    "length-too-small": ([gives(Content_Length=HALF)], "it is another file", 1),
    "no-length-and-cut": ([gives(FILE[:HALF])], "it is another file", 1),
    "cut-then-416": ([cut(HALF), says(416)], "it is another file", 2),
    "cut-then-another-range": ([cut(HALF), gives(JUNK, code=206, Content_Range="bytes 0-9/10")], "another file", 2),
    "cut-then-another-file": ([cut(HALF), gives(JUNK, code=206, Content_Range=f"bytes {HALF}-")], "another file", 2),
    "endless": ([endless], "it is another file: it has more than 1,[0-9,]+ bytes", 1),
    "redirected-in-a-circle": ([says(302, Location="/again")], "it answers 302", None),
    "redirected-to-a-file": ([says(302, Location="file:///etc/passwd")], "it answers 302", 1),
    "length-of-400-digits": ([gives(FILE[:HALF], Content_Length="9" * 400)], "cannot be fetched", None),
    "length-of-5000-digits": ([gives(FILE[:HALF], Content_Length="9" * 5000)], "cannot be fetched", None),
    "reason-for-the-terminal": ([says(404, "\x1b[31mred")], "it answers 404", 1),
}


@pytest.mark.parametrize("case", SENTENCES)
def test_or_in_a_sentence(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    acts, sentence, requests = SENTENCES[case]
    with serving(FILE, *acts) as server:
        card = publish(monkeypatch, FILE, server.address)
        with pytest.raises(OSError, match=sentence) as found:
            fetch(tmp_path)
    text = str(found.value)
    assert text.startswith(f"the weights of {NAME} cannot be fetched from {server.address}/{card.file}: ")
    assert f"put it into {tmp_path}, or name a mirror with BCOS_VIT_MIRROR" in text
    assert text.isprintable()  # one line, and none for the terminal
    assert len(text) < 1000
    if requests is not None:
        assert len(server.asked) == requests
    assert names(tmp_path) <= {f"{card.file}.partial"}
    if "another file" in sentence:
        assert names(tmp_path) == set()  # what is of no use does not stay
    with serving(FILE) as server:  # and nothing of it stands in the way
        assert same(fetch(tmp_path, mirror=server.address))


def test_an_endless_answer_is_left_soon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(FILE, endless) as server:
        publish(monkeypatch, FILE, server.address)
        with pytest.raises(OSError, match="it has more than"):
            fetch(tmp_path)
    assert server.sent[0] < 20 * 2**20  # its limit is about 1 MB; the rest is what sockets hold


def test_no_server_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:  # bound, but not listening: nobody else can take the port
        taken.bind(("127.0.0.1", 0))
        publish(monkeypatch, FILE, f"http://127.0.0.1:{taken.getsockname()[1]}")
        with pytest.raises(OSError, match=r"asked 3 times in vain, at last: .*Connection refused; try again"):
            fetch(tmp_path)
    assert names(tmp_path) <= {path.name for path in tmp_path.glob("*.partial")}


def test_no_such_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(monkeypatch, FILE, "http://weights.invalid")
    asked = []

    def unknown(host: str, *_: object, **__: object) -> None:
        asked.append(host)
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(OSError, match=r"from http://weights\.invalid/.*: Name or service not known; try again, fetch"):
        fetch(tmp_path)
    assert asked == ["weights.invalid"]  # asking again would not help


@pytest.mark.parametrize(
    "address", ["file:///etc", "ftp://127.0.0.1", "/srv/weights", "http://[::1", "http://127.0.0.1:port", "http://ü ü"]
)
def test_addresses_that_are_none(address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card = publish(monkeypatch, FILE)
    with pytest.raises((ValueError, OSError)) as found:
        fetch(tmp_path, mirror=address)
    assert f"{address}/{card.file}" in str(found.value)
    assert str(found.value).isprintable()
    assert names(tmp_path) <= {f"{card.file}.partial"}


def test_waits_are_seconds_that_grow() -> None:
    assert download.WAITS == (1.0, 2.0, 4.0, 8.0)
    assert download.TIMEOUT == 30.0
