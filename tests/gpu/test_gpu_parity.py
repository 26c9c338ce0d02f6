"""What a device predicts and explains is what the CPU does in float64, up to the rounding of its precision."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from bcos_vit import Contrast, TopK, Unit, anatomy, collapse, create_model, explain, frozen, predict
from bcos_vit.layers.precision import ieee_float32
from bcos_vit.models.vit import ViT
from devices import DEVICE, IS_CUDA, KINDS, exact, images_like, off, on_device

ROUNDING = 1e-5  # of the largest logit, as files are held to
ROWS = 3e-5
LOW = {torch.bfloat16: (4e-2, 8e-2), torch.float16: (4e-3, 4e-2)}
"""Of logits and of maps: three times what a CPU does to these models. Float16 has few small numbers, as rows are."""

ALL = pytest.mark.parametrize("kind", KINDS)
SOME = pytest.mark.parametrize("kind", ["sincos", "stem"])


@pytest.fixture
def fast_products() -> Iterator[None]:
    """What users choose for speed: TF32 on a GPU, bfloat16 on a CPU that has it."""
    products, cudnn = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("high" if IS_CUDA else "medium")
    torch.backends.cudnn.allow_tf32 = True
    yield
    torch.set_float32_matmul_precision(products)
    torch.backends.cudnn.allow_tf32 = cudnn


@ALL
def test_logits_rows_and_ledger_in_float32(kind: str) -> None:
    model = exact(kind)
    here = on_device(model)
    found, expected = (collapse(m, images_like(m)) for m in (here, model))
    assert found.logits.device.type == DEVICE.type
    assert off(found.logits, expected.logits) <= ROUNDING
    assert off(found.matrix(), expected.matrix()) <= ROWS
    e = explain(here, images_like(here)).check()
    right = explain(model, images_like(model), e.target.cpu())
    assert off(e.contributions, right.contributions) <= ROWS
    for name, line in right.constants.items():
        assert bool(((e.constants[name].cpu() - line).abs() <= ROWS * right.scale).all()), name


@SOME
def test_predictions_in_float32_without_fast_products(kind: str) -> None:
    model = exact(kind)
    with torch.no_grad(), ieee_float32():
        assert off(on_device(model)(images_like(on_device(model))), model(images_like(model))) <= ROUNDING


@SOME
def test_fast_products_are_kept_out_of_explanations(kind: str, fast_products: None) -> None:
    model = exact(kind)
    here = on_device(model)
    with torch.no_grad():
        fast = off(here(images_like(here)), model(images_like(model)))
    if fast <= ROUNDING:
        pytest.skip("this device has no fast products of float32")
    e = explain(here, images_like(here), 3).check()
    right = explain(model, images_like(model), 3)
    assert off(e.logit, right.logit) <= ROUNDING
    assert off(e.contributions, right.contributions) <= ROWS
    anatomy(here, images_like(here)).check()
    with torch.no_grad():
        assert off(here(images_like(here)), model(images_like(model))) > ROUNDING  # they are back


@pytest.mark.parametrize("autocast", [False, True], ids=["whole", "autocast"])
@pytest.mark.parametrize("low", LOW, ids=str)
@ALL
def test_low_precision(kind: str, low: torch.dtype, autocast: bool) -> None:
    model = exact(kind)
    here = on_device(model, torch.float32 if autocast else low)
    with torch.autocast(DEVICE.type, low, enabled=autocast):
        e = explain(here, images_like(here), 3).check()
        with torch.no_grad():
            predicted = here(images_like(here))
    right = explain(model, images_like(model), 3)
    assert e.logit.dtype == low
    assert e.contributions.dtype == torch.float32
    with torch.no_grad():
        assert off(predicted, model(images_like(model))) <= LOW[low][0]
    if kind != "max-out":  # where rounding changes which unit wins
        error = (e.contributions.double().cpu() - right.contributions).norm() / right.contributions.norm()
        assert error <= LOW[low][1]


@ALL
def test_several_targets_at_once(kind: str) -> None:
    here = on_device(exact(kind))
    images = images_like(here)
    e = explain(here, images, TopK(3)).check()
    for number, target in enumerate(e.target.T):
        alone = explain(here, images, target)
        assert off(e.of_target(number).contributions, alone.contributions) <= ROWS
    images = images_like(here, 8)
    many = explain(here, images, torch.arange(10).expand(8, 10)).check()  # in several chunks
    assert off(many.of_target(9).contributions, explain(here, images, 9).contributions) <= ROWS
    explain(here, images, Contrast(1, 2)).check()


@ALL
def test_stages_and_anatomy(kind: str) -> None:
    model = exact(kind)
    here = on_device(model)
    found, right = (anatomy(m, images_like(m), 3) for m in (here, model))
    found.check()
    for name, tokens in right.tokens.items():
        assert off(found.tokens[name], tokens) <= 10 * ROWS, name
    assert off(found.heads, right.heads) <= 10 * ROWS
    assert off(found.classes, right.classes) <= 10 * ROWS
    at = [explain(m, images_like(m), 3, at="blocks.0") for m in (here, model)]
    assert off(at[0].check().contributions, at[1].contributions) <= ROWS
    units = [explain(m, images_like(m), Unit("blocks.0", 5, 7)) for m in (here, model)]
    assert off(units[0].check().contributions, units[1].contributions) <= ROWS


@SOME
def test_learning_gradients(kind: str) -> None:
    model = exact(kind)
    with ieee_float32():
        for m in (here := on_device(model), model):
            m(images_like(m)).square().sum().backward()
    for (name, mine), theirs in zip(here.named_parameters(), model.parameters(), strict=True):
        assert mine.grad is not None
        assert theirs.grad is not None
        assert off(mine.grad, theirs.grad) <= 1e-4, name


@SOME
def test_channels_last(kind: str) -> None:
    model = exact(kind)
    here = on_device(model).to(memory_format=torch.channels_last)
    images = images_like(here).contiguous(memory_format=torch.channels_last)
    found, right = explain(here, images, 3).check(), explain(model, images_like(model), 3)
    assert off(found.logit, right.logit) <= ROUNDING
    assert off(found.contributions, right.contributions) <= ROWS
    assert found.weights is not None
    assert right.weights is not None
    assert off(found.weights, right.weights) <= ROWS


def test_held_still_there_is_no_second_derivative() -> None:
    here: ViT = on_device(exact("stem"))
    x = here.encode(images_like(here)).detach().requires_grad_()
    with frozen():
        (row,) = torch.autograd.grad(here.forward_encoded(x).sum(), x, create_graph=True)
        (second,) = torch.autograd.grad((row * x.detach()).sum(), x, allow_unused=True)
    assert second is None or not second.any()


def test_a_result_goes_to_the_cpu_and_into_a_file(tmp_path) -> None:
    here = create_model("bcos_vit_digits", pretrained=True).to(DEVICE)
    images: Tensor = images_like(here)
    e = explain(here, images)
    e.to("cpu").check().save(tmp_path / "e.safetensors")
    e.save(tmp_path / "there.safetensors")
    assert e.colour().device.type == DEVICE.type
    assert e.numpy()["contributions"].shape == (4, 8, 8)
    assert predict(here, images).logits.device.type == DEVICE.type


def test_images_on_another_device_are_refused() -> None:
    if not IS_CUDA:
        pytest.skip("there is one CPU")
    here = on_device(exact("sincos"))
    with pytest.raises(RuntimeError, match="device"):
        explain(here, images_like(here).cpu())
