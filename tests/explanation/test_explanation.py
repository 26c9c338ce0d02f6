"""Explaining from outside: callers and wrappers of all kinds, and what an explanation can do for them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning import LightningModule
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from bcos_vit import (
    Contrast,
    Explanation,
    LedgerError,
    TopK,
    collapse,
    create_model,
    explain,
    frozen,
    predict,
    save_model,
)
from bcos_vit.layers import Attention, BcosLinear, LayerNorm, Logits, Mlp, PoolHead, SixChannels, Tokens, constant
from bcos_vit.layers.mode import is_frozen
from bcos_vit.models.vit import ViT
from toys import images_for, random_images, toy

NAME = "bcos_simple_vit_ti_patch16_224"
VITC = "bcos_vitc_ti_patch1_14"
TENSORS = ("images", "target", "logit", "probability", "contributions", "magnitude", "weights", "against", "tokens")


@pytest.fixture
def model() -> ViT:
    return toy(NAME)


@pytest.fixture
def images(model: ViT) -> Tensor:
    return images_for(model)


def assert_equal(found: Explanation, expected: Explanation) -> None:
    """Bit for bit, field by field."""
    for name in TENSORS:
        mine, theirs = getattr(found, name), getattr(expected, name)
        assert (mine is None) == (theirs is None), name
        assert mine is None or (mine.dtype == theirs.dtype and torch.equal(mine, theirs)), name
    assert found.constants.keys() == expected.constants.keys()
    assert all(torch.equal(found.constants[name], t) for name, t in expected.constants.items())
    assert (found.method, found.cost) == (expected.method, expected.cost)


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


# --- wrappers ---


class Holder(LightningModule):
    """A LightningModule that keeps the model under a usual name."""

    def __init__(self, name: str, inner: nn.Module) -> None:
        super().__init__()
        self.add_module(name, inner)
        self.criterion = nn.CrossEntropyLoss()


WRAPPERS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "Lightning model": partial(Holder, "model"),
    "Lightning net": partial(Holder, "net"),
    "DataParallel": nn.DataParallel,
    "AveragedModel": AveragedModel,
    "two": lambda model: nn.DataParallel(Holder("model", model)),
}


@pytest.mark.parametrize("name", WRAPPERS)
def test_wrappers(model: ViT, images: Tensor, name: str) -> None:
    wrapped = WRAPPERS[name](model)
    assert_equal(explain(wrapped, images, [0, 1, 2]), explain(model, images, [0, 1, 2]))


def test_a_module_that_computes_something_else_is_not_unwrapped(model: ViT, images: Tensor) -> None:
    class Half(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = self.module = model

        def forward(self, images: Tensor) -> Tensor:
            return self.model(images / 2)

    with pytest.raises(TypeError, match=r"Half cannot be explained.*if it holds a model that has, pass that"):
        explain(Half(), images)


def test_predicting_and_saving_unwrap_too(model: ViT, images: Tensor, tmp_path: Path) -> None:
    compiled = torch.compile(model, backend="aot_eager")
    assert torch.equal(predict(nn.DataParallel(model), images).classes, predict(model, images).classes)
    save_model(compiled, tmp_path / "model.safetensors")
    saved = create_model(tmp_path / "model.safetensors").state_dict()
    assert saved.keys() == model.state_dict().keys()
    with pytest.raises(TypeError, match="a model of this project is needed, found Linear"):
        save_model(nn.Linear(2, 2), tmp_path / "other.safetensors")


def test_compiled(model: ViT, images: Tensor) -> None:
    expected = explain(model, images)
    compiled = torch.compile(model, backend="aot_eager")
    compiled(images)
    assert_equal(explain(compiled, images), expected)
    assert_equal(explain(Holder("model", compiled), images), expected)
    model.compile(backend="aot_eager")  # in place
    model(images)
    assert_equal(explain(model, images), expected)
    torch._dynamo.reset()


def test_distributed(model: ViT, images: Tensor, tmp_path: Path) -> None:
    expected = explain(model, images)
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        assert_equal(explain(nn.parallel.DistributedDataParallel(model), images), expected)
    finally:
        torch.distributed.destroy_process_group()


def test_training_mode(model: ViT, images: Tensor) -> None:
    expected = explain(model, images)
    model.train()
    assert_equal(explain(model, images), expected)
    assert model.training


@pytest.mark.parametrize("dropout", [nn.Dropout, nn.AlphaDropout])
def test_dropout(model: ViT, images: Tensor, dropout: type[nn.Dropout]) -> None:
    expected = explain(model, images)
    model.blocks[0].mlp.activation = dropout(0.5)
    assert_equal(explain(model.eval(), images), expected)
    with pytest.raises(ValueError, match=r"model\.eval\(\)"):
        explain(model.train(), images)
    with pytest.raises(ValueError, match=r"model\.eval\(\)"):
        explain(Holder("model", model), images)
    model.blocks[0].mlp.activation = dropout(0.0)
    assert_equal(explain(model.train(), images), expected)


def test_models_without_a_linear_map(images: Tensor) -> None:
    with pytest.raises(TypeError, match=r"bcos_vit\.attribution"):
        explain(toy("standard_simple_vit_ti_patch16_224"), images)
    with pytest.raises(TypeError, match=r"bcos_vit\.attribution"):
        explain(Holder("model", toy("standard_simple_vit_ti_patch16_224")), images)
    held = {"Linear": Holder("model", nn.Linear(3, 3)), "Holder": Holder("other", toy(NAME))}
    for name, nothing in {**held, "object": object(), "NoneType": None}.items():
        with pytest.raises(TypeError, match=f"{name} cannot be explained.*encode"):
            explain(nothing, images)


def test_weights_made_in_inference_mode_are_refused(images: Tensor) -> None:
    with torch.inference_mode():
        model = toy(NAME)
    with pytest.raises(ValueError, match="inference_mode"):
        explain(model, images)


# --- values at the door ---


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


# --- indexing, devices, arrays, files ---


def test_indexing(model: ViT, images: Tensor) -> None:
    e = explain(model, images, TopK(2))
    assert len(e) == 3
    for index in (0, 1, -1):
        single = e[index]
        for name in TENSORS:
            whole = getattr(e, name)
            assert whole is None or torch.equal(getattr(single, name), whole[index]), name
        for name, t in e.constants.items():
            assert torch.equal(single.constants[name], t[index])
        assert single.images.shape == (3, 12, 12)
        assert torch.equal(single.image_share, e.image_share[index])
        assert torch.equal(single.relative_residual, e.relative_residual[index])
        single.check()
    part = e[:2]
    assert len(part) == 2
    assert part.images.shape == (2, 3, 12, 12)
    assert torch.equal(part.weights, e.weights[:2])
    assert torch.equal(part.constants["bias"], e.constants["bias"][:2])
    assert len(e[1:2]) == 1
    assert [single.target.tolist() for single in e] == e.target.tolist()
    for wrong in (3, -4):
        with pytest.raises(IndexError):
            e[wrong]
    for wrong in ("x", 1.0, None, (0, 1)):
        with pytest.raises(TypeError, match=f"number or a slice, found {type(wrong).__name__}"):
            e[wrong]
    with pytest.raises(TypeError, match=r"single image.*no batch axis"):
        e[0][0]
    with pytest.raises(TypeError, match=r"single image.*no batch axis"):
        len(e[0])


def test_to(model: ViT, images: Tensor) -> None:
    e = explain(model, images, Contrast(0, 1))
    assert_equal(e.to("cpu"), e)
    assert_equal(e.to(torch.device("cpu")), e)
    on_meta = e.to("meta")
    assert on_meta.weights.is_meta
    assert on_meta.against.is_meta
    assert all(t.is_meta for t in on_meta.constants.values())


def test_arrays(model: ViT, images: Tensor) -> None:
    e = explain(model, images, [[0, 1], [2, 3], [4, 0]])
    arrays = e.numpy()
    fields = {"images", "target", "logit", "probability", "contributions", "magnitude", "weights"}
    lines = {"image", "residual", "relative_residual", "image_share", "constants.position", "constants.bias"}
    assert arrays.keys() == fields | lines
    assert all(isinstance(array, np.ndarray) for array in arrays.values())
    for name in fields | lines - {"constants.position", "constants.bias"}:
        assert np.array_equal(arrays[name], getattr(e, name).numpy()), name
    assert np.array_equal(arrays["constants.position"], e.constants["position"].numpy())
    contrast = explain(model, images, Contrast(0, 1)).numpy()
    assert contrast.keys() == fields - {"probability"} | lines | {"against"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    "target", [None, [[0, 1], [2, 2], [4, 0]], TopK(5), Contrast(0, 3)], ids=["one", "several", "top", "contrast"]
)
@pytest.mark.parametrize("position", ["sincos", "rope"])
def test_files_keep_everything(tmp_path: Path, dtype: torch.dtype, target: Any, position: str) -> None:
    model = toy(NAME, dtype=dtype, position=position)
    e = explain(model, images_for(model), target)
    for part in (e, e[1:], e[0]):
        part.save(tmp_path / "e.safetensors")
        assert_equal(Explanation.load(tmp_path / "e.safetensors"), part)
    assert [path.name for path in tmp_path.iterdir()] == ["e.safetensors"]


def test_files_keep_the_order_of_the_ledger(model: ViT, images: Tensor, tmp_path: Path) -> None:
    e = explain(model, images)
    e.save(tmp_path / "e.safetensors")
    assert list(Explanation.load(tmp_path / "e.safetensors").constants) == list(e.constants) == ["position", "bias"]


def test_files_of_other_methods(model: ViT, images: Tensor, tmp_path: Path) -> None:
    """No rows, relevance per token, a cost that is no whole number."""
    e = dataclasses.replace(
        explain(model, images), weights=None, tokens=torch.rand(3, 3, 3), method="rollout", cost=0.1, constants={}
    )
    e.save(str(tmp_path / "e.safetensors"))
    assert_equal(Explanation.load(str(tmp_path / "e.safetensors")), e)


def test_files_that_are_no_explanations(model: ViT, images: Tensor, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no explanation file .*none\.safetensors"):
        Explanation.load(tmp_path / "none.safetensors")
    with pytest.raises(FileNotFoundError, match="no explanation file"):
        Explanation.load(tmp_path)
    (tmp_path / "text.safetensors").write_text("no tensors here")
    with pytest.raises(ValueError, match=r"text\.safetensors is not a whole safetensors file"):
        Explanation.load(tmp_path / "text.safetensors")
    save_file({"weights": torch.ones(2)}, tmp_path / "bare.safetensors")
    with pytest.raises(ValueError, match=r"bare\.safetensors holds no explanation.*None"):
        Explanation.load(tmp_path / "bare.safetensors")
    save_model(model, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"model\.safetensors holds no explanation.*'bcos_vit 1'"):
        Explanation.load(tmp_path / "model.safetensors")
    e = explain(model, images)
    with pytest.raises(ValueError, match=r"\.safetensors, found .*e\.npz"):
        e.save(tmp_path / "e.npz")
    with pytest.raises(FileNotFoundError, match=r"cannot write .*none.*give a path in a folder"):
        e.save(tmp_path / "none" / "e.safetensors")
    assert not (tmp_path / "e.npz").exists()


def test_a_spoilt_explanation_file(model: ViT, images: Tensor, tmp_path: Path) -> None:
    path = tmp_path / "e.safetensors"
    explain(model, images).save(path)
    with safe_open(path, framework="pt") as file:
        metadata, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    del tensors["logit"]
    save_file(tensors, path, metadata)
    with pytest.raises(ValueError, match=r"e\.safetensors"):
        Explanation.load(path)


# --- the check ---


def made_up(*, logit: list[float], image: list[float], dtype: torch.dtype, **constants: list[float]) -> Explanation:
    """An explanation with a given ledger, of images of one pixel."""
    wide = torch.promote_types(dtype, torch.float32)
    total = torch.tensor(logit, dtype=dtype)
    return Explanation(
        images=torch.zeros(len(logit), 3, 1, 1),
        target=torch.zeros(len(logit), dtype=torch.int64),
        logit=total,
        probability=total.sigmoid(),
        contributions=torch.tensor(image, dtype=wide)[:, None, None],
        magnitude=total.abs(),
        constants={name: torch.tensor(values, dtype=wide) for name, values in constants.items()},
    )


def test_a_tampered_ledger_is_named_line_by_line(model: ViT, images: Tensor) -> None:
    e = explain(model, images)
    contributions = e.contributions.clone()
    contributions[2, 5, 5] += 0.25
    with pytest.raises(LedgerError) as error:
        dataclasses.replace(e, contributions=contributions).check()
    message = str(error.value)
    assert "1 of 3 ledgers" in message
    assert "number 2" in message
    lines = {"logit": e.logit, "image": e.image + 0.25, **e.constants}
    for name, line in lines.items():
        assert f"{name} {float(line[2]):.4g}"[:-1] in message, name
    assert isinstance(error.value, ArithmeticError)


def test_what_each_line_is_worth(model: ViT, images: Tensor) -> None:
    e = explain(model, images)
    for name in e.constants:
        without = dataclasses.replace(e, constants={n: t for n, t in e.constants.items() if n != name})
        with pytest.raises(LedgerError, match="3 of 3"):
            without.check()
    with pytest.raises(LedgerError, match="3 of 3"):
        dataclasses.replace(e, logit=e.logit + 0.01).check()


@pytest.mark.parametrize("field", ["logit", "contributions"])
def test_nan_does_not_pass(model: ViT, images: Tensor, field: str) -> None:
    e = explain(model, images)
    spoilt = getattr(e, field).clone()
    spoilt[1] = math.nan
    with pytest.raises(LedgerError, match=r"1 of 3 .*number 1.*nan"):
        dataclasses.replace(e, **{field: spoilt}).check()
    with pytest.raises(LedgerError, match="1 of 3"):
        dataclasses.replace(e, **{field: spoilt}).check(tolerance=math.inf)


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 2e-2), (torch.float16, 2e-2)],
    ids=str,
)
def test_the_tolerance_follows_the_precision(dtype: torch.dtype, tolerance: float) -> None:
    def ledger(error: float) -> Explanation:
        e = made_up(logit=[2.0], image=[1.0], bias=[1.0], dtype=dtype)
        return dataclasses.replace(e, contributions=e.contributions - 2 * error)

    ledger(0.5 * tolerance).check()
    with pytest.raises(LedgerError, match="1 of 1"):
        ledger(2 * tolerance).check()
    ledger(2 * tolerance).check(3 * tolerance)
    with pytest.raises(LedgerError):
        ledger(0.5 * tolerance).check(0.25 * tolerance)


def test_what_a_residual_is_relative_to() -> None:
    e = made_up(logit=[4.0, 1.0, 0.0], image=[1.0, 5.0, 2.0], bias=[1.0, -5.0, -1.0], dtype=torch.float64)
    assert e.residual.tolist() == [2, 1, -1]
    assert e.relative_residual.tolist() == [2 / 4, 1 / 10, 1 / 3]  # the logit, or the lines where they are larger


def test_a_contrast_is_relative_to_both_logits() -> None:
    e = made_up(logit=[0.0], image=[1e-4], dtype=torch.float64)
    e = dataclasses.replace(e, magnitude=torch.tensor([10.0], dtype=torch.float64))
    assert e.relative_residual.tolist() == [1e-5]


def test_nothing_over_nothing() -> None:
    e = made_up(logit=[0.0], image=[0.0], dtype=torch.float32)
    assert e.relative_residual.tolist() == [0]
    assert e.image_share.tolist() == [1]
    e.check()
    with_position = made_up(logit=[0.0], image=[0.0], position=[0.0], bias=[0.0], dtype=torch.float32)
    assert with_position.image_share.tolist() == [1]
    assert with_position.relative_residual.tolist() == [0]


def test_the_image_share() -> None:
    e = made_up(
        logit=[0.0] * 3, image=[1.0, -1.0, 0.0], position=[3.0, 1.0, 2.0], bias=[9.0, 9.0, 9.0], dtype=torch.float64
    )
    assert e.image_share.tolist() == [0.25, 0.5, 0]
    assert made_up(logit=[0.0], image=[-2.0], bias=[9.0], dtype=torch.float64).image_share.tolist() == [1]


@pytest.mark.parametrize("name", [NAME, VITC, "bcos_vit_digits"])
def test_half_precision(name: str) -> None:
    half = toy(name, dtype=torch.bfloat16)
    e = explain(half, images_for(half), TopK(3))
    assert e.logit.dtype == torch.bfloat16
    assert e.contributions.dtype == torch.float32
    assert all(t.dtype == torch.float32 for t in e.constants.values())
    e.check()
    assert float(e.relative_residual.max()) > 1e-5  # so the tolerance is at work


@pytest.mark.parametrize("name", [NAME, VITC, "bcos_vit_digits"])
def test_autocast(name: str) -> None:
    model = toy(name)
    images = images_for(model)
    exact = explain(model, images, [[0, 1]] * 3)
    with torch.autocast("cpu", torch.bfloat16):
        e = explain(model, images, [[0, 1]] * 3)
        e.check(2e-2)
    e.check(2e-2)
    torch.testing.assert_close(e.logit.float(), exact.logit, rtol=0.05, atol=0.05)
    assert not torch.equal(e.logit.float(), exact.logit)


# --- colours and pictures ---


@pytest.mark.parametrize(
    ("target", "lead"), [(None, (3,)), (TopK(2), (3, 2)), ([[1]] * 3, (3, 1)), (Contrast(0, 1), (3,))], ids=repr
)
def test_colour_shapes(model: ViT, images: Tensor, target: Any, lead: tuple[int, ...]) -> None:
    e = explain(model, images, target)
    colours = e.colour()
    assert colours.shape == (*lead, 4, 12, 12)
    assert e[0].colour().shape == (*lead[1:], 4, 12, 12)
    assert float(colours.min()) >= 0
    assert float(colours.max()) <= 1
    assert float(colours[..., 3, :, :].amax()) > 0


@pytest.mark.parametrize("smooth", [0, 1, 5])
def test_colours_of_a_batch_are_those_of_its_images(model: ViT, images: Tensor, smooth: int) -> None:
    e = explain(model, images, TopK(2))
    colours = e.colour(smooth, 95)
    for i in range(3):
        assert torch.equal(e[i].colour(smooth, 95), colours[i])
        assert torch.equal(e[i : i + 1].colour(smooth, 95)[0], colours[i])
        for t in range(2):
            assert torch.equal(e[i].of_target(t).colour(smooth, 95), colours[i, t])


def test_colours_depend_on_what_is_asked(model: ViT, images: Tensor) -> None:
    e = explain(model, images)
    assert not torch.equal(e.colour(3), e.colour(5))
    assert not torch.equal(e.colour(3, 99.5), e.colour(3, 50))
    assert torch.equal(e.colour(0), e.colour(1))  # a box of one pixel
    assert torch.equal(e.colour(), e.colour(15, 99.5))
    assert torch.equal(e.colour(3, 100)[:, 3].amax((1, 2)), torch.ones(3))


def test_a_row_of_zeros_shows_nothing(model: ViT, images: Tensor) -> None:
    e = explain(model, images)
    empty = dataclasses.replace(e, weights=e.weights * 0, contributions=e.contributions * 0)
    assert torch.equal(empty.colour(), torch.zeros(3, 4, 12, 12))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"smooth": 4}, "odd.*found 4"),
        ({"smooth": -1}, "odd.*found -1"),
        ({"percentile": 0}, r"\(0, 100\], found 0"),
        ({"percentile": 100.5}, r"\(0, 100\], found 100.5"),
        ({"percentile": -3}, "found -3"),
        ({"percentile": math.nan}, "found nan"),
    ],
    ids=str,
)
def test_colours_that_cannot_be(model: ViT, images: Tensor, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        explain(model, images).colour(**arguments)


def test_no_rows_no_colours(model: ViT, images: Tensor) -> None:
    with pytest.raises(ValueError, match="'rollout' has no rows"):
        dataclasses.replace(explain(model, images), weights=None, method="rollout").colour()


def cells(figure: Any) -> tuple[int, int, str]:
    """Axes in all, pictures in them, and all words, of a figure that can be drawn."""
    figure.canvas.draw()
    words = [text.get_text() for ax in figure.axes for text in [*ax.texts, ax.title]]
    return len(figure.axes), sum(len(ax.images) for ax in figure.axes), "\n".join(words)


@pytest.mark.parametrize(
    ("target", "rows"),
    [(None, 3), (TopK(2), 6), (TopK(5), 15), (Contrast(0, 1), 3)],
    ids=["batch", "several", "many", "contrast"],
)
def test_plot(model: ViT, images: Tensor, target: Any, rows: int) -> None:
    from matplotlib.figure import Figure

    e = explain(model, images, target)
    figure = e.plot(smooth=3)
    assert isinstance(figure, Figure)
    axes, pictures, words = cells(figure)
    assert axes == 4 * rows + 1  # and one colour bar
    assert pictures == 3 * rows
    for line in ("image", "position", "bias", "logit", "residual"):
        assert words.count(f"\n{line} ") == rows, line
    single = e[0].plot(class_names=["ant", "bee", "cat", "dog", "eel"])
    assert cells(single)[0] == 4 * rows // 3 + 1
    if isinstance(target, Contrast):
        assert words.count("0 rather than 1") == rows
        assert "ant rather than bee" in cells(single)[2]
    else:
        assert all(str(c) in words for c in e.target.flatten().tolist())
        assert ["ant", "bee", "cat", "dog", "eel"][int(e.target.flatten()[0])] in cells(single)[2]


def test_plot_shares_one_scale(model: ViT, images: Tensor) -> None:
    e = explain(model, images)
    maps = [ax.images[0] for ax in e.plot().axes if ax.images and ax.images[0].get_cmap().name == "RdBu_r"]
    assert len(maps) == 3
    assert len({m.get_clim() for m in maps}) == 1
    low, high = maps[0].get_clim()
    assert low == -high
    for m, contributions in zip(maps, e.contributions, strict=True):
        assert np.array_equal(m.get_array(), contributions.numpy())


def test_plot_without_rows(model: ViT, images: Tensor) -> None:
    e = dataclasses.replace(explain(model, images), weights=None, method="rollout")
    assert cells(e.plot())[:2] == (13, 6)
    assert cells(e[0].plot())[:2] == (5, 2)


def test_plot_in_half_precision_and_of_files(tmp_path: Path) -> None:
    model = toy(NAME, dtype=torch.bfloat16)
    explain(model, images_for(model)).plot().savefig(tmp_path / "plot.png")
    assert Image.open(tmp_path / "plot.png").size[0] > 100


# --- any model of these bricks ---


class Handmade(nn.Module):
    """Not a ViT of the zoo: no more than ``encode`` and ``forward_encoded``, with positions of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.encode = SixChannels()
        self.tokens = Tokens([], 4, BcosLinear(96, 8))
        self.rows = nn.Parameter(torch.randn(3, 1, 8))
        self.columns = nn.Parameter(torch.randn(1, 2, 8))
        linear = {"value": nn.Linear(8, 8, bias=False), "project": BcosLinear(8, 8, b=1.5)}
        self.attention = Attention(8, 2, norm=LayerNorm(8), **linear, prior_tokens=None)
        mlp = {"expand": BcosLinear(8, 12, max_out=2), "contract": BcosLinear(12, 8)}
        self.mlp = Mlp(norm=LayerNorm(8), **mlp, activation=nn.Identity())
        self.head = PoolHead(LayerNorm(8), BcosLinear(8, 4))
        self.logits = Logits(2.0, -0.5)

    def forward_encoded(self, encoded: Tensor) -> Tensor:
        x = self.tokens(encoded)
        x = x + constant("position", self.rows) + constant("position", self.columns)
        x = x.flatten(1, 2)
        x = x + self.attention(x)
        return self.logits(self.head(x + self.mlp(x)))


