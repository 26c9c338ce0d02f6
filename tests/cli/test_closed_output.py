"""Whoever reads the output may stop reading: the work is done all the same."""

import subprocess
import sys

import pytest

from commands import results


@pytest.mark.slow
def test_a_closed_output_does_not_stop_the_work(photo, model_file, tmp_path):
    out = tmp_path / "out"
    command = ["explain", *[str(photo)] * 9, "--model", str(model_file), "--out", str(out), "--batch-size", "1"]
    with subprocess.Popen(
        [sys.executable, "-m", "bcos_vit.cli", *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline().startswith(str(photo))
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(timeout=120) == 0
    assert len(list(results(out))) == 9
