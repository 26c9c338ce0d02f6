"""Which models may be explained: wrapped, compiled, handmade or in training; and the sentences for the others."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from lightning import LightningModule
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from bcos_vit import (
    TopK,
    create_model,
    explain,
    frozen,
    predict,
    save_model,
)
from bcos_vit.layers import Attention, BcosLinear, LayerNorm, Logits, Mlp, PoolHead, SixChannels, Tokens, constant
from bcos_vit.models.vit import ViT
from laws import assert_equal
from toys import NAME, random_images, toy

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


def test_predicting_and_saving_unwrap_too(model: ViT, images: Tensor, tmp_path: Path) -> None:
    compiled = torch.compile(model, backend="aot_eager")
    assert torch.equal(predict(nn.DataParallel(model), images).classes, predict(model, images).classes)
    save_model(compiled, tmp_path / "model.safetensors")
    saved = create_model(tmp_path / "model.safetensors").state_dict()
    assert saved.keys() == model.state_dict().keys()
    with pytest.raises(TypeError, match="a model of this project is needed, found Linear"):
        save_model(nn.Linear(2, 2), tmp_path / "other.safetensors")


@pytest.mark.slow
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


# --- models that are refused ---


def test_a_module_that_computes_something_else_is_not_unwrapped(model: ViT, images: Tensor) -> None:
    class Half(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = self.module = model

        def forward(self, images: Tensor) -> Tensor:
            return self.model(images / 2)

    with pytest.raises(TypeError, match=r"Half cannot be explained.*if it holds a model that has, pass that"):
        explain(Half(), images)


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
