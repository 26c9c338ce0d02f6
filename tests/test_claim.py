"""Claims exclude each other among processes and threads, and end with their process, whatever ends it."""

import errno
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from bcos_vit import claim
from bcos_vit.claim import LOCK, HeldError, claim_file, claim_folder
from locks import files_only

HOLD = """
import sys, time
from bcos_vit.claim import claim_file, claim_folder
with {kind}(sys.argv[1]):
    print("held", flush=True)
    {then}
"""
RACE = """
import sys, time
from pathlib import Path
from bcos_vit.claim import claim_folder
with claim_folder(sys.argv[1], wait=30):
    numbers = Path(sys.argv[1], "numbers")
    content = numbers.read_text() if numbers.exists() else ""
    time.sleep(0.02)
    numbers.write_text(content + "x")
"""
KINDS = {"claim_folder": claim_folder, "claim_file": claim_file}


def started(code, path):
    return subprocess.Popen([sys.executable, "-c", code, path], stdout=subprocess.PIPE, text=True)


@pytest.fixture(params=[True, False], ids=["folders", "files only"])
def kind(request, tmp_path, monkeypatch):
    """A system whose folders can be locked, and one where files can only, as NFS."""
    if not request.param:
        files_only(monkeypatch)
    return request.param


@pytest.fixture(params=["claim_folder", "claim_file"])
def held(request, tmp_path):
    """What a process holds, and that process."""
    path = tmp_path / "held"
    if request.param == "claim_folder":
        path.mkdir()
    process = started(HOLD.format(kind=request.param, then="time.sleep(600)"), path)
    assert process.stdout.readline() == "held\n"
    yield path, KINDS[request.param], process
    process.kill()
    process.wait()


def test_what_another_process_holds_is_refused_until_it_is_killed(held):
    path, hold, process = held
    with pytest.raises(HeldError, match=f"^{path} is in use by another process: wait until it has ended"), hold(path):
        pass
    process.kill()
    process.wait()
    with hold(path):
        pass
    assert sorted(p.name for p in path.parent.iterdir()) == (["held"] if path.exists() else [])
    assert not path.exists() or list(path.iterdir()) == []


def test_processes_that_start_at_once_take_turns(tmp_path):
    processes = [started(RACE, tmp_path) for _ in range(4)]
    assert [process.wait(60) for process in processes] == [0] * 4
    assert (tmp_path / "numbers").read_text() == "xxxx"
    assert [p.name for p in tmp_path.iterdir()] == ["numbers"]


def test_threads_exclude_each_other_and_the_holder_may_claim_again(tmp_path, kind):
    found = []

    def other():
        try:
            with claim_folder(tmp_path):
                found.append("taken")
        except HeldError:
            found.append("refused")

    def in_a_thread():
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()

    with claim_folder(tmp_path):
        with claim_folder(tmp_path / "." / ""):
            assert [p.name for p in tmp_path.iterdir()] == ([] if kind else [LOCK])
        in_a_thread()
    in_a_thread()
    assert found == ["refused", "taken"]
    assert list(tmp_path.iterdir()) == []


def test_an_old_lock_file_is_of_no_account(tmp_path, kind):
    (tmp_path / ".out.onnx.lock").touch()
    with claim_file(tmp_path / "out.onnx"):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS])
@pytest.mark.parametrize("hold", KINDS.values(), ids=KINDS)
def test_a_system_without_locks_is_told_of(tmp_path, monkeypatch, number, hold):
    def lock(descriptor):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(claim, "lock_descriptor", lock)
    with pytest.raises(OSError, match=r"its file system has no locks \(.+\): give a path on another one$"):
        hold(tmp_path).__enter__()


def test_a_folder_that_its_holder_has_removed_is_not_held_by_who_waited_for_it(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    found = []

    def wait():
        try:
            with claim_folder(folder, wait=30):
                found.append("held")
        except FileNotFoundError:
            found.append("gone")

    thread = threading.Thread(target=wait)
    with claim_folder(folder):
        thread.start()
        time.sleep(0.1)
        folder.rmdir()
    thread.join()
    assert found == ["gone"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are not forked here")
def test_a_forked_process_neither_ends_nor_prolongs_a_claim(tmp_path):
    reads, writes = os.pipe()
    with claim_folder(tmp_path):
        number = os.fork()
        if number == 0:
            os.read(reads, 1)  # until the parent has let go
            os._exit(0)
        with pytest.raises(HeldError):
            _in_a_process(tmp_path)
    _in_a_process(tmp_path)
    os.write(writes, b".")
    os.waitpid(number, 0)
    os.close(reads)
    os.close(writes)


def _in_a_process(path):
    process = started(HOLD.format(kind="claim_folder", then=""), path)
    out, _ = process.communicate(timeout=60)
    if process.returncode:
        raise HeldError(out)


def test_a_path_that_cannot_be_claimed_is_a_sentence(tmp_path):
    (tmp_path / "file").touch()
    for path in (tmp_path / "none" / "a.onnx", tmp_path / "file" / "a.onnx"):
        with pytest.raises(OSError, match=f"^cannot write {path}: .*; give a path in a folder that can be written$"):
            claim_file(path).__enter__()
    with pytest.raises(FileNotFoundError, match=r"^cannot write "):
        claim_folder(Path(tmp_path, "none")).__enter__()
