"""Calls of ``bcos-vit`` that work at once on the same folder or file: nothing is overwritten, and no pair torn."""

import subprocess
import sys
import threading

import pytest

from bcos_vit import create_model, save_model
from bcos_vit.claim import HeldError, claim_file, claim_folder
from bcos_vit.export import to_onnx
from bcos_vit.models.weights import load_model
from commands import NAMES, paired
from toys import VITC, toy


def elsewhere(hold, path):
    """Hold ``path`` in another thread until the function returned is called."""
    held, done = threading.Event(), threading.Event()

    def run():
        with hold(path):
            held.set()
            done.wait()

    thread = threading.Thread(target=run)
    thread.start()
    held.wait()

    def end():
        done.set()
        thread.join()

    return end


@pytest.fixture
def another(tmp_path):
    """A second model for the same photos and classes."""
    model = toy(VITC, seed=2)
    model.class_names = NAMES
    save_model(model, tmp_path / "another.safetensors")
    return tmp_path / "another.safetensors"


def test_a_second_model_in_one_folder_keeps_the_results_of_the_first(command, model_file, another, photo, tmp_path):
    out = tmp_path / "out"
    for model in (model_file, another):
        assert command("explain", photo, "--model", model, "--out", out, "--targets", "wolf").status == 0
    found = paired(out)
    assert found.keys() == {"cat.1-wolf", "cat-2.1-wolf"}
    assert float(found["cat.1-wolf"].logit) != float(found["cat-2.1-wolf"].logit)


@pytest.mark.slow
def test_processes_that_explain_into_one_folder_write_a_pair_each(model_file, another, photo, tmp_path):
    out = tmp_path / "out"
    words = [photo, photo, "--out", out, "--targets", "0,1"]
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "bcos_vit.cli", "explain", *words, "--model", model],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for model in (model_file, another)
    ]
    said = [process.communicate(timeout=300) for process in started]
    assert [process.returncode for process in started] == [0, 0], said
    found = paired(out)
    assert len(found) == 8
    for model, (lines, _) in zip((model_file, another), said, strict=True):
        rows = {line.rpartition("/")[2].removesuffix(".png"): line for line in lines.splitlines()}
        assert len(rows) == 4, model
        for name, line in rows.items():  # what a call says it wrote is what lies there
            assert f"logit {float(found[name].logit):+.3f} = " in line


def test_a_folder_that_is_held_for_long_is_a_sentence(command, model_file, photo, tmp_path, monkeypatch):
    monkeypatch.setattr("bcos_vit.cli.explain.WAIT", 0.05)
    end = elsewhere(claim_folder, tmp_path)
    said = command("explain", photo, "--model", model_file, "--out", tmp_path)
    end()
    assert (said.status, said.out) == (2, "")
    assert said.err.startswith(f"bcos-vit explain: {tmp_path} is in use by another process: wait until it has ended")


@pytest.mark.parametrize("verb", ["export", "convert"])
def test_a_file_that_another_call_is_writing_is_refused_at_once(command, model_file, tmp_path, verb, monkeypatch):
    out = tmp_path / ("out.onnx" if verb == "export" else "out.pth")
    words = {"export": ["--model", model_file, "--out", out], "convert": [model_file, out]}[verb]
    reader = "chosen_model" if verb == "export" else "load_file"
    monkeypatch.setattr(f"bcos_vit.cli.{verb}.{reader}", lambda *_: pytest.fail("nothing is read before"))
    end = elsewhere(claim_file, out)
    said = command(verb, *words)
    end()
    assert (said.status, said.out) == (2, "")
    assert said.err.startswith(f"bcos-vit {verb}: {out} is in use by another process: wait until it has ended")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_what_appears_while_a_file_is_converted_is_not_replaced(command, model_file, tmp_path, suffix, monkeypatch):
    out = tmp_path / f"out{suffix}"

    def read(*arguments):
        out.write_text("mine")
        return load_model(model_file)

    monkeypatch.setattr("bcos_vit.cli.convert.load_file", read)
    said = command("convert", model_file, out)
    assert (said.status, said.out) == (2, "")
    assert said.err == f"bcos-vit convert: {out} exists: remove it, or give another name\n"
    assert [p.read_text() for p in tmp_path.iterdir()] == ["mine"]


def test_two_exports_to_one_file_from_python(tmp_path):
    model = create_model("bcos_vit_digits")
    end = elsewhere(claim_file, tmp_path / "out.onnx")
    with pytest.raises(HeldError, match=r"out\.onnx is in use by another process"):
        to_onnx(model, tmp_path / "out.onnx")
    end()
    assert list(tmp_path.iterdir()) == []
