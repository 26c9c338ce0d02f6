"""A folder of unknown origin in one call: what is a photo is explained, all else is a sentence."""

import errno
import os
import signal

import pytest
from PIL import EpsImagePlugin

from bcos_vit import photos
from commands import Said, paired
from hostile import bundled_photos, write_odd, write_refused


@pytest.fixture
def guarded():
    """Interrupt what waits for ever; no other exception would get past a reader that expects any."""
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    yield signal.alarm
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def started(monkeypatch):
    """Programs that were started to read an image."""
    calls = []
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *arguments, **options: calls.append(arguments))
    return calls


@pytest.fixture
def corpus(tmp_path):
    """Photos and hostile files, mixed: (all, refused)."""
    (tmp_path / "in").mkdir()
    bundled, strange = bundled_photos()
    refused = [*write_refused(tmp_path / "in"), strange]
    good = bundled + write_odd(tmp_path / "in")
    assert len(refused) > 60
    assert len(bundled) > 25
    paths = [path for pair in zip(refused, good, strict=False) for path in pair]
    return paths + refused[len(good) :] + good[len(refused) :], refused


def printable(path):
    return str(path).replace("\n", "\\n").replace("\x1b", "\\x1b")


def require_all_accounted_for(said: Said, paths, refused, out):
    assert said.status == 1
    *sentences, last = [line for line in said.err.splitlines() if not line.startswith("note: ")]
    assert all(line.startswith("bcos-vit explain: ") and line.isprintable() for line in sentences)
    assert len(sentences) == len(refused)
    for path, sentence in zip([p for p in paths if p in refused], sentences, strict=True):
        assert printable(path) in sentence
    assert last == f"bcos-vit explain: {len(refused)} of {len(paths)} photos failed"
    results = dict(line.split(": ", 1) for line in said.out.splitlines())
    assert list(results) == [printable(path) for path in paths if path not in refused]
    written = {line.rsplit(": ", 1)[1] for line in results.values()}
    assert written == {str(out / f"{name}.png") for name in paired(out)}
    assert len(written) == len(paths) - len(refused)


def test_a_mixed_folder_is_explained_as_far_as_it_goes(command, guarded, started, corpus, tmp_path):
    guarded(500)
    paths, refused = corpus
    out = tmp_path / "out"
    arguments = ("--model", "bcos_vitc_ti_rope_patch1_14", "--random-weights", 0, "--out", out)
    said = command("explain", *paths, *arguments)
    require_all_accounted_for(said, paths, refused, out)
    assert not started


def test_what_may_not_be_read_is_a_sentence(command, photo, model_file, tmp_path, monkeypatch):
    opened = photos.Image.open

    def forbid(path, **options):  # administrators may read anything, whatever the mode
        if path.name == "secret.png":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return opened(path, **options)

    monkeypatch.setattr(photos.Image, "open", forbid)
    (tmp_path / "secret.png").write_bytes(photo.read_bytes())
    said = command("explain", tmp_path / "secret.png", photo, "--model", model_file, "--out", tmp_path / "out")
    assert said.status == 1
    first, _ = said.err.splitlines()
    assert first == f"bcos-vit explain: {tmp_path / 'secret.png'} cannot be read: Permission denied"
    assert len(paired(tmp_path / "out")) == 1


def test_only_hostile_files_leave_an_empty_folder(command, guarded, model_file, tmp_path):
    guarded(60)
    (tmp_path / "in").mkdir()
    refused = write_refused(tmp_path / "in")
    before = sorted((tmp_path / "in").iterdir())
    said = command("explain", *refused, "--model", model_file, "--out", tmp_path / "out")
    assert (said.status, said.out) == (1, "")
    assert not list((tmp_path / "out").iterdir())
    assert sorted((tmp_path / "in").iterdir()) == before
