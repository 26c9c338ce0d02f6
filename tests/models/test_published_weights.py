"""The published names through the real download: weights that the live reference drew, saved as its release saves."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import ResNet50_Weights

from bcos_vit import ViT, create_model
from bcos_vit.models import zoo
from bcos_vit.models.weights import from_published, to_published
from loopback import Loopback, serving
from reference import NAMES, assert_same, by_hand, published
from toys import deviation, perturb_norms, random_images

LICENCE = "derived from ImageNet, whose terms allow non-commercial research only"
LARGE = [name for name in NAMES if "_b_" in name or "_l_" in name]
TI = "bcos_simple_vit_ti_patch16_224"


@pytest.fixture
def release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Loopback]:
    """A server of a folder of weights; the cache is beside it, and neither stays."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    (tmp_path / "release").mkdir()
    with serving(tmp_path / "release") as server:
        yield server
    for folder in ("release", "cache"):
        shutil.rmtree(tmp_path / folder, ignore_errors=True)


def reference_of(name: str, depth: int | None = None) -> nn.Module:
    """The reference's model of that name with weights that it drew, all norms unlike each other."""
    torch.manual_seed(3)
    if depth is None:
        model = getattr(published, name.removeprefix("bcos_"))(pretrained=False).eval()
    else:  # its entry points have but one depth
        model = by_hand(dataclasses.replace(zoo.CARDS[name].spec, depth=depth))
    before = model.state_dict()["0." * name.startswith("bcos") + "linear_head.norm.weight"].clone()
    perturb_norms(model)
    assert not torch.equal(before, model.state_dict()["0." * name.startswith("bcos") + "linear_head.norm.weight"])
    return model


def publish(name: str, reference: nn.Module, server: Loopback, monkeypatch: pytest.MonkeyPatch, depth: int) -> str:
    """Put the reference's weights on the server under a name with their hash, and say so on the card."""
    new = server.folder / "new"
    torch.save(reference.state_dict(), new)
    with new.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    card = zoo.CARDS[name]
    card = dataclasses.replace(
        card,
        spec=dataclasses.replace(card.spec, depth=depth),
        file=f"{name}-{digest[:10]}.pth",
        sha256_prefix=digest[:10],
        source=server.address,
    )
    new.rename(server.folder / str(card.file))
    monkeypatch.setitem(zoo.CARDS, name, card)
    return digest


def assert_identical(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Bit for bit, in the same order."""
    assert list(found) == list(expected)
    for key, tensor in expected.items():
        assert found[key].dtype == tensor.dtype
        assert torch.equal(found[key], tensor), key


def assert_described(model: ViT, name: str, digest: str) -> None:
    card = zoo.CARDS[name]
    assert model.spec == card.spec
    assert model.class_names == tuple(ResNet50_Weights.IMAGENET1K_V1.meta["categories"])
    assert model.about == {
        "name": name,
        "source": card.source,
        "sha256": digest,
        "licence": LICENCE,
        "recipe": card.recipe,
        "stated": {"top1": card.top1, "top5": card.top5},
    }
    assert card.top1 is not None
    assert not model.training


def check(name: str, server: Loopback, monkeypatch: pytest.MonkeyPatch, depth: int | None = None) -> None:
    reference = reference_of(name, depth)
    digest = publish(name, reference, server, monkeypatch, depth or zoo.CARDS[name].spec.depth)
    cache = server.folder.with_name("cache")
    file = str(zoo.CARDS[name].file)

    model = create_model(name, pretrained=True, cache_dir=cache, offline=False)
    assert server.requests == [f"GET /{file}"]
    assert_described(model, name, digest)
    images = random_images(1, 224 if depth is None else (96, 128), seed=1)
    assert_same(model, reference, images)

    theirs = dict(reference.state_dict())
    assert_identical(to_published(model), theirs)
    assert_identical(from_published(theirs), dict(model.state_dict()))

    (cache / file).unlink()
    again = create_model(name, pretrained=True, cache_dir=cache, offline=False)
    assert server.requests == [f"GET /{file}"]
    assert not (cache / file).exists()
    assert_described(again, name, digest)
    assert_identical(dict(again.state_dict()), dict(model.state_dict()))
    with torch.no_grad():
        # Not bitwise: the same numbers may lie elsewhere in memory, and sums depend on their alignment.
        assert deviation(again(images), model(images)) <= 1e-6


@pytest.mark.parametrize("name", [name for name in NAMES if name not in LARGE])
def test_published_names(name: str, release: Loopback, monkeypatch: pytest.MonkeyPatch) -> None:
    check(name, release, monkeypatch)


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if "_l_" in n else n for n in LARGE])
def test_published_names_with_two_blocks(name: str, release: Loopback, monkeypatch: pytest.MonkeyPatch) -> None:
    check(name, release, monkeypatch, depth=2)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bcos_vitc_l_patch1_14", "standard_simple_vit_b_patch16_224"])
def test_published_names_in_full(name: str, release: Loopback, monkeypatch: pytest.MonkeyPatch) -> None:
    check(name, release, monkeypatch)


def test_there_are_sixteen_names() -> None:
    assert len(NAMES) == len(set(NAMES)) == 16
    assert [name for name in NAMES if name.startswith("bcos")] == [
        f"bcos_{kind}_{size}_{patch}"
        for size in ("ti", "s", "b", "l")
        for kind, patch in (("simple_vit", "patch16_224"), ("vitc", "patch1_14"))
    ]


def test_a_downloaded_file_is_known_by_its_path(release: Loopback, monkeypatch: pytest.MonkeyPatch) -> None:
    reference = reference_of(TI)
    digest = publish(TI, reference, release, monkeypatch, 12)
    file = release.folder / str(zoo.CARDS[TI].file)
    named = create_model(file)
    assert_described(named, TI, digest)
    assert_identical(to_published(named), dict(reference.state_dict()))
    renamed = create_model(os.fspath(shutil.copy(file, file.with_name("mine.pth"))))
    assert (renamed.about, renamed.class_names, renamed.spec) == ({}, None, zoo.CARDS[TI].spec)
    assert_identical(dict(renamed.state_dict()), dict(named.state_dict()))
    torch.save(dict(perturb_norms(reference).state_dict()), file)  # another model under the name
    other = create_model(file)
    assert (other.about, other.class_names) == ({}, None)
    assert release.requests == []


def test_published_weights_for_other_photos(release: Loopback, monkeypatch: pytest.MonkeyPatch) -> None:
    """A head for other classes and another image size, over published weights as they are."""
    reference = reference_of(TI)
    publish(TI, reference, release, monkeypatch, 12)
    cache = release.folder.with_name("cache")
    model = create_model(TI, pretrained=True, cache_dir=cache, offline=False, num_classes=7, image_size=96)
    assert (model.spec.num_classes, model.spec.image_size, model.class_names) == (7, 96, None)
    assert "stated" not in model.about
    assert model.about["licence"] == LICENCE
    found, expected = to_published(model), reference.state_dict()
    assert list(found) == list(expected)
    changed = [key for key in found if not torch.equal(found[key], expected[key])]
    assert changed == ["0.linear_head.linear.linear.weight"]
    whole = create_model(TI, pretrained=True, cache_dir=cache, offline=True)  # what is kept is what was published
    assert_identical(to_published(whole), dict(expected))
