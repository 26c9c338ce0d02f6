"""Explaining from outside: callers of all kinds find everything as they left it, and their images are looked at."""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor

from bcos_vit import (
    Explanation,
    LedgerError,
    TopK,
    collapse,
    explain,
    frozen,
)
from bcos_vit.layers import constant
from bcos_vit.layers.mode import is_frozen
from bcos_vit.models.vit import ViT
from laws import TENSORS, assert_equal
from toys import images_for

# --- callers ---


@pytest.mark.parametrize("wants_gradient", [False, True])
def test_nothing_is_left_behind(model: ViT, images: Tensor, wants_gradient: bool) -> None:
    model.head.norm.weight.requires_grad_(False)
    model(images).sum().backward()  # gradients of the caller's own
    images.requires_grad_(wants_gradient)
    before = images.detach().clone()
    state = {name: t.clone() for name, t in model.state_dict().items()}
    gradients = {name: None if p.grad is None else p.grad.clone() for name, p in model.named_parameters()}
    wanted = {name: p.requires_grad for name, p in model.named_parameters()}

    first, second = explain(model, images), explain(model, images)

    assert_equal(first, second)
    assert images.requires_grad is wants_gradient
    assert images.grad is None
    assert torch.equal(images, before)
    assert not model.training
    assert not is_frozen()
    assert all(torch.equal(state[name], t) for name, t in model.state_dict().items())
    for name, p in model.named_parameters():
        assert p.requires_grad is wanted[name]
        assert p.grad is gradients[name] is None or torch.equal(p.grad, gradients[name])
    found = [getattr(first, name) for name in TENSORS if getattr(first, name) is not None]
    assert not any(t.requires_grad for t in [*found, *first.constants.values()])
    assert first.method == "inherent"
    assert torch.equal(first.images, images)


def test_images_with_a_past(model: ViT, images: Tensor) -> None:
    """The images may come out of a network of the caller's; no gradient flows back into it."""
    scale = torch.ones(1, requires_grad=True)
    e = explain(model, images * scale)
    assert_equal(e, explain(model, images))
    assert scale.grad is None


def test_callers_without_gradients(model: ViT) -> None:
    expected = explain(model, images_for(model), TopK(2))
    with torch.no_grad():
        assert_equal(explain(model, images_for(model), TopK(2)), expected)
        assert not torch.is_grad_enabled()
    with torch.inference_mode():
        made_inside = images_for(model)
        assert made_inside.is_inference()
        e = explain(model, made_inside, TopK(2))
        assert torch.is_inference_mode_enabled()
        assert_equal(e, expected)
        assert torch.equal(collapse(model, made_inside).rows(1), collapse(model, images_for(model)).rows(1))
    assert_equal(explain(model, made_inside, TopK(2)), expected)  # inference tensors outside of it
    assert_equal(e[:2], expected[:2])  # and what was made inside is of use outside
    assert torch.equal(e.check().colour(3), expected.colour(3))


def test_a_map_made_in_inference_mode_is_read_outside(model: ViT, images: Tensor) -> None:
    with torch.inference_mode():
        linear_map = collapse(model, images)
    assert torch.equal(linear_map.rows(0), collapse(model, images).rows(0))


def test_threads_do_not_meet(model: ViT) -> None:
    """Eight at once, on one model, between ordinary forward passes."""
    batches = [images_for(model, seed=seed) for seed in range(8)]
    expected = [explain(model, batch, TopK(2)) for batch in batches]

    def work(i: int) -> list[Explanation]:
        found = []
        for _ in range(5):
            found.append(explain(model, batches[i], TopK(2)))
            assert not is_frozen()
            assert torch.autograd.grad(model(batches[i]).sum(), model.blocks[0].attention.query_key.weight)[0].any()
        return found

    with ThreadPoolExecutor(8) as pool:
        for i, found in enumerate(pool.map(work, range(8))):
            for e in found:
                assert_equal(e, expected[i])


def test_inside_frozen_and_after(model: ViT, images: Tensor) -> None:
    expected = explain(model, images)
    with frozen():
        assert_equal(explain(model, images), expected)
        assert is_frozen()
        with pytest.raises(ValueError, match="out of range"):
            explain(model, images, 99)
        assert is_frozen()
        with frozen():
            pass
        assert is_frozen()
    assert not is_frozen()


def test_an_error_leaves_no_mode_behind(model: ViT, images: Tensor) -> None:
    with pytest.raises(ValueError, match="patch size"):
        explain(model, images[..., :-1])
    model.head.register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        explain(model, images)
    assert not is_frozen()
    assert constant("bias", images) is images  # nobody is recording


def test_the_result_is_an_ordinary_tensor_wherever_the_caller_is(model: ViT, images: Tensor) -> None:
    with torch.inference_mode():
        e = explain(model, images.clone())
    for tensor in (e.images, e.logit, e.contributions, e.weights, e.image, *e.constants.values()):
        assert not tensor.is_inference()
    (e.contributions * torch.ones(1, requires_grad=True)).sum().backward()  # may take part in a graph


def test_the_caller_may_use_the_memory_again(model: ViT, images: Tensor) -> None:
    buffer = images.clone()
    e = explain(model, buffer)
    buffer.zero_()
    assert torch.equal(e.images, images)


# --- images at the door ---


@pytest.mark.parametrize(
    ("value", "message"),
    [(math.nan, "NaN"), (1.01, "to 1.01"), (-0.5, "found -0.5 to"), (255.0, "to 255"), (math.inf, "to inf")],
)
@pytest.mark.parametrize("door", [explain, collapse])
def test_values_are_looked_at(door: Callable[..., Any], model: ViT, value: float, message: str) -> None:
    images = images_for(model)
    images[1, 2, 3, 4] = value
    with pytest.raises(ValueError, match=message):
        door(model, images)
    door(model, images, check_values=False)


def test_values_within_rounding_are_fine(model: ViT, images: Tensor) -> None:
    images[0, 0, 0, :2] = torch.tensor([-0.0009, 1.0009])
    explain(model, images).check()


def test_no_images(model: ViT) -> None:
    with pytest.raises(ValueError, match=r"\(0, 3, 12, 12\)"):
        explain(model, torch.empty(0, 3, 12, 12))


def test_a_nan_that_was_let_in_does_not_pass_the_check(model: ViT, images: Tensor) -> None:
    images[1] = math.nan
    e = explain(model, images, check_values=False)
    with pytest.raises(LedgerError, match="1 of 3 ledgers"):
        e.check()
    e[0].check()


def test_images_that_are_no_tensors_or_no_floats_are_named_first(model: ViT, images: Tensor) -> None:
    with pytest.raises(TypeError, match=r"images must be a torch.Tensor, found ndarray"):
        explain(model, images.numpy())
    with pytest.raises(TypeError, match=r"found torch.uint8: divide bytes by 255"):
        explain(model, (255 * images).byte())
    with pytest.raises(TypeError, match=r"found torch.complex64"):
        explain(model, images.to(torch.complex64))
