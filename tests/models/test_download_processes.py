"""Several processes at one cache, and processes that are killed."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
from tqdm import tqdm

from bcos_vit import ViT
from bcos_vit.models import download, pretrained
from releases import SIZES, fetch, names, publish, published, same, serving, slow, stall, whole

pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")

FORK = multiprocessing.get_context("fork")  # with the card and the settings of the test
HALF = 2**20  # a file of several chunks is under way


def _start(work: Callable[[], object]) -> BaseProcess:
    def alone() -> None:
        # The lock of the bars is one for all forks: it would be lost with a process that is killed.
        tqdm.set_lock(threading.RLock())
        work()

    process = FORK.Process(target=alone)
    process.start()
    return process


def _wait(condition: Callable[[], object], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def _kill(process: BaseProcess) -> None:
    process.kill()
    process.join(30)
    assert process.exitcode == -signal.SIGKILL


@pytest.mark.parametrize("count", [2, 4])
def test_processes_at_once_fetch_once(count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = FORK.Queue()
    with serving(published(), slow(0.3)) as server:
        card = publish(monkeypatch, published(), server.address)
        monkeypatch.setattr(download, "TIMEOUT", 30)
        processes = [_start(lambda: results.put(same(fetch(tmp_path)))) for _ in range(count)]
        assert [results.get(timeout=60) for _ in processes] == [True] * count
        for process in processes:
            process.join(30)
    assert [process.exitcode for process in processes] == [0] * count
    assert server.asked == [None]
    assert len(names(tmp_path)) == 4
    assert str(card.file) in names(tmp_path)


def test_what_another_process_converted_meanwhile_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(published()) as server:
        card = publish(monkeypatch, published(), server.address)
        fetch(tmp_path)
    (tmp_path / str(card.file)).unlink()  # so that only what was converted is left
    look, looked = pretrained._converted, []

    def not_yet(*arguments: Any) -> ViT | None:
        looked.append(arguments)
        return None if len(looked) == 1 else look(*arguments)

    monkeypatch.setattr(pretrained, "_converted", not_yet)
    assert same(fetch(tmp_path))
    assert len(looked) == 2


def test_a_second_process_goes_on_where_the_first_was_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lock of a killed process holds nobody up, even one that waits already."""
    results = FORK.Queue()
    content = published(**SIZES)
    with serving(content, stall(HALF), whole) as server:
        publish(monkeypatch, content, server.address, **SIZES)
        monkeypatch.setattr(download, "TIMEOUT", 60)
        first = _start(lambda: fetch(tmp_path))
        _wait(server.reached.is_set)
        second = _start(lambda: results.put(same(fetch(tmp_path), **SIZES)))
        time.sleep(0.2)
        assert len(server.asked) == 1  # it waits
        _kill(first)
        assert results.get(timeout=60)
        second.join(30)
    assert len(server.asked) == 2


def _partial(folder: Path) -> int:
    return max((path.stat().st_size for path in folder.glob("*.partial")), default=0)


def test_killed_while_the_file_comes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = published(**SIZES)
    with serving(content, stall(HALF), whole) as server:
        card = publish(monkeypatch, content, server.address, **SIZES)
        monkeypatch.setattr(download, "TIMEOUT", 60)
        process = _start(lambda: fetch(tmp_path))
        _wait(lambda: _partial(tmp_path) >= HALF - 2**18)
        _kill(process)
        assert names(tmp_path) == {f"{card.file}.partial"}
        received = _partial(tmp_path)
        assert same(fetch(tmp_path), **SIZES)
    assert server.asked == [None, f"bytes={received}-"]
    assert server.sent[1] == len(content) - received < len(content)


KILLED_AT = ["keep_hash", "os.replace", "load_model", "save_model", "sha256", "write_whole"]


@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
@pytest.mark.parametrize("step", KILLED_AT)
def test_killed_between_any_two_steps(step: str, before: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    owner = {"keep_hash": download, "os.replace": os}.get(step, pretrained)
    name = step.removeprefix("os.")
    real = getattr(owner, name)

    def die(*arguments: object, **options: object) -> None:
        if not before:
            real(*arguments, **options)
        os.kill(os.getpid(), signal.SIGKILL)

    def work() -> None:
        setattr(owner, name, die)
        fetch(tmp_path)

    with serving(published()) as server:
        publish(monkeypatch, published(), server.address)
        process = _start(work)
        process.join(60)
        assert process.exitcode == -signal.SIGKILL
        assert same(fetch(tmp_path))
        assert same(fetch(tmp_path, offline=True))
    assert len(server.asked) <= 2
    assert len(server.asked) == 1 or server.asked[1] == f"bytes={len(published())}-"
    assert not [name for name in names(tmp_path) if name.endswith(".partial")]


def test_killed_at_any_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = published(**SIZES)
    with serving(content) as server:
        publish(monkeypatch, content, server.address, **SIZES)
        for number in range(8):
            process = _start(lambda: fetch(tmp_path))
            time.sleep(0.004 * number)
            process.kill()
            process.join(30)
            for path in tmp_path.glob("*.pth"):
                assert path.read_bytes() == content  # whole or not there
        assert same(fetch(tmp_path), **SIZES)


def test_a_lock_that_was_left_does_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(published()) as server:
        card = publish(monkeypatch, published(), server.address)
        (tmp_path / f"{card.file}.lock").touch()
        assert same(fetch(tmp_path))
