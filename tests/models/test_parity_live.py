"""The published models, run side by side with the live reference (the ``bcos`` package) on the same weights."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import nn

import bcos_vit
from bcos_vit.explanation.colour import render
from bcos_vit.models.vit import ViT
from bcos_vit.models.weights import from_published, to_published
from bcos_vit.models.zoo import CARDS
from reference import NAMES, assert_same, by_hand, entry_point
from toys import images_for, perturb_norms, random_images, toy

gradient_to_image = pytest.importorskip("bcos.common").gradient_to_image

# Millions of parameters of the built reference models, bcos then standard.
PARAMETERS = {
    "simple_vit_ti_patch16_224": (5.80, 5.67),
    "simple_vit_s_patch16_224": (22.22, 21.96),
    "simple_vit_b_patch16_224": (86.90, 86.38),
    "simple_vit_l_patch16_224": (178.79, 178.10),
    "vitc_ti_patch1_14": (5.32, 5.33),
    "vitc_s_patch1_14": (20.88, 20.91),
    "vitc_b_patch1_14": (81.33, 81.39),
    "vitc_l_patch1_14": (167.44, 167.54),
}


@pytest.fixture(scope="module", params=[pytest.param(n, marks=pytest.mark.slow) if "_l_" in n else n for n in NAMES])
def pair(request: pytest.FixtureRequest) -> tuple[ViT, nn.Module]:
    """Ours and the reference, sharing weights. Full size up to S; B and L with two of their blocks."""
    name = request.param
    return _pair(name, depth=2 if CARDS[name].spec.width > 384 else CARDS[name].spec.depth)


def _pair(name: str, depth: int) -> tuple[ViT, nn.Module]:
    torch.manual_seed(0)
    model = perturb_norms(ViT(dataclasses.replace(CARDS[name].spec, depth=depth))).eval()
    reference = entry_point(name, depth)
    reference.load_state_dict(to_published(model), strict=True, assign=True)
    return model, reference


@pytest.mark.parametrize(
    ("batch", "size", "dtype"),
    [
        (1, (224, 224), torch.float32),
        (2, (96, 160), torch.float32),
        pytest.param(2, (96, 160), torch.float64, marks=pytest.mark.slow),
    ],
    ids=["224x224-float32", "96x160-float32", "96x160-float64"],
)
def test_published_models(pair: tuple[ViT, nn.Module], batch: int, size: tuple[int, int], dtype: torch.dtype) -> None:
    model, reference = (m.to(dtype) for m in pair)
    assert_same(model, reference, random_images(batch, size, dtype=dtype))


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in NAMES if "_b_" in n])
def test_published_models_in_full(name: str) -> None:
    model, reference = _pair(name, CARDS[name].spec.depth)
    assert_same(model, reference, random_images(1, 224))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", ["bcos_simple_vit_s_patch16_224", "bcos_vitc_b_patch1_14"])
@pytest.mark.parametrize(
    "fields",
    [
        {},  # five classes: the bias follows their number
        {"b": 1},
        {"b": 1.5},
        {"b": 2.5},
        {"max_out": 2},
        {"stem_max_out": 2},
        {"max_out": 2, "stem_max_out": 3},
    ],
    ids=str,
)
def test_other_bcos_layers(name: str, fields: dict[str, float], dtype: torch.dtype) -> None:
    model = toy(name, dtype=dtype, **fields)
    reference = by_hand(model.spec).to(dtype)
    reference.load_state_dict(to_published(model), strict=True)
    # With a stem of six MaxOut stages each of the two is up to 6e-6 from float64.
    assert_same(model, reference, images_for(model), slack=2)


@pytest.mark.parametrize("name", ["standard_simple_vit_s_patch16_224", "standard_vitc_b_patch1_14"])
def test_twins_with_few_classes(name: str) -> None:
    model = toy(name, dtype=torch.float64)
    reference = by_hand(model.spec).double()
    reference.load_state_dict(to_published(model), strict=True)
    assert_same(model, reference, images_for(model))


@pytest.mark.parametrize("name", NAMES)
def test_parameter_counts(name: str) -> None:
    family, architecture = name.split("_", 1)
    expected = PARAMETERS[architecture][family == "standard"]
    with torch.device("meta"):
        model = ViT(CARDS[name].spec)
    found = sum(p.numel() for p in model.parameters())
    assert round(found / 1e6, 2) == expected
    assert found == sum(p.numel() for p in entry_point(name, CARDS[name].spec.depth).parameters())


@pytest.mark.parametrize("name", NAMES)
def test_keys_are_the_references(name: str) -> None:
    with torch.device("meta"):
        model = ViT(CARDS[name].spec)
    ours = {key: tuple(t.shape) for key, t in to_published(model).items()}
    theirs = {key: tuple(t.shape) for key, t in entry_point(name, CARDS[name].spec.depth).state_dict().items()}
    assert ours == theirs


@pytest.mark.parametrize("name", NAMES)
def test_there_and_back_is_the_identity(name: str) -> None:
    model = toy(name)
    state, back = model.state_dict(), from_published(to_published(model))
    assert back.keys() == state.keys()
    assert all(torch.equal(back[key], state[key]) for key in state)


def test_reading_published_weights() -> None:
    """Weights that the reference drew, not we: the mapping does not depend on who wrote them."""
    torch.manual_seed(1)
    reference = by_hand(toy("bcos_vitc_ti_patch1_14").spec)
    model = toy("bcos_vitc_ti_patch1_14", seed=5)
    model.load_state_dict(from_published(reference.state_dict()), strict=True)
    assert_same(model, reference, images_for(model))


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("0.conv1.linear.weight", "conv1.linear"),  # a published CNN
        ("blocks.0.attn.qkv.weight", "blocks.0.attn.qkv"),  # timm
        ("0.transformer.encoder_x.attn.norm.weight", "encoder_x"),
        ("0.to_patch_embedding.conv_stem.2.weight", "conv_stem.2"),  # the activation has no weight
        ("0.to_patch_embedding.conv_stem.1.linear.weight", "conv_stem.1"),  # nor is a norm a convolution
        ("0.to_patch_embedding.conv_stem.0.weight", "conv_stem.0"),
        ("to_patch_embedding.conv_stem.0.linear.weight", "conv_stem.0"),  # a B-cos key in a twin
        ("to_patch_embedding.linear.linear.weight", "to_patch_embedding.linear.linear"),
        ("0.linear_head.linear.weight", "linear_head.linear"),  # a twin's key in a B-cos model
        ("tokens.project.weight", "tokens.project"),  # ours already
        ("weight", "published"),
    ],
)
def test_foreign_keys_are_refused(key: str, message: str) -> None:
    with pytest.raises(ValueError, match=message.replace(".", r"\.")) as error:
        from_published({key: torch.zeros(6, 2)})
    assert "published" in str(error.value)


@pytest.mark.parametrize("key", ["0.linear_head.norm.running_mean", "0.linear_head.linear.linear.bias"])
def test_foreign_parameters_of_known_modules_are_refused(key: str) -> None:
    with pytest.raises(ValueError, match=key.rsplit(".", 1)[1]):
        from_published({key: torch.zeros(2)})


def test_a_mixed_state_dict_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'linear_head\.norm\.weight'.*'0\.'"):
        from_published({"0.linear_head.norm.weight": torch.ones(2), "linear_head.norm.weight": torch.ones(2)})


@pytest.mark.parametrize(
    ("field", "value"),
    [("position", "rope"), ("position", "prior"), ("position", "none"), ("value", "bcos"), ("head", "tokens")],
)
def test_unpublished_architectures_are_refused(field: str, value: str) -> None:
    model = toy("bcos_simple_vit_ti_patch16_224", **{field: value})
    with pytest.raises(ValueError, match=f"{field}.*{value}"):
        to_published(model)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"downsample": "blurred"}, r"downsample 'strided' only, found 'blurred'"),
        ({"stem_strides": (2, 2, 1, 1)}, r"has strides \(2, 2, 2, 2\), found \(2, 2, 1, 1\)"),
    ],
    ids=str,
)
def test_unpublished_stems_are_refused(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        to_published(toy("bcos_vitc_ti_patch1_14", **fields))
    as_published = {"downsample": "strided", "stem_strides": (2, 2, 2, 2)}
    assert to_published(toy("bcos_vitc_ti_patch1_14", **as_published)).keys()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-12)], ids=str)
@pytest.mark.parametrize("smooth", [0, 3, 15])
@pytest.mark.parametrize("percentile", [99.5, 90])
def test_colours_of_the_same_row(smooth: int, percentile: float, dtype: torch.dtype, tolerance: float) -> None:
    model = toy("bcos_vitc_s_patch1_14", dtype=dtype)
    images = random_images(2, (48, 64), dtype=dtype)
    e = bcos_vit.explain(model, images, bcos_vit.TopK(2))
    colours = e.colour(smooth, percentile)
    assert torch.equal(colours, render(e.weights, e.contributions, smooth, percentile))
    for i, encoded in enumerate(model.encode(images)):
        for t in range(2):
            expected = gradient_to_image(encoded, e.weights[i, t], smooth=smooth, alpha_percentile=percentile)
            found = colours[i, t].movedim(0, -1)
            assert 0 < float(found[..., 3].mean()) < 1  # something is shown, not everything
            assert (found - torch.from_numpy(expected)).abs().max() <= tolerance


@pytest.mark.parametrize("key", ["transformer.encoder_0.attn.to_qkv.bias", "transformer.encoder_0.attn.to_out.bias"])
def test_biases_that_the_twins_do_not_have_are_refused(key: str) -> None:
    with pytest.raises(ValueError, match="no 'bias' there"):
        from_published({key: torch.zeros(3)})


def test_an_empty_state_dict_is_refused() -> None:
    with pytest.raises(ValueError, match="empty"):
        from_published({})
