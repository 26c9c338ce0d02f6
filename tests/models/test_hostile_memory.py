"""What it costs to refuse a hostile file: memory and time, in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import refusals
from hostile_weights import CASES, RELEASES
from hostile_zips import LARGE

MOST_MEGABYTES, MOST_SECONDS = 256, 10


@pytest.fixture(scope="module")
def costs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, refusals.__file__],
        env=environment,
        cwd=tmp_path_factory.mktemp("work"),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_every_file_was_refused(costs: dict[str, dict[str, Any]]) -> None:
    assert costs.keys() == CASES.keys() | RELEASES.keys() | LARGE.keys()
    assert {name: cost["said"] for name, cost in costs.items() if not cost["refused"]} == {}


def test_refusing_takes_little_memory(costs: dict[str, dict[str, Any]]) -> None:
    over = {name: cost["megabytes"] for name, cost in costs.items() if cost["megabytes"] > MOST_MEGABYTES}
    assert over == {}


def test_refusing_takes_little_time(costs: dict[str, dict[str, Any]]) -> None:
    assert {name: cost["seconds"] for name, cost in costs.items() if cost["seconds"] > MOST_SECONDS} == {}


@pytest.mark.skipif(not refusals.PEAKS.exists(), reason="the peak cannot be counted anew here")
def test_the_measure_measures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fill(*_: object) -> None:
        bytearray(300 * 2**20)[:: 2**12] = b"x" * (300 * 2**8)
        raise ValueError("full")

    monkeypatch.setattr(refusals, "load_model", fill)
    assert MOST_MEGABYTES < refusals.measure(tmp_path)["megabytes"] < 400
