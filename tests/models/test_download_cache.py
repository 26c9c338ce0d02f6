"""The cache of trained weights: where it is, what is in it, and that nothing in it is believed."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
from pathlib import Path

import pytest
import torch

from bcos_vit import create_model
from bcos_vit.models.zoo import CARDS
from releases import fetch, names, publish, published, same, saved, serving
from toys import NAME

FILE = published()


# --- where it is, and where it comes from ---


def test_arguments_win_over_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(FILE) as release, serving(FILE) as named, serving(FILE) as given:
        card = publish(monkeypatch, FILE, release.address)
        monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
        assert same(fetch(None))
        assert (tmp_path / "hub" / "checkpoints" / str(card.file)).is_file()
        monkeypatch.setenv("BCOS_VIT_CACHE", str(tmp_path / "named"))
        monkeypatch.setenv("BCOS_VIT_MIRROR", f"{named.address}/of/mine/")
        assert same(fetch(None))
        assert (tmp_path / "named" / str(card.file)).is_file()
        assert same(fetch(tmp_path / "given", mirror=f"{given.address}/"))
        assert (tmp_path / "given" / str(card.file)).is_file()
    assert (release.paths, named.paths, given.paths) == (
        [f"/{card.file}"],
        [f"/of/mine/{card.file}"],
        [f"/{card.file}"],
    )


def test_the_home_folder_may_be_meant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    with serving(FILE) as server:
        publish(monkeypatch, FILE, server.address)
        assert same(fetch(Path("~/cache")))
    assert names(tmp_path / "cache")


@pytest.mark.parametrize(
    ("argument", "variable", "asked"),
    [
        *((None, value, True) for value in (None, "", "0", "false", "False")),
        *((None, value, False) for value in ("1", "true", "yes")),
        (True, "0", False),
        (True, None, False),
        (False, "1", True),
    ],
)
def test_offline(
    argument: bool | None, variable: str | None, asked: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(FILE) as server:
        card = publish(monkeypatch, FILE, server.address)
        monkeypatch.delenv("BCOS_VIT_OFFLINE")
        if variable is not None:
            monkeypatch.setenv("BCOS_VIT_OFFLINE", variable)
        if asked:
            assert same(fetch(tmp_path, offline=argument))
        else:
            sentence = f"the weights of {NAME} are not in {tmp_path}, and nothing may be fetched .*: fetch "
            with pytest.raises(FileNotFoundError, match=f"{sentence}{server.address}/{card.file} elsewhere and put it"):
                fetch(tmp_path, offline=argument)
    assert len(server.asked) == asked


def test_a_file_that_was_put_there_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card = publish(monkeypatch, FILE)
    (tmp_path / str(card.file)).write_bytes(FILE)
    assert same(fetch(tmp_path, offline=True))


@pytest.mark.parametrize("file", ["../evil.pth", "/tmp/evil.pth", "below/evil.pth", "..", ""])
def test_cards_name_files_not_paths(file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(FILE) as server:
        card = publish(monkeypatch, FILE, server.address)
        monkeypatch.setitem(CARDS, NAME, dataclasses.replace(card, file=file))
        with pytest.raises(ValueError, match=f"the card of {NAME} must name a file without folders, found '{file}'"):
            fetch(tmp_path / "cache")
    assert not server.asked
    assert list(tmp_path.iterdir()) == []


# --- the second time ---


def test_the_second_load_reads_the_converted_file_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(FILE) as server:
        card = publish(monkeypatch, FILE, server.address)
        first = fetch(tmp_path)
        (tmp_path / str(card.file)).unlink()
        second = fetch(tmp_path)
    assert len(server.asked) == 1
    assert same(first)
    assert same(second)
    assert second.about == first.about
    assert second.about["licence"] == card.licence
    assert second.about["stated"] == {"top1": card.top1, "top5": card.top5}
    assert second.transform is not None
    images = torch.rand(2, 3, second.spec.image_size, second.spec.image_size)
    assert torch.allclose(first(images), second(images), rtol=1e-5, atol=1e-6)
    assert fetch(tmp_path, num_classes=3, offline=True).spec.num_classes == 3


def test_the_licence_is_told_once_a_load(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="bcos_vit")
    with serving(FILE) as server:
        card = publish(monkeypatch, FILE, server.address)
        for _ in ("the file that was fetched", "the converted one", "again"):
            caplog.clear()
            fetch(tmp_path)
            told = [record.getMessage() for record in caplog.records if str(card.licence) in record.getMessage()]
            assert len(told) == 1
            assert NAME in told[0]
            assert [record.levelname for record in caplog.records] == ["WARNING"]
    caplog.clear()
    create_model("bcos_vit_digits", pretrained=True)
    create_model("standard_vit_digits", pretrained=True)
    assert caplog.records == []


# --- nothing in it is believed ---


def _fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **options: int) -> tuple[Path, Path, Path, Path]:
    """The four files of a cache."""
    with serving(FILE) as server:
        card = publish(monkeypatch, FILE, server.address, **options)
        fetch(tmp_path)
    file = tmp_path / str(card.file)
    return file, Path(f"{file}.sha256"), file.with_suffix(".safetensors"), file.with_suffix(".json")


def _flip(path: Path, at: int = -5) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 64
    path.write_bytes(content)


def test_the_full_hash_is_kept_and_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, kept, converted, manifest = _fetched(tmp_path, monkeypatch, digits=1)
    prefix = str(CARDS[NAME].sha256_prefix)
    assert len(kept.read_text().strip()) == 64
    # Another good file, whose hash starts alike: the prefix alone could not tell them apart.
    tried = (published(seed=seed) for seed in range(1, 1000))
    other = next(content for content in tried if hashlib.sha256(content).hexdigest().startswith(prefix))
    file.write_bytes(other)
    converted.unlink()
    with pytest.raises(ValueError, match=rf"{file.name} is not the file that was published: .*remove it to fetch it"):
        fetch(tmp_path, offline=True)
    file.unlink()
    with serving(other) as server, pytest.raises(OSError, match="it is another file"):
        fetch(tmp_path, mirror=server.address)
    assert not file.exists()
    assert not manifest.with_suffix(".safetensors").exists()


@pytest.mark.parametrize("text", ["", "\n", "0" * 64, "zz", "../../etc/passwd", "\xff\0", "{prefix}", "{digest} x"])
def test_a_spoilt_hash_is_a_sentence(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, kept, converted, _ = _fetched(tmp_path, monkeypatch)
    digest = kept.read_text().strip()
    kept.write_text(text.format(prefix=digest[:10], digest=digest))
    for offline in (True, True, False):  # of the converted file, of the one that was fetched, of a download
        with pytest.raises(ValueError, match=rf"{kept.name} holds no SHA-256 that starts with {digest[:10]}: remove"):
            fetch(tmp_path, offline=offline)
        (converted if converted.exists() else file).unlink(missing_ok=True)


def test_another_hash_that_starts_alike_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, kept, converted, _ = _fetched(tmp_path, monkeypatch)
    kept.write_text(kept.read_text().strip()[:10] + "0" * 54 + "\n")
    with pytest.raises(ValueError, match=f"{converted.name} is not what was converted from {file.name}"):
        fetch(tmp_path, offline=True)
    converted.unlink()
    with pytest.raises(ValueError, match=f"{file.name} is not the file that was published"):
        fetch(tmp_path, offline=True)


def test_a_spoilt_file_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card = publish(monkeypatch, FILE)
    file = tmp_path / str(card.file)
    file.write_bytes(FILE)
    _flip(file, len(FILE) // 2)
    with pytest.raises(ValueError, match=f"{file.name} is not the file that was published: .*remove it to fetch it"):
        fetch(tmp_path)
    assert names(tmp_path) == {file.name}


def test_a_spoilt_file_does_not_matter_once_it_is_converted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, *_ = _fetched(tmp_path, monkeypatch)
    _flip(file, len(FILE) // 2)
    assert same(fetch(tmp_path, offline=True))


@pytest.mark.parametrize("offset", [-5, 3, 20])
def test_a_spoilt_converted_file_is_a_sentence(offset: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, _, converted, manifest = _fetched(tmp_path, monkeypatch)
    _flip(converted, offset)
    sentence = f"{converted.name} is not what was converted from {file.name}: remove it and {manifest.name}"
    with pytest.raises(ValueError, match=sentence):
        fetch(tmp_path, offline=True)
    manifest.unlink()
    assert same(fetch(tmp_path, offline=True))  # converted again


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", "{}", "[" * 100_000, "\xff", '{"sha256": 1}', '{"sha256": "", "source_sha256": ""}'],
    ids=["empty", "cut", "list", "null", "nothing", "deep", "latin", "number", "no-hashes"],
)
def test_a_spoilt_manifest_is_a_sentence(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, _, converted, manifest = _fetched(tmp_path, monkeypatch)
    manifest.write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=f"{converted.name} is not what was converted from"):
        fetch(tmp_path, offline=True)


def test_a_converted_file_of_another_source_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, _, converted, manifest = _fetched(tmp_path, monkeypatch)
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"source_sha256": "0" * 64}))
    with pytest.raises(ValueError, match=f"{converted.name} is not what was converted from"):
        fetch(tmp_path, offline=True)


@pytest.mark.parametrize("gone", [0b01, 0b10, 0b11], ids=["converted", "manifest", "both"])
def test_what_is_missing_is_made_again(gone: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, kept, converted, manifest = _fetched(tmp_path, monkeypatch)
    for bit, path in ((1, converted), (2, manifest)):
        if gone & bit:
            path.unlink()
    assert same(fetch(tmp_path, offline=True))
    assert names(tmp_path) == {file.name, kept.name, converted.name, manifest.name}
    file.unlink()
    assert same(fetch(tmp_path, offline=True))


def test_the_file_of_another_model_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hash is right, the content is not: the reader's answer, and nothing is converted."""
    content = saved({"weights": torch.ones(3)})
    card = publish(monkeypatch, content)
    (tmp_path / str(card.file)).write_bytes(content)
    with pytest.raises(ValueError, match=rf"{card.file} (does not fit its model|holds no weights of a known kind)"):
        fetch(tmp_path)
    assert names(tmp_path) == {card.file, f"{card.file}.sha256"}