def test_any_model_of_the_bricks() -> None:
    torch.manual_seed(0)
    model = Handmade().double()
    images = random_images(2, (12, 8), dtype=torch.float64)
    e = explain(model, images, TopK(4)).check()
    assert list(e.constants) == ["position", "bias"]  # two terms of one name are one line
    torch.testing.assert_close(e.constants["bias"], torch.full((2, 4), -0.5, dtype=torch.float64))
    assert ((e.image_share > 0) & (e.image_share < 1)).all()
    assert e.weights.shape == (2, 4, 6, 12, 8)

    # The line is the sum of both terms' own shares, which their gradients in a frozen network say as well.
    terms = (model.rows, model.columns)
    for i in range(2):
        with frozen():
            logits = model.forward_encoded(model.encode(images[i : i + 1]))
        for t, c in enumerate(e.target[i]):
            slopes = torch.autograd.grad(logits[0, c], terms, retain_graph=True)
            shares = [(slope * term).sum() for slope, term in zip(slopes, terms, strict=True)]
            assert all(share.abs() > 1e-6 for share in shares)
            torch.testing.assert_close(e.constants["position"][i, t], sum(shares).detach())


# --- what a review found ---


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


def test_a_model_that_hands_the_image_through_works_in_inference_mode() -> None:
    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.classify = BcosLinear(12, 3)

        def encode(self, images: Tensor) -> Tensor:
            return images

        def forward_encoded(self, encoded: Tensor) -> Tensor:
            return self.classify(encoded.flatten(1))

    model = Plain()
    with torch.inference_mode():
        explain(model, torch.rand(2, 3, 2, 2)).check()


def test_images_that_are_no_tensors_or_no_floats_are_named_first(model: ViT, images: Tensor) -> None:
    with pytest.raises(TypeError, match=r"images must be a torch.Tensor, found ndarray"):
        explain(model, images.numpy())
    with pytest.raises(TypeError, match=r"found torch.uint8: divide bytes by 255"):
        explain(model, (255 * images).byte())
    with pytest.raises(TypeError, match=r"found torch.complex64"):
        explain(model, images.to(torch.complex64))


def test_indices_of_other_libraries_and_empty_slices(model: ViT, images: Tensor) -> None:
    e = explain(model, images)
    assert torch.equal(e[np.int64(1)].logit, e[1].logit)
    with pytest.raises(TypeError, match="found bool"):
        e[True]
    nothing = e[len(e) :]
    assert len(nothing) == 0
    assert nothing.colour().shape == (0, 4, *images.shape[2:])
    with pytest.raises(ValueError, match="nothing to draw"):
        nothing.plot()
    assert bool(e[0])


def test_magnitude_defaults_to_the_logit(model: ViT, images: Tensor) -> None:
    e = explain(model, images)
    bare = dataclasses.replace(e, magnitude=None)
    assert torch.equal(bare.relative_residual, e.relative_residual)
