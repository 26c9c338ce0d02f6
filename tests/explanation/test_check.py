"""The check of a ledger: what does not pass, what residuals are relative to, and what precision allows."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from bcos_vit import Contrast, Explanation, LedgerError, TopK, explain
from bcos_vit.models.vit import ViT
from toys import NAME, VITC, images_for, toy


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


def test_contributions_that_cancel_are_the_scale_of_their_rounding() -> None:
    e = made_up(logit=[1e-6], image=[0.0], dtype=torch.float32)
    pixels = torch.zeros(1, 2, 2)
    pixels[0, 0, 0], pixels[0, 1, 1] = 3.0, -3.0
    e = dataclasses.replace(e, contributions=pixels)
    assert float(e.relative_residual) == pytest.approx(1e-6 / 6)
    e.check()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", [NAME, VITC, "bcos_vit_digits"])
def test_logits_near_zero_of_two_classes_are_no_false_alarm(name: str, dtype: torch.dtype) -> None:
    two = toy(name, dtype=dtype, num_classes=2)  # without a bias: log(1 / (2 - 1)) = 0
    assert two.spec.bias == 0
    images = images_for(two)
    with torch.no_grad():
        pooled = F.normalize(two.forward_head(two.forward_features(images), pre_logits=True)[0], dim=0)
        row = two.head.classify.weight[0]
        row -= 0.9999 * (row @ pooled) * pooled  # nearly at a right angle to what it is multiplied with
    e = explain(two, images, [[0, 1]] * len(images)).check()
    assert float(e.logit[0, 0].abs()) < 1e-3 * float(e.contributions[0, 0].abs().sum())
    explain(two, images, Contrast(0, 1)).check()


@pytest.mark.parametrize("fault", ["bias", "position", "pixel", "row"])
def test_the_scale_does_not_hide_a_fault(fault: str) -> None:
    model = toy(NAME)
    e = explain(model, images_for(model)).check()
    if fault in e.constants:
        without = {name: line for name, line in e.constants.items() if name != fault}
        wrong = dataclasses.replace(e, constants=without)
    else:
        damaged = e.contributions.clone()
        if fault == "pixel":
            damaged[:, 3, 3] = 0
        else:
            damaged *= 1.05
        wrong = dataclasses.replace(e, contributions=damaged)
    with pytest.raises(LedgerError):
        wrong.check()


@pytest.mark.parametrize("where", ["norm", "bcos"])
@pytest.mark.parametrize("name", [NAME, VITC, "bcos_vit_digits"])
def test_a_forgotten_freeze_is_seen_where_sums_show_it(name: str, where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A frozen norm adds up to its output, one that is not to zero; of two classes, so without a bias."""
    model = toy(name, num_classes=2, b=1.5)
    images = images_for(model, 20)
    explain(model, images).check()
    monkeypatch.setattr(f"bcos_vit.layers.{where}.is_frozen", lambda: False)
    if where == "norm":
        with pytest.raises(LedgerError, match="20 of 20"):
            explain(model, images).check(1e-3)
    else:  # homogeneous of degree one: sums cannot tell, other tests do
        explain(model, images).check()


@pytest.mark.parametrize("name", [NAME, VITC, "bcos_vit_digits"])
def test_how_small_a_fault_is_seen(name: str) -> None:
    """In two-class models: a pixel that is off by three hundred-thousandths of the sum of the whole map."""
    model = toy(name, num_classes=2)
    e = explain(model, images_for(model, 20)).check()

    def off(by: float) -> Explanation:
        pixel = e.contributions.clone()
        pixel[:, 3, 3] += by * e.scale
        return dataclasses.replace(e, contributions=pixel)

    off(3e-6).check()
    with pytest.raises(LedgerError, match="20 of 20"):
        off(3e-5).check()


@pytest.mark.parametrize("spoilt", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("field", ["logit", "contributions", "bias"])
def test_a_scale_that_is_no_number_hides_nothing(field: str, spoilt: float) -> None:
    model = toy("bcos_vit_digits")
    e = explain(model, images_for(model)).check()
    changed = e.constants[field].clone() if field == "bias" else getattr(e, field).clone()
    changed[1] = spoilt
    changes = {"constants": e.constants | {"bias": changed}} if field == "bias" else {field: changed}
    with pytest.raises(LedgerError, match="1 of 3"):
        dataclasses.replace(e, **changes).check()


def test_magnitude_defaults_to_the_logit(model: ViT, images: Tensor) -> None:
    e = explain(model, images)
    bare = dataclasses.replace(e, magnitude=None)
    assert torch.equal(bare.relative_residual, e.relative_residual)


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
