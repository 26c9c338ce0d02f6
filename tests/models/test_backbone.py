"""The models as backbones: features, heads and intermediate tokens, as users of timm know them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch import Tensor, nn

from bcos_vit import ViT
from kinds import KINDS, kind, wide_images
from toys import deviation, images_for, toy

DEPTH = 12


@contextlib.contextmanager
def watched(model: nn.Module) -> Iterator[dict[int, Tensor]]:
    """What every block that runs gives back, by its number."""
    seen: dict[int, Tensor] = {}
    hooks = [
        block.register_forward_hook(lambda _, __, out, number=number: seen.__setitem__(number, out))
        for number, block in enumerate(model.blocks)
    ]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def grid(model: ViT, images: Tensor) -> tuple[int, int]:
    return images.shape[2] // model.spec.patch_size, images.shape[3] // model.spec.patch_size


# --- features and heads ---


@pytest.mark.parametrize("name", KINDS)
def test_the_model_is_its_features_and_its_head(name: str) -> None:
    model = kind(name)
    images = wide_images(model)
    height, width = grid(model, images)
    with torch.no_grad(), watched(model) as seen:
        tokens = model.forward_features(images)
        assert tokens.shape == (2, height * width, model.num_features)
        assert torch.equal(tokens, seen[model.spec.depth - 1])
        assert torch.equal(model.forward_head(tokens), model(images))
        assert model(images).shape == (2, 5)


@pytest.mark.parametrize("name", KINDS)
def test_features_classified_by_hand_are_the_logits(name: str) -> None:
    model = kind(name, dtype=torch.float64)
    spec = model.spec
    images = wide_images(model)
    height, width = grid(model, images)
    with torch.no_grad():
        tokens = model.forward_features(images)
        features = model.forward_head(tokens, pre_logits=True)
        each = spec.head == "tokens"
        assert features.shape == ((2, height * width, spec.width) if each else (2, spec.width))
        scores = model.get_classifier()(features)
        by_hand = spec.logit_scale * (scores.mean(1) if each else scores) + spec.bias
        assert deviation(by_hand, model(images)) <= 1e-14
        normed = nn.functional.layer_norm(tokens if each else tokens.mean(1), (spec.width,), model.head.norm.weight)
        bias = model.head.norm.bias
        assert deviation(features, normed if bias is None else normed + bias) <= 1e-5
    assert model.num_features == spec.width
    assert model.get_classifier() is model.head.classify


# --- intermediate tokens ---


@pytest.mark.parametrize("name", KINDS)
def test_intermediates_are_the_blocks_outputs(name: str) -> None:
    model = kind(name, depth=3)
    images = wide_images(model)
    height, width = grid(model, images)
    with torch.no_grad(), watched(model) as seen:
        tokens, flat = model.forward_intermediates(images, output_fmt="NLC")
        assert torch.equal(tokens, model.forward_features(images))
        assert torch.equal(flat[-1], tokens)
        assert len(flat) == 3
        assert all(torch.equal(found, seen[number]) for number, found in enumerate(flat))
        _, maps = model.forward_intermediates(images)
        for found, expected in zip(maps, flat, strict=True):
            assert found.shape == (2, model.num_features, height, width)
            for i in range(height):
                for j in range(width):
                    assert torch.equal(found[:, :, i, j], expected[:, i * width + j])


@pytest.mark.parametrize("name", KINDS)
def test_normed_intermediates(name: str) -> None:
    """With the head's norm; the tokens that come back beside them go to the head, which norms them itself."""
    model = kind(name, depth=3)
    images = wide_images(model)
    with torch.no_grad():
        _, plain = model.forward_intermediates(images, [0, 2], output_fmt="NLC")
        tokens, normed = model.forward_intermediates(images, [0, 2], norm=True, output_fmt="NLC")
        _, maps = model.forward_intermediates(images, [0, 2], norm=True)
    assert torch.equal(tokens, plain[1])
    for before, after, pixels in zip(plain, normed, maps, strict=True):
        assert torch.equal(after, model.head.norm(before))
        assert not torch.equal(after, before)
        assert torch.equal(pixels.flatten(2).mT, after)


@pytest.mark.parametrize("name", ["bcos-none-pool", "bcos-rope-tokens", "standard-sincos-pool"])
def test_a_pixel_of_the_map_is_its_patch(name: str) -> None:
    """Where tokens do not attend, a patch of the image changes its own token alone."""
    model = kind(name)
    for block in model.blocks:
        block.attention.register_forward_hook(lambda _, __, out: torch.zeros_like(out))
    images, patch = wide_images(model, 1), model.spec.patch_size
    other = images.clone()
    other[..., patch : 2 * patch, 2 * patch : 3 * patch] *= 0.5
    with torch.no_grad():
        one, two = (model.forward_intermediates(i)[1][-1][0] for i in (images, other))
    changed = (one != two).any(0)
    assert changed.shape == (2, 4)
    assert changed.nonzero().tolist() == [[1, 2]]


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize(("indices", "ran"), [([0], 1), ([0, 1], 2), ([-2], 2), (1, 3), ([], 0), ([1, -3], 2)], ids=str)
def test_no_later_block_runs_after_an_early_stop(indices: Any, ran: int, norm: bool) -> None:
    model = kind("bcos-rope-pool", depth=3)
    images = wide_images(model)
    with torch.no_grad():
        with watched(model) as seen:
            tokens, found = model.forward_intermediates(images, indices, norm=norm, stop_early=True)
        assert sorted(seen) == list(range(ran))
        if ran:
            assert torch.equal(tokens, seen[ran - 1])
        with watched(model) as seen:
            whole, same = model.forward_intermediates(images, indices, norm=norm)
        assert sorted(seen) == [0, 1, 2]
        assert torch.equal(whole, seen[2])
    assert len(found) == len(same)
    assert all(torch.equal(a, b) for a, b in zip(found, same, strict=True))


