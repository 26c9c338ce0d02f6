"""What may be explained, in every way to say it, and the sentences for what may not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from bcos_vit import Contrast, Explanation, TopK, collapse, explain
from laws import assert_close
from toys import images_for, toy

CLASSES = 5
BATCH = 3
FIELDS = ("logit", "probability", "contributions", "magnitude", "weights")


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    return toy("bcos_simple_vit_ti_patch16_224", dtype=torch.float64)


@pytest.fixture(scope="module")
def images(model: Any) -> Tensor:
    return images_for(model, BATCH)


@pytest.fixture(scope="module")
def single(model: Any, images: Tensor) -> list[Explanation]:
    """The explanation of every class for all images, a call a class."""
    return [explain(model, images, c) for c in range(CLASSES)]


BATCHED = 1e-12
"""Of the largest entry: several targets share a backward pass, whose products are summed in another order."""


def assert_is(
    found: Explanation, expected: Explanation, images: slice | int = slice(None), *, rtol: float = 0.0
) -> None:
    """The same numbers, bit for bit unless ``rtol`` allows more: a class is explained as if it were the only one."""
    for name in FIELDS:
        assert_close(getattr(found, name), getattr(expected, name)[images], rtol, name)
    assert found.constants.keys() == expected.constants.keys() == {"position", "bias"}
    for name, constant in found.constants.items():
        assert_close(constant, expected.constants[name][images], rtol, name)


@pytest.mark.parametrize("c", range(CLASSES))
@pytest.mark.parametrize("kind", [int, np.int64, np.uint8, torch.tensor], ids=["int", "int64", "uint8", "tensor"])
def test_one_class(model: Any, images: Tensor, single: list[Explanation], kind: Any, c: int) -> None:
    e = explain(model, images, kind(c))
    assert e.target.tolist() == [c] * BATCH
    assert e.target.dtype == torch.int64
    assert e.against is None
    assert e.cost == 2
    assert_is(e, single[c])
    logits = collapse(model, images).logits
    assert torch.equal(e.logit, logits[:, c])
    assert torch.equal(e.probability, logits[:, c].sigmoid())
    assert torch.equal(e.magnitude, logits[:, c].abs())


def test_the_predicted_class_by_default(model: Any, images: Tensor, single: list[Explanation]) -> None:
    e = explain(model, images)
    assert torch.equal(e.target, model(images).argmax(1))
    for i, c in enumerate(e.target.tolist()):
        assert_is(e[i], single[c], i)


@pytest.mark.parametrize(
    "target",
    [
        [4, 0, 2],
        (4, 0, 2),
        [np.int64(4), np.int32(0), np.int64(2)],
        np.array([4, 0, 2]),
        torch.tensor([4, 0, 2]),
        torch.tensor([4, 0, 2], dtype=torch.uint8),
        torch.tensor([4, 0, 2], dtype=torch.int32),
    ],
    ids=["list", "tuple", "numpy ints", "numpy", "int64", "uint8", "int32"],
)
def test_a_class_for_every_image(model: Any, images: Tensor, single: list[Explanation], target: Any) -> None:
    e = explain(model, images, target)
    assert e.target.tolist() == [4, 0, 2]
    assert e.logit.shape == (BATCH,)
    assert e.weights.shape == (BATCH, 6, 12, 12)
    for i, c in enumerate([4, 0, 2]):
        assert_is(e[i], single[c], i)


@pytest.mark.parametrize("kind", [list, np.array, torch.tensor], ids=["list", "numpy", "tensor"])
def test_several_classes_for_every_image(model: Any, images: Tensor, single: list[Explanation], kind: Any) -> None:
    classes = [[0, 4], [1, 1], [3, 2]]  # the same class twice is no mistake
    e = explain(model, images, kind(classes))
    assert e.target.tolist() == classes
    assert e.cost == 3
    assert e.images.shape == (BATCH, 3, 12, 12)
    assert e.contributions.shape == (BATCH, 2, 12, 12)
    assert e.weights.shape == (BATCH, 2, 6, 12, 12)
    scalars = (e.logit, e.probability, e.magnitude, e.image, e.residual, e.relative_residual, e.image_share)
    assert {t.shape for t in (*scalars, *e.constants.values())} == {(BATCH, 2)}
    for i in range(BATCH):
        for t in range(2):
            assert_is(e[i].of_target(t), single[classes[i][t]], i, rtol=BATCHED)
            assert_is(e.of_target(t)[i], single[classes[i][t]], i, rtol=BATCHED)


def test_one_target_of_several_keeps_an_axis(model: Any, images: Tensor) -> None:
    e = explain(model, images, [[1], [2], [3]])
    assert e.target.shape == (BATCH, 1)
    assert e.weights.shape == (BATCH, 1, 6, 12, 12)


def test_one_of_many_targets(model: Any, images: Tensor, single: list[Explanation]) -> None:
    """More targets than an image has channels."""
    e = explain(model, images, TopK(CLASSES))
    for t in range(CLASSES):
        assert_is(e.of_target(t)[0], single[int(e.target[0, t])], 0, rtol=BATCHED)
        assert torch.equal(e.of_target(t).images, images)
        assert torch.equal(e[1].of_target(t).images, images[1])
    with pytest.raises(TypeError, match="one target only"):
        single[0].of_target(0)


@pytest.mark.parametrize("k", [1, 2, CLASSES])
def test_top_k(model: Any, images: Tensor, single: list[Explanation], k: int) -> None:
    e = explain(model, images, TopK(k))
    assert torch.equal(e.target, model(images).argsort(1, descending=True)[:, :k])
    assert e.target.shape == (BATCH, k)
    assert (e.logit.diff(dim=1) <= 0).all()
    for i in range(BATCH):
        for t in range(min(k, 3)):
            assert_is(e[i].of_target(t), single[int(e.target[i, t])], i, rtol=BATCHED)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (3, 1),
        (np.int64(3), torch.tensor(1)),
        (torch.tensor([0, 1, 2]), torch.tensor([4, 3, 1])),
        (torch.tensor([0, 1, 2]), 3),
        (0, [4, 3, 1]),
    ],
    ids=["ints", "scalars", "tensors", "tensor-int", "int-list"],
)
def test_contrast(model: Any, images: Tensor, single: list[Explanation], a: Any, b: Any) -> None:
    e = explain(model, images, Contrast(a, b)).check()
    assert e.probability is None
    assert e.cost == 2
    for given, found in ((a, e.target), (b, e.against)):
        assert torch.equal(found, torch.as_tensor(given).expand(BATCH))
    assert torch.equal(e.constants["bias"], torch.zeros(BATCH, dtype=torch.float64))
    for i in range(BATCH):
        one, other = single[int(e.target[i])], single[int(e.against[i])]
        for name in ("logit", "contributions", "weights"):
            difference = getattr(one, name)[i] - getattr(other, name)[i]
            torch.testing.assert_close(getattr(e, name)[i], difference, rtol=1e-11, atol=1e-14)
        position = one.constants["position"][i] - other.constants["position"][i]
        torch.testing.assert_close(e.constants["position"][i], position, rtol=1e-11, atol=1e-14)
        assert torch.equal(e.magnitude[i], one.logit[i].abs() + other.logit[i].abs())


def test_contrast_is_one_backward_pass_of_a_row(model: Any, images: Tensor) -> None:
    rows = collapse(model, images).rows(Contrast(2, 0))
    assert torch.equal(rows, explain(model, images, Contrast(2, 0)).weights)


def test_a_contrast_turned_round_changes_sign(model: Any, images: Tensor) -> None:
    there, back = explain(model, images, Contrast(2, 0)), explain(model, images, Contrast(0, 2))
    assert torch.equal(there.logit, -back.logit)
    torch.testing.assert_close(there.weights, -back.weights, rtol=1e-12, atol=1e-15)


# --- what may not be explained ---


@pytest.mark.parametrize(
    ("target", "error", "message"),
    [
        (CLASSES, ValueError, r"target 5 is out of range.*0 to 4"),
        (-1, ValueError, r"target -1 is out of range.*0 to 4"),
        ([0, 1, 77], ValueError, r"target 77 is out of range"),
        ([[0, 1], [2, -3], [0, 0]], ValueError, r"target -3 is out of range"),
        (torch.tensor([0, 1, 9]), ValueError, r"target 9 is out of range"),
        (1.0, TypeError, r"whole class numbers, found 1\.0 \(torch\.float"),
        (1.5, TypeError, r"whole class numbers, found 1\.5 \(torch\.float"),
        (np.float32(1), TypeError, r"whole class numbers, found 1\.0 \(torch\.float32"),
        (torch.tensor([0.0, 1.0, 2.0]), TypeError, r"whole class numbers, found 0\.0 \(torch\.float32"),
        (True, TypeError, r"whole class numbers, found True \(torch\.bool"),
        ([True, False, True], TypeError, r"whole class numbers, found True \(torch\.bool"),
        (1j, TypeError, r"whole class numbers, found 1j \(torch\.complex"),
        ("cat", TypeError, r"whole class numbers, found 'cat'"),
        ([0, None, 1], TypeError, r"whole class numbers, found \[0, None, 1\]"),
        ([[0], [1, 2], [3]], TypeError, r"whole class numbers, found \[\[0\], \[1, 2\], \[3\]\]"),
        (object, TypeError, r"whole class numbers, found <class 'object'>"),
        ([0, 1], ValueError, r"\(3,\) classes or \(3, T\) classes for 3 images, found shape \(2,\)"),
        ([0], ValueError, r"for 3 images, found shape \(1,\)"),
        ([[0, 1, 2]], ValueError, r"for 3 images, found shape \(1, 3\)"),
        ([[0, 1, 2], [0, 1, 2]], ValueError, r"for 3 images, found shape \(2, 3\)"),
        ([[[0]], [[1]], [[2]]], ValueError, r"for 3 images, found shape \(3, 1, 1\)"),
        (torch.zeros(3, 0, dtype=torch.int64), ValueError, r"for 3 images, found shape \(3, 0\)"),
        (TopK(CLASSES + 1), ValueError, r"TopK\(6\).*the model's 5"),
        (Contrast(2, 2), ValueError, r"two different classes, found 2 twice"),
        (Contrast(torch.tensor([0, 1, 4]), torch.tensor([1, 0, 4])), ValueError, r"different classes, found 4 twice"),
        (Contrast(torch.tensor([0, 3, 1]), 3), ValueError, r"different classes, found 3 twice"),
        (Contrast(0, 5), ValueError, r"target 5 is out of range"),
        (Contrast(-2, 0), ValueError, r"target -2 is out of range"),
        (Contrast(0.0, 1), TypeError, r"whole class numbers, found 0\.0 \(torch\.float"),
        (Contrast(0, True), TypeError, r"whole class numbers, found True \(torch\.bool"),
        (Contrast(torch.tensor([0, 1]), 2), ValueError, r"one class or \(3,\) classes, found shape \(2,\)"),
        (Contrast(0, torch.tensor([[1], [1], [1]])), ValueError, r"\(3,\) classes, found shape \(3, 1\)"),
    ],
    ids=repr,
)
def test_targets_that_do_not_fit(model: Any, images: Tensor, target: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        explain(model, images, target)
    with pytest.raises(error, match=message):
        collapse(model, images).rows(target)


@pytest.mark.parametrize("k", [0, -2, 1.0, True, None, "3"])
def test_top_k_needs_a_count(k: object) -> None:
    with pytest.raises(ValueError, match=f"at least 1, found {k!r}"):
        TopK(k)
