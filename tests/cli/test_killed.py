"""A killed ``bcos-vit explain`` leaves whole files only: no half one, no hidden one."""

import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest

from commands import has_nameless_files, results

MANY = 300  # photos: more than can be explained before the call is killed

HOLD = """
import os, sys, time
link, calls = os.link, []
def hold(*arguments, **options):
    calls.append(arguments)
    if len(calls) == {number}:  # all is written, and nothing has a name yet
        print("holding", flush=True)
        time.sleep(600)
    link(*arguments, **options)
os.link = hold
"""
WRITE = "from bcos_vit.atomic import write_whole; write_whole({path!r}, bytes(1_000_000))"
EXPLAIN = "from bcos_vit.cli.main import main; main({arguments!r})"


pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _files_without_a_name(tmp_path):
    if not has_nameless_files(tmp_path):
        pytest.skip("this file system has no files without a name")


@contextmanager
def running(*command):
    """A Python process that does not outlive the test."""
    process = subprocess.Popen([sys.executable, *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def wait_until(condition, process):
    for _ in range(12_000):
        if condition():
            return
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.01)
    raise TimeoutError("two minutes are over")


@pytest.mark.parametrize(
    ("number", "delay", "sent", "status"),
    [
        (signal.SIGKILL, 0.0, 1, -9),
        (signal.SIGKILL, 0.11, 2, -9),
        (signal.SIGKILL, 0.37, 7, -9),
        (signal.SIGTERM, 0.05, 3, -15),
        (signal.SIGINT, 0.05, 3, 130),
    ],
)
def test_what_is_there_after_a_kill_is_whole(photo, model_file, tmp_path, number, delay, sent, status):
    out = tmp_path / "out"
    out.mkdir()
    arguments = ["explain", *[photo] * MANY, "--model", model_file, "--out", out, "--batch-size", "2"]
    with running("-m", "bcos_vit.cli", *arguments) as process:
        wait_until(lambda: len(list(out.iterdir())) >= sent, process)
        time.sleep(delay)
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
    assert process.returncode == status
    assert "Traceback" not in err
    found = results(out)
    assert sent / 2 <= len(found) < MANY


@pytest.mark.parametrize("old", [None, "old"])
def test_a_kill_between_writing_and_naming_leaves_nothing(tmp_path, old):
    path = tmp_path / "out.bin"
    if old is not None:
        path.write_text(old)
    with running("-c", HOLD.format(number=1) + WRITE.format(path=str(path))) as process:
        assert process.stdout.readline() == "holding\n", process.communicate()[1]
        assert [p.read_text() for p in tmp_path.iterdir()] == ([] if old is None else [old])
        process.kill()
        process.wait(timeout=60)
    assert [p.read_text() for p in tmp_path.iterdir()] == ([] if old is None else [old])


@pytest.mark.parametrize("written", [2, 3])
def test_a_kill_within_a_write_leaves_the_files_before_it(photo, model_file, tmp_path, written):
    out = tmp_path / "out"
    arguments = ["explain", *[str(photo)] * 3, "--model", str(model_file), "--out", str(out), "--targets", "1"]
    with running("-c", HOLD.format(number=written + 1) + EXPLAIN.format(arguments=arguments)) as process:
        wait_until(lambda: out.exists() and len(list(out.iterdir())) == written, process)
        while process.stdout.readline() != "holding\n":
            assert process.poll() is None, process.communicate()[1]
        process.kill()
        process.wait(timeout=60)
    assert len(list(out.iterdir())) == written
    assert list(results(out)) == ["cat-2.1-wolf", "cat.1-wolf"][3 - written :]
