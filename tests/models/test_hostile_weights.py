"""Weights files that mean harm, or are broken: refused in a sentence, at both doors, and nothing runs or is written."""

from __future__ import annotations

import os
import pickle
import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from bcos_vit import create_model
from bcos_vit.models.reading import read_archive
from hostile_pickles import CANARY, RUNNING, archive, mapping, program, tensor, text, unzipped, zipped
from hostile_tensors import SPEC, checkpoint, rewritten
from hostile_weights import CASES, GOOD, RELEASES
from hostile_zips import LARGE
from releases import fetch, names, publish, published, same


def refusal(load: Callable[[], object], name: str) -> str:
    """The sentence that ``load`` ends with: soon, in one line, and naming the file."""
    started = time.monotonic()
    with pytest.raises((ValueError, OSError, TypeError)) as found:
        load()
    assert time.monotonic() - started < 10
    sentence = str(found.value)
    assert name in sentence
    assert sentence.isprintable(), sentence[:300]
    assert len(sentence) < 1200
    return sentence


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with an empty one, in which the test runs, and a cache."""
    for name in ("elsewhere", "cache"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return tmp_path


def _refused(folder: Path, make: Callable[[Path], object], monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    """What is said of the file at the door of paths, and at that of names."""
    path = folder / "it.pth"
    make(path)
    # As if this were what was published: only the reader can refuse it.
    card = publish(monkeypatch, path.read_bytes())
    (folder / "cache" / str(card.file)).hardlink_to(path)
    said = refusal(lambda: create_model(path), "it.pth")
    said_of_named = refusal(lambda: fetch(folder / "cache", offline=True), str(card.file))
    assert not list((folder / "elsewhere").iterdir())
    assert {entry.name for entry in folder.iterdir()} == {"elsewhere", "cache", "it.pth"}
    assert names(folder / "cache") == {card.file, f"{card.file}.sha256"}
    return said, said_of_named


@pytest.mark.parametrize("name", CASES)
def test_refused_at_both_doors(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make, words = CASES[name]
    for said in _refused(folder, lambda path: path.write_bytes(make()), monkeypatch):
        assert re.search(words, said), said


@pytest.mark.parametrize("name", RELEASES)
def test_releases_that_do_not_fit_their_card(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make, words = RELEASES[name]
    _, said = _refused(folder, lambda path: path.write_bytes(make()), monkeypatch)
    assert re.search(words, said), said


@pytest.mark.parametrize("name", LARGE)
def test_large_records(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(torch, "load", lambda *_, **__: pytest.fail("it is read into memory"))
        LARGE[name](folder / "it.pth")
        refusal(lambda: create_model(folder / "it.pth"), "it.pth")


def test_a_checkpoint_of_another_spec_is_refused_by_name(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The number of heads shows in no shape."""
    content = checkpoint(hyper_parameters={"spec": SPEC | {"heads": 1}})
    card = publish(monkeypatch, content)
    (folder / "cache" / str(card.file)).write_bytes(content)
    said = refusal(lambda: fetch(folder / "cache", offline=True), str(card.file))
    assert said.endswith("holds a model of another heads")


def test_there_are_enough() -> None:
    assert len(CASES) + len(RELEASES) + len(LARGE) > 300


# --- what is no file ---


@pytest.mark.parametrize("thing", ["folder", "fifo", "dangling", "loop", "link-to-a-folder", "zeros", "missing"])
def test_what_is_no_file(thing: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card = publish(monkeypatch, published())
    makes: dict[str, Callable[[Path], object]] = {
        "folder": Path.mkdir,
        "fifo": os.mkfifo,  # which nobody writes to: who opens it waits for ever
        "dangling": lambda path: path.symlink_to(folder / "nowhere"),
        "loop": lambda path: path.symlink_to(path),
        "link-to-a-folder": lambda path: path.symlink_to(folder),
        "zeros": lambda path: path.symlink_to("/dev/zero"),
        "missing": lambda path: None,
    }
    for path in (folder / "it.pth", folder / "it.safetensors", folder / "cache" / str(card.file)):
        makes[thing](path)
    for suffix in ("pth", "safetensors"):
        said = refusal(lambda suffix=suffix: create_model(folder / f"it.{suffix}"), f"it.{suffix}")
        assert f"there is no weights file {folder}/it.{suffix}" in said
    said = refusal(lambda: fetch(folder / "cache", offline=True), str(card.file))
    assert "nothing may be fetched" in said or "is in the way of the weights" in said
    (folder / "cache" / str(card.file)).with_suffix(".json").write_text("{}")
    makes[thing]((folder / "cache" / str(card.file)).with_suffix(".safetensors"))
    refusal(lambda: fetch(folder / "cache", offline=True), str(card.file))


# --- that the tests can tell ---


@pytest.mark.parametrize("name", RUNNING)
def test_the_canary_would_show(name: str, folder: Path) -> None:
    pickle.loads(pickle.dumps(RUNNING[name]()))
    assert (folder / "elsewhere" / CANARY).exists()


@pytest.mark.parametrize("kind", GOOD)
def test_the_good_ones_are_read(kind: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = GOOD[kind]()
    card = publish(monkeypatch, content)
    (folder / "cache" / str(card.file)).write_bytes(content)
    fetch(folder / "cache", offline=True)
    if kind == "pth":
        assert same(fetch(folder / "cache", offline=True))


def test_what_is_made_by_hand_is_read_where_it_is_right(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tools that make the hostile files make good ones as well, so it is the harm that is refused."""
    numbers = torch.arange(4.0)
    storage = numbers.numpy().tobytes()
    path = folder / "it.pth"
    path.write_bytes(archive(program(mapping((text("a"), tensor(4, (2, 2), (2, 1))))), {"data/0": storage}))
    assert torch.equal(read_archive(path)["a"], numbers.view(2, 2))
    content = zipped(unzipped(published()))
    card = publish(monkeypatch, content)
    (folder / "cache" / str(card.file)).write_bytes(content)
    assert same(fetch(folder / "cache", offline=True))
    path.write_bytes(rewritten(lambda header: header))
    assert create_model(path).class_names == tuple("abcde")