def test_intermediates_let_gradients_through() -> None:
    model = kind("bcos-stem-sincos-pool", depth=3)
    images = wide_images(model).requires_grad_()
    _, found = model.forward_intermediates(images, [1])
    found[0].square().sum().backward()
    assert images.grad.abs().max() > 0
    assert model.blocks[1].mlp.contract.weight.grad.abs().max() > 0
    assert model.blocks[2].mlp.contract.weight.grad is None


# --- as timm does it ---


@pytest.fixture(scope="module")
def pair() -> tuple[ViT, nn.Module]:
    """Ours and timm's, of one depth."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        theirs = timm.create_model("vit_tiny_patch16_224", pretrained=False, img_size=32, num_classes=5).eval()
    assert len(theirs.blocks) == DEPTH
    return toy("standard_simple_vit_ti_patch16_224", depth=DEPTH), theirs


def blocks_that_come_back(model: nn.Module, **given: Any) -> tuple[list[int], list[int]]:
    """The numbers of the blocks whose tokens are returned, and of those that ran."""
    images = images_for(model, 1) if isinstance(model, ViT) else torch.rand(1, 3, 32, 32)
    with torch.no_grad(), watched(model) as seen:
        _, found = model.forward_intermediates(images, output_fmt="NLC", **given)
    # timm's class token comes first
    outputs = {number: out[:, -found[0].shape[1] :] for number, out in seen.items()}
    numbers = [[n for n, out in outputs.items() if torch.equal(out, tokens)] for tokens in found]
    assert all(len(matches) == 1 for matches in numbers)
    return [number for (number,) in numbers], sorted(seen)


@pytest.mark.parametrize("stop_early", [False, True])
@pytest.mark.parametrize(
    "indices",
    [None, 1, 2, 5, DEPTH, [0], [-1], [2, 5], [5, 2], [-1, 0], [3, 3], [-2, 10], (1, 4), [-DEPTH], range(2, 9, 3)],
    ids=str,
)
def test_the_same_blocks_come_back_as_from_timm(pair: tuple[ViT, nn.Module], indices: Any, stop_early: bool) -> None:
    ours, theirs = (blocks_that_come_back(m, indices=indices, stop_early=stop_early) for m in pair)
    assert ours == theirs


@pytest.mark.parametrize("indices", [0, -1, DEPTH + 1, [DEPTH], [-DEPTH - 1], [0, DEPTH + 5]], ids=str)
def test_blocks_that_there_are_not_are_refused_as_by_timm(pair: tuple[ViT, nn.Module], indices: Any) -> None:
    ours, theirs = pair
    with pytest.raises(AssertionError):
        theirs.forward_intermediates(torch.rand(1, 3, 32, 32), indices)
    with pytest.raises(ValueError, match="the model has 12 blocks, 0 to 11, but indices are "):
        ours.forward_intermediates(images_for(ours, 1), indices)


@pytest.mark.parametrize("indices", [[1.5], 1.5, "all", [None]], ids=str)
def test_what_is_no_number_of_a_block_is_refused(indices: Any) -> None:
    model = kind("bcos-rope-pool")
    with pytest.raises(TypeError, match=r"indices must be None, a whole number or several, found ") as error:
        model.forward_intermediates(images_for(model, 1), indices)
    assert str(error.value).endswith(repr(indices))


def test_numbers_of_numpy_and_torch_are_numbers() -> None:
    model = kind("bcos-rope-pool", depth=3)
    images = wide_images(model)
    with torch.no_grad():
        expected = model.forward_intermediates(images, [0, -1], intermediates_only=True)
        for indices in (np.array([0, -1]), torch.tensor([0, -1]), [np.int64(0), np.int8(-1)], {0, 2}):
            found = model.forward_intermediates(images, indices, intermediates_only=True)
            assert len(found) == 2
            assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_intermediates_alone(pair: tuple[ViT, nn.Module]) -> None:
    for model, images in zip(pair, (images_for(pair[0], 1), torch.rand(1, 3, 32, 32)), strict=True):
        with torch.no_grad():
            alone = model.forward_intermediates(images, [1, 3], intermediates_only=True)
            _, found = model.forward_intermediates(images, [1, 3])
        assert isinstance(alone, list)
        assert all(torch.equal(a, b) for a, b in zip(alone, found, strict=True))


@pytest.mark.parametrize("output_fmt", ["nchw", "NHWC", None])
def test_other_formats_are_refused(output_fmt: Any) -> None:
    model = kind("bcos-rope-pool")
    with pytest.raises(ValueError, match=f"output_fmt must be 'NCHW' or 'NLC', found {output_fmt!r}"):
        model.forward_intermediates(images_for(model, 1), output_fmt=output_fmt)


def test_the_usual_calls_of_timm_mean_the_same(pair: tuple[ViT, nn.Module]) -> None:
    for model, images in zip(pair, (images_for(pair[0], 2), torch.rand(2, 3, 32, 32)), strict=True):
        with torch.no_grad():
            tokens = model.forward_features(images)
            assert tokens.shape[2] == model.num_features
            assert torch.equal(model.forward_head(tokens), model(images))
            assert model.forward_head(tokens, pre_logits=True).shape == (2, model.num_features)
            maps = model.forward_intermediates(images, 1, norm=True, stop_early=True, output_fmt="NCHW")[1]
        assert maps[0].shape[:2] == (2, model.num_features)
        model.reset_classifier(7)
        assert model(images).shape == (2, 7)
        assert model.get_classifier().weight.shape[0] == 7
        model.reset_classifier(5)
