"""Links and other things in a cache where files should be: followed where that is safe, never written through."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from releases import fetch, names, publish, published, same, serving

FILE = published()


def test_a_link_to_the_right_file_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card = publish(monkeypatch, FILE)
    (tmp_path / "elsewhere.pth").write_bytes(FILE)
    cache = tmp_path / "cache"
    cache.mkdir()
    (cache / str(card.file)).symlink_to(tmp_path / "elsewhere.pth")
    for _ in ("read", "converted"):
        assert same(fetch(cache, offline=True))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "elsewhere.pth"]
    assert (tmp_path / "elsewhere.pth").read_bytes() == FILE


def test_a_link_to_another_folder_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "cache").symlink_to(tmp_path / "real")
    with serving(FILE) as server:
        publish(monkeypatch, FILE, server.address)
        assert same(fetch(tmp_path / "cache"))
    assert len(names(tmp_path / "real")) == 4


@pytest.mark.parametrize("there", [True, False], ids=["file", "dangling"])
@pytest.mark.parametrize("suffix", [".partial", ".sha256", ".lock"])
def test_links_are_not_written_through(
    suffix: str, there: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    precious = tmp_path / "precious"
    if there:
        precious.write_text("mine")
    (tmp_path / "cache").mkdir()
    with serving(FILE) as server:
        card = publish(monkeypatch, FILE, server.address)
        (tmp_path / "cache" / f"{card.file}{suffix}").symlink_to(precious)
        found = _sentence(tmp_path / "cache")
    assert found is None or str(tmp_path / "cache") in found
    assert precious.exists() == there
    assert not there or precious.read_text() == "mine"


@pytest.mark.parametrize("suffix", [".safetensors", ".json"])
def test_links_are_replaced_by_what_is_converted(suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "precious").write_text("mine")
    (tmp_path / "cache").mkdir()
    with serving(FILE) as server:
        card = publish(monkeypatch, FILE, server.address)
        (tmp_path / "cache" / str(card.file)).with_suffix(suffix).symlink_to(tmp_path / "precious")
        assert same(fetch(tmp_path / "cache"))
        assert same(fetch(tmp_path / "cache"))
    assert (tmp_path / "precious").read_text() == "mine"


def _link(target: str) -> Callable[[Path], None]:
    return lambda path: path.symlink_to(path.parent / target)


THINGS = {
    "folder": Path.mkdir,
    "fifo": lambda path: os.mkfifo(path),
    "dangling": _link("nowhere"),
    "link-to-a-folder": _link("."),
    "link-to-zeros": _link("/dev/zero"),
}


@pytest.mark.parametrize("suffix", ["", ".partial", ".sha256", ".lock"])
@pytest.mark.parametrize("thing", THINGS)
def test_things_that_are_no_files(thing: str, suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Replaced, passed over, or named in a sentence: neither waited for nor read for ever."""
    with serving(FILE) as server:
        card = publish(monkeypatch, FILE, server.address)
        THINGS[thing](tmp_path / f"{card.file}{suffix}")
        if suffix == "":
            with pytest.raises(OSError, match="not in" if thing == "dangling" else f"{card.file} is in the way of"):
                fetch(tmp_path, offline=True)
        found = _sentence(tmp_path)
    assert found is None or str(tmp_path) in found


def _sentence(cache: Path) -> str | None:
    """What stands in the way of a load; None if nothing does."""
    try:
        model = fetch(cache)
    except (OSError, ValueError) as error:
        text = str(error)
    else:
        return None if same(model) else "another model"
    return text if text.isprintable() else "several lines"
