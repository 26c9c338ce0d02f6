"""The zoo's names and specs, and the sentences for what cannot be built."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import bcos_vit
from bcos_vit import ViTSpec, create_model, list_models
from bcos_vit.models.zoo import CARDS
from toys import images_for, random_images, toy, toy_spec

# Width, heads, MLP width, blocks of the simple ViT, stem of the vitc.
SIZES = {
    "ti": (192, 3, 768, 12, (24, 48, 96, 192)),
    "s": (384, 6, 1536, 12, (48, 96, 192, 384)),
    "b": (768, 12, 3072, 12, (64, 128, 128, 256, 256, 512)),
    "l": (1024, 16, 4096, 14, (64, 128, 128, 256, 256, 512)),
}
DIGITS = {"image_size": 8, "patch_size": 2, "width": 96, "depth": 4, "heads": 3, "mlp_width": 384, "num_classes": 10}
SMALL: dict[str, Any] = {
    "family": "bcos",
    "image_size": 16,
    "patch_size": 4,
    "width": 16,
    "depth": 1,
    "heads": 2,
    "mlp_width": 24,
    "num_classes": 3,
}


# --- names and specs ---


def test_all_names_are_there() -> None:
    published = [
        name
        for family in ("bcos", "standard")
        for size in SIZES
        for name in (f"{family}_simple_vit_{size}_patch16_224", f"{family}_vitc_{size}_patch1_14")
    ]
    rope = [n.replace("_patch", "_rope_patch") for n in published if n.startswith("bcos")]
    smooth = [n.replace("_patch", "_smooth_patch") for n in published if "_vitc_" in n]
    shipped = [f"{family}_vit_{data}" for family in ("bcos", "standard") for data in ("digits", "shapes")]
    assert list_models() == sorted([*published, *rope, *smooth, *shipped])
    assert (len(published), len(rope), len(smooth)) == (16, 8, 8)


def test_patterns_select_names() -> None:
    assert list_models("bcos_vitc_s_*") == [f"bcos_vitc_s{kind}_patch1_14" for kind in ("", "_rope", "_smooth")]
    assert list_models("nothing*") == []


@pytest.mark.parametrize("name", list_models("*_14") + list_models("*_224"))
def test_published_sizes(name: str) -> None:
    family, size = name.split("_")[0], name.replace("simple_vit", "vitc").split("_")[2]
    width, heads, mlp_width, depth, stem = SIZES[size]
    vitc = "vitc" in name
    assert CARDS[name].spec == ViTSpec(
        family=family,
        image_size=224,
        patch_size=16,
        stem=stem if vitc else (),
        width=width,
        depth=depth - vitc,
        heads=heads,
        mlp_width=mlp_width,
        num_classes=1000,
        position="rope" if "_rope_" in name or "_smooth_" in name else "sincos",
        downsample="blurred" if "_smooth_" in name else "strided",
    )
    assert CARDS[name].spec.stem_stride == (16 if vitc else 1)
    assert CARDS[name].spec.grid == 14


def test_sizes_of_the_digits_models() -> None:
    assert CARDS["bcos_vit_digits"].spec == ViTSpec(family="bcos", position="rope", **DIGITS)
    assert CARDS["standard_vit_digits"].spec == ViTSpec(family="standard", position="sincos", **DIGITS)


def test_a_model_is_what_its_spec_says() -> None:
    model = create_model("bcos_vitc_ti_patch1_14", num_classes=7, depth=2, b=1.5)
    assert model.spec == dataclasses.replace(CARDS["bcos_vitc_ti_patch1_14"].spec, num_classes=7, depth=2, b=1.5)
    assert CARDS["bcos_vitc_ti_patch1_14"].spec.num_classes == 1000  # the zoo's own spec is untouched
    assert len(model.blocks) == 2
    assert not model.training
    assert model(random_images(1, 224)).shape == (1, 7)


@pytest.mark.parametrize("classes", [2, 10, 1000])
def test_logit_bias_follows_the_number_of_classes(classes: int) -> None:
    spec = toy_spec("bcos_vit_digits", num_classes=classes)
    assert spec.bias == pytest.approx(math.log(1 / (classes - 1)), abs=1e-15)
    assert 1 / (1 + math.exp(-spec.bias)) == pytest.approx(1 / classes)
    model = toy("bcos_vit_digits", num_classes=classes)
    image = images_for(model, 1)
    without = toy("bcos_vit_digits", num_classes=classes, logit_bias=0.0)(image)
    torch.testing.assert_close(model(image), without + spec.bias)
    assert toy_spec("standard_vit_digits", num_classes=classes).bias == 0


def test_a_bias_and_a_scale_that_were_given() -> None:
    spec = ViTSpec(**SMALL, logit_bias=-0.5)
    assert spec.bias == -0.5
    assert ViTSpec(**SMALL | {"num_classes": 1}, logit_bias=0).bias == 0  # one class needs a bias of its own
    model, scaled = toy("bcos_vit_digits", logit_bias=0.0), toy("bcos_vit_digits", logit_bias=0.0, logit_scale=3)
    images = images_for(model)
    torch.testing.assert_close(scaled(images), 3 * model(images))


def test_image_size_may_change() -> None:
    model = create_model("bcos_vit_digits")
    assert model(random_images(1, (4, 10))).shape == (1, 10)
    assert create_model("bcos_vit_digits", image_size=16).transform(Image.new("RGB", (30, 20))).shape == (3, 16, 16)


def test_spec_is_plain_and_immutable() -> None:
    spec = ViTSpec(**SMALL, stem=[8, 12])
    assert spec.stem == (8, 12)
    with pytest.raises(dataclasses.FrozenInstanceError):
        spec.width = 8
    again = ViTSpec(**json.loads(json.dumps(dataclasses.asdict(spec))))
    for same in (again, pickle.loads(pickle.dumps(spec)), copy.deepcopy(spec), dataclasses.replace(spec)):
        assert same == spec
        assert hash(same) == hash(spec)
    wider = dataclasses.replace(spec, width=32)
    assert (wider.width, wider.stem) == (32, (8, 12))
    assert wider != spec


def test_the_facade_names_what_it_exports() -> None:
    assert all(hasattr(bcos_vit, name) for name in bcos_vit.__all__)
    assert isinstance(create_model("bcos_vit_digits"), bcos_vit.ViT)


# --- what cannot be built ---


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ({"position": "none", "width": 18, "heads": 4}, "18"),
        ({"width": 12, "heads": 2, "position": "rope"}, "12 / 2"),
        ({"width": 18}, "18"),  # the additive code needs four equal parts
        ({"width": 4}, "4"),  # and its frequencies two steps
        ({"image_size": 18}, "18"),
        ({"stem": (8, 12, 16)}, "8"),  # stride 8, patch 4
        ({"stem": (8, 0)}, "0"),
        ({"stem": (8, True)}, "True"),
        ({"stem": (8, 12), "stem_strides": (2,)}, "(2,)"),
        ({"stem": (8, 12), "stem_strides": (2, 3)}, "(2, 3)"),
        ({"stem": (8, 12), "stem_strides": (2, 0)}, "(2, 0)"),
        ({"stem": (8, 12), "stem_strides": (2, True)}, "True"),
        ({"stem": (8, 12), "stem_strides": (2, 1.0)}, "1.0"),
        ({"stem": (8, 12), "stem_strides": 2}, "2"),
        ({"stem_strides": (2, 2)}, "(2, 2)"),
        ({"stem_strides": ()}, "()"),
        ({"stem": (8, 12), "downsample": "blur"}, "'blur'"),
        ({"stem": (8, 12), "downsample": None}, "None"),
        ({"downsample": "blurred"}, "()"),
        ({"stem": (4, 4), "downsample": "blurred"}, "(4, 4)"),
        ({"stem": (8, 12), "stem_strides": (1, 1), "downsample": "blurred"}, "(8, 12)"),
        ({"family": "standard", "outputs": "logits"}, "logits"),
        ({"outputs": "softmax"}, "softmax"),
        ({"family": "resnet"}, "resnet"),
        ({"family": ["bcos"]}, "bcos"),
        ({"position": "learned"}, "learned"),
        ({"position": None}, "None"),
        ({"value": "linear"}, "linear"),
        ({"head": "cls"}, "cls"),
        ({"b": 0.5}, "0.5"),
        ({"b": -2}, "-2"),
        ({"b": math.nan}, "nan"),
        ({"b": math.inf}, "inf"),
        ({"b": True}, "True"),
        ({"b": "2"}, "'2'"),
        ({"logit_scale": math.nan}, "nan"),
        ({"logit_scale": None}, "None"),
        ({"logit_bias": -math.inf}, "-inf"),
        ({"logit_bias": "x"}, "'x'"),
        ({"family": "standard", "b": 1.5}, "1.5"),
        ({"family": "standard", "value": "bcos"}, "bcos"),
        ({"family": "standard", "max_out": 2}, "2"),
        ({"family": "standard", "stem_max_out": 2}, "2"),
        ({"num_classes": 1}, "1 class"),
        *(
            ({name: value}, repr(value))
            for name in ("image_size", "patch_size", "width", "depth", "heads", "mlp_width", "num_classes")
            for value in (0, -3, True, 2.0)
        ),
        *(({name: value}, repr(value)) for name in ("max_out", "stem_max_out") for value in (0, False, 1.5, None)),
    ],
    ids=str,
)
def test_impossible_specs(fields: dict[str, Any], found: str) -> None:
    with pytest.raises(ValueError, match=r"must|needs|no meaning|no default") as error:
        ViTSpec(**SMALL | fields)
    assert found in str(error.value)
    assert next(iter(reversed(fields))).removeprefix("stem_").replace("num_classes", "class") in str(error.value)


@pytest.mark.parametrize("stem", [5, None])
def test_a_stem_that_is_no_list(stem: object) -> None:
    with pytest.raises((TypeError, ValueError), match=f"stem.*{stem}"):
        ViTSpec(**SMALL, stem=stem)


def test_numbers_of_numpy_are_no_surprise() -> None:
    with pytest.raises(ValueError, match="width"):  # they would not go into a weights file's JSON
        ViTSpec(**SMALL | {"width": np.int64(16)})


@pytest.mark.parametrize(("given", "meant"), [("patchsize", "patch_size"), ("mlp_dim", "mlp_width"), ("maxout", "max")])
def test_unknown_fields_name_the_nearest(given: str, meant: str) -> None:
    with pytest.raises(TypeError, match=f"{given}.*{meant}"):
        ViTSpec(**SMALL, **{given: 8})
    with pytest.raises(TypeError, match=f"{given}.*{meant}"):
        create_model("bcos_vit_digits", **{given: 8})
    with pytest.raises(TypeError, match=f"{given}.*{meant}"):
        dataclasses.replace(ViTSpec(**SMALL), **{given: 8})


def test_an_override_like_nothing_lists_what_there_is() -> None:
    with pytest.raises(TypeError, match=r"qqq.*image_size.*logit_bias.*width"):
        create_model("bcos_vit_digits", qqq=1)


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("bcos_vit_digit", "bcos_vit_digits"),
        ("bcos_vitc_s_patch1_4", "bcos_vitc_s_patch1_14"),
        ("standard_simple_vit_ti_patch16_22", "standard_simple_vit_ti_patch16_224"),
    ],
)
def test_misspelt_names_offer_the_nearest(given: str, meant: str) -> None:
    with pytest.raises(ValueError, match=f"'{given}', did you mean '{meant}'"):
        create_model(given)


def test_a_name_like_nothing_lists_what_there_is() -> None:
    with pytest.raises(ValueError, match=r"'qqq'.*bcos_vit_digits.*standard_vitc_ti_patch1_14"):
        create_model("qqq")


def test_an_impossible_override_is_refused() -> None:
    with pytest.raises(ValueError, match="96 must be a multiple of heads 7"):
        create_model("bcos_vit_digits", heads=7)


def test_untrained_names_never_pass_for_trained_ones() -> None:
    with pytest.raises(ValueError, match="bcos_vitc_s_rope_patch1_14 has no trained weights"):
        create_model("bcos_vitc_s_rope_patch1_14", pretrained=True)
