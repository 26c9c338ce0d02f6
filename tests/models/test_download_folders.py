"""Caches that cannot be made or written, and disks that are full."""

from __future__ import annotations

import errno
import os
import resource
from pathlib import Path
from typing import NoReturn

import pytest

from bcos_vit import atomic
from releases import fetch, names, publish, published, same, serving, whole

FILE = published()


@pytest.mark.parametrize("below", ["", "further"], ids=["a-file", "below-a-file"])
def test_a_folder_that_cannot_be_made(below: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    publish(monkeypatch, FILE)
    with pytest.raises(
        OSError, match=rf"cannot keep weights in {tmp_path}/file.*name another folder with BCOS_VIT_CACHE or"
    ):
        fetch(tmp_path / "file" / below)


def test_a_folder_that_others_look_after(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card = publish(monkeypatch, FILE)
    file = tmp_path / str(card.file)
    file.write_bytes(FILE)
    monkeypatch.setattr(os, "access", lambda *_, **__: False)  # permissions do not stop a superuser
    assert same(fetch(tmp_path))
    assert list(tmp_path.iterdir()) == [file]  # not even a lock
    file.write_bytes(FILE[:-1])
    with pytest.raises(ValueError, match=f"{file.name} is not the file that was published"):
        fetch(tmp_path)


def test_a_full_disk_during_the_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with serving(FILE, whole) as server:
        publish(monkeypatch, FILE, server.address)
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(FILE) // 2, limits[1]))
        try:
            with pytest.raises(OSError, match=r"cannot be fetched from http.*File too large; try again"):
                fetch(tmp_path)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert all(name.endswith(".partial") for name in names(tmp_path))
        assert same(fetch(tmp_path))  # there is room again


def test_a_full_disk_during_the_conversion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> NoReturn:
        raise OSError(errno.ENOSPC, "No space left on device")

    card = publish(monkeypatch, FILE)
    (tmp_path / str(card.file)).write_bytes(FILE)
    with monkeypatch.context() as patch:
        patch.setattr(atomic, "_give_name", full)
        with pytest.raises(OSError, match=rf"cannot write {tmp_path}/.*: No space left on device"):
            fetch(tmp_path)
    assert names(tmp_path) == {card.file}
    assert same(fetch(tmp_path))


@pytest.mark.skipif(not Path("/sys/kernel").is_dir(), reason="a folder that not even a superuser can write to")
def test_a_folder_that_cannot_be_written_and_holds_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(FILE) as server:
        publish(monkeypatch, FILE, server.address)
        with pytest.raises(
            OSError, match=r"cannot keep weights in /sys/kernel: .*name another folder with BCOS_VIT_CACHE"
        ) as found:
            fetch(Path("/sys/kernel"))
        with pytest.raises(
            OSError, match=r"cannot keep weights in /sys/kernel/weights: .*name another folder with BCOS_VIT"
        ):
            fetch(Path("/sys/kernel/weights"))
    assert str(found.value).isprintable()
    assert not server.asked
