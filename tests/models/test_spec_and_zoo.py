"""Specs, the zoo's names, weights files, predictions, and the sentences that answer wrong input."""

from __future__ import annotations

import copy
import dataclasses
import errno
import json
import math
import os
import pickle
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import bcos_vit
from bcos_vit import ViTSpec, create_model, list_models, predict, save_model
from bcos_vit.models import weights
from bcos_vit.models.zoo import SPECS
from toys import deviation, images_for, random_images, toy, toy_spec

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
    assert list_models() == sorted([*published, *rope, "bcos_vit_digits", "standard_vit_digits"])
    assert len(published) == 16
    assert len(rope) == 8


def test_patterns_select_names() -> None:
    assert list_models("bcos_vitc_s_*") == ["bcos_vitc_s_patch1_14", "bcos_vitc_s_rope_patch1_14"]
    assert list_models("nothing*") == []


@pytest.mark.parametrize("name", list_models("*_14") + list_models("*_224"))
def test_published_sizes(name: str) -> None:
    family, size = name.split("_")[0], name.replace("simple_vit", "vitc").split("_")[2]
    width, heads, mlp_width, depth, stem = SIZES[size]
    vitc = "vitc" in name
    assert SPECS[name] == ViTSpec(
        family=family,
        image_size=224,
        patch_size=16,
        stem=stem if vitc else (),
        width=width,
        depth=depth - vitc,
        heads=heads,
        mlp_width=mlp_width,
        num_classes=1000,
        position="rope" if "rope" in name else "sincos",
    )
    assert SPECS[name].stem_stride == (16 if vitc else 1)
    assert SPECS[name].grid == 14


def test_sizes_of_the_digits_models() -> None:
    assert SPECS["bcos_vit_digits"] == ViTSpec(family="bcos", position="rope", **DIGITS)
    assert SPECS["standard_vit_digits"] == ViTSpec(family="standard", position="sincos", **DIGITS)


def test_a_model_is_what_its_spec_says() -> None:
    model = create_model("bcos_vitc_ti_patch1_14", num_classes=7, depth=2, b=1.5)
    assert model.spec == dataclasses.replace(SPECS["bcos_vitc_ti_patch1_14"], num_classes=7, depth=2, b=1.5)
    assert SPECS["bcos_vitc_ti_patch1_14"].num_classes == 1000  # the zoo's own spec is untouched
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
    with pytest.raises(ValueError, match="bcos_vitc_s_patch1_14 has no trained weights"):
        create_model("bcos_vitc_s_patch1_14", pretrained=True)


# --- images in, names out ---


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "LA", "P", "1", "CMYK"])
def test_transform_takes_any_kind_of_picture(mode: str) -> None:
    pixels = np.linspace(0, 255, 20 * 30 * 3).reshape(20, 30, 3).astype(np.uint8)
    image = create_model("bcos_vit_digits").transform(Image.fromarray(pixels).convert(mode))
    assert image.shape == (3, 8, 8)
    assert image.dtype == torch.float32
    assert float(image.min()) >= 0
    assert 0.5 < float(image.max()) <= 1
    if mode in ("L", "LA", "1"):
        assert torch.equal(image[0], image[1])
        assert torch.equal(image[0], image[2])


def test_transform_keeps_colours_apart() -> None:
    transform = create_model("bcos_vit_digits").transform
    for channel in range(3):
        colour = [0, 0, 0]
        colour[channel] = 255
        expected = torch.zeros(3, 8, 8)
        expected[channel] = 1
        assert torch.equal(transform(Image.new("RGB", (9, 8), tuple(colour))), expected)


def test_transform_crops_as_published() -> None:
    """Shorter side to 256, then the middle 224: 16 pixels are cut off on every side."""
    pixels = np.zeros((512, 512, 3), np.uint8)
    pixels[40:-40, 40:-40] = 255
    image = create_model("bcos_simple_vit_ti_patch16_224", depth=1).transform(Image.fromarray(pixels))
    assert image.shape == (3, 224, 224)
    assert float(image[:, :3].max()) == 0  # of the black frame's 40 pixels 20 are left, then 4, less a blurred one
    assert float(image[:, 5:-5, 5:-5].min()) == 1


def test_class_names() -> None:
    assert create_model("bcos_vit_digits").class_names == tuple("0123456789")
    assert create_model("bcos_vit_digits", num_classes=4).class_names is None
    names = create_model("bcos_simple_vit_ti_patch16_224", depth=1).class_names
    assert (len(names), names[0], names[207]) == (1000, "tench", "golden retriever")


@pytest.mark.parametrize("name", ["bcos_vit_digits", "standard_vit_digits"])
def test_predict(name: str) -> None:
    model = create_model(name)
    images = images_for(model)
    logits = model(images)
    found = predict(model, images, k=3)
    assert torch.equal(found.logits, logits.topk(3).values)
    assert torch.equal(found.classes, logits.topk(3).indices)
    assert found.names == [[str(int(c)) for c in row] for row in found.classes]
    assert not found.logits.requires_grad
    everything = predict(model, images, k=99)
    assert everything.probabilities.shape == (3, 10)
    if name.startswith("bcos"):
        torch.testing.assert_close(everything.probabilities, everything.logits.sigmoid())
    else:
        torch.testing.assert_close(found.probabilities, logits.softmax(1).topk(3).values)
        torch.testing.assert_close(everything.probabilities.sum(1), torch.ones(3))


def test_predict_shows_names_or_numbers() -> None:
    model = create_model("bcos_vit_digits", num_classes=3)
    assert predict(model, images_for(model, 1), 1).names == [[str(int(model(images_for(model, 1)).argmax()))]]
    model.class_names = ("ant", "bee", "cat")
    assert sorted(predict(model, images_for(model, 1)).names[0]) == ["ant", "bee", "cat"]


@pytest.mark.parametrize("k", [0, -1])
def test_predict_refuses_no_classes(k: int) -> None:
    model = create_model("bcos_vit_digits")
    with pytest.raises(ValueError, match=f"at least 1, found {k}"):
        predict(model, images_for(model), k=k)


@pytest.mark.parametrize("name", ["bcos_vit_digits", "standard_vit_digits"])
@pytest.mark.parametrize(
    ("images", "error", "message"),
    [
        (torch.rand(3, 8, 8), ValueError, r"\(B, 3, H, W\), found \(3, 8, 8\)"),
        (torch.rand(2, 1, 8, 8), ValueError, r"3 channels, found 1 in \(2, 1, 8, 8\)"),
        (torch.rand(2, 6, 8, 8), ValueError, "3 channels, found 6.*plain RGB"),
        (torch.zeros(2, 3, 8, 8, dtype=torch.uint8), TypeError, "torch.uint8.*255"),
        (torch.rand(2, 3, 8, 8).double(), TypeError, "torch.float64.*torch.float32"),
        (torch.rand(2, 3, 8, 8).half(), TypeError, "torch.float16.*torch.float32"),
        (torch.rand(2, 3, 8, 9), ValueError, "patch size 2, found 8 x 9"),
        (torch.rand(2, 3, 7, 8), ValueError, "patch size 2, found 7 x 8"),
        (torch.rand(2, 3, 0, 8), ValueError, "found 0 x 8"),
    ],
    ids=["rank", "grey", "six", "bytes", "double", "half", "width", "height", "empty"],
)
def test_images_that_do_not_fit(name: str, images: torch.Tensor, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        toy(name)(images)


def test_encoded_images_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="encoded images must have 6 channels, found 3"):
        toy("bcos_vit_digits").forward_encoded(torch.rand(1, 3, 8, 8))


def test_a_prior_is_tied_to_its_size() -> None:
    model = toy("bcos_vit_digits", position="prior")
    assert model(random_images(1, 8)).shape == (1, 5)
    for size, found in (((8, 10), "8 x 10"), (6, "6 x 6")):
        with pytest.raises(ValueError, match=f"8 x 8 images, found {found}"):
            model(random_images(1, size))


# --- weights files ---


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("bcos_vitc_ti_patch1_14", {"b": 1.5, "max_out": 2, "value": "bcos", "head": "tokens", "logit_bias": -0.25}),
        ("bcos_simple_vit_s_patch16_224", {"position": "prior"}),
        ("standard_vitc_b_patch1_14", {}),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_files_keep_a_model_exactly(tmp_path: Path, name: str, fields: dict[str, Any], dtype: torch.dtype) -> None:
    model = toy(name, dtype=dtype, **fields)
    model.class_names = ("a", "b", "c", "d", "ö")
    path = tmp_path / "model.safetensors"
    save_model(model, path, about={"epochs": 3})
    again = create_model(path)
    assert again.spec == model.spec
    assert again.class_names == model.class_names
    assert not again.training
    assert all(torch.equal(again.state_dict()[k], v) for k, v in model.state_dict().items())
    # Not bitwise: the same numbers may lie elsewhere in memory, and sums depend on their alignment.
    assert deviation(again(images_for(model)), model(images_for(model))) <= (1e-6 if dtype == torch.float32 else 1e-14)
    assert again.transform(Image.new("L", (50, 60))).shape == (3, model.spec.image_size, model.spec.image_size)
    assert create_model(str(path)).spec == model.spec
    with safe_open(path, framework="pt") as file:
        assert json.loads(file.metadata()["about"]) == {"epochs": 3}


def test_files_without_names_and_of_models_in_training(tmp_path: Path) -> None:
    model = toy("bcos_vit_digits").train()
    save_model(model, tmp_path / "model.safetensors")
    again = create_model(tmp_path / "model.safetensors")
    assert again.class_names is None
    assert model.training  # saving does not change the mode
    assert all(p.requires_grad for p in again.parameters())  # it can go on learning


def test_a_file_is_overwritten_whole(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_model(toy("bcos_vit_digits"), path)
    save_model(toy("bcos_vit_digits", seed=1), path)
    assert torch.equal(load_file(path)["head.norm.weight"], toy("bcos_vit_digits", seed=1).head.norm.weight)
    assert list(tmp_path.iterdir()) == [path]


def test_missing_files(tmp_path: Path) -> None:
    for path in (tmp_path / "none.safetensors", tmp_path, str(tmp_path / "none"), "none.safetensors"):
        with pytest.raises(FileNotFoundError, match="there is no weights file"):
            create_model(path)


def test_files_hold_their_own_spec(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_model(toy("bcos_vit_digits"), path)
    with pytest.raises(TypeError, match="holds its own spec and weights: drop num_classes"):
        create_model(path, num_classes=3)
    with pytest.raises(TypeError, match="drop pretrained"):
        create_model(path, pretrained=True)


@pytest.mark.parametrize(
    "content", [b"", b"\x80\x02}q\x00.", b"no weights at all" * 9], ids=["empty", "pickle", "text"]
)
def test_files_that_are_no_safetensors(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"model\.safetensors is not a safetensors file"):
        create_model(path)


def _rewrite(path: Path, changes: dict[str, str | None], tensors: dict[str, torch.Tensor | None]) -> None:
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() | changes
    state = load_file(path) | tensors
    kept = {name: text for name, text in metadata.items() if text is not None}
    save_file({name: t for name, t in state.items() if t is not None}, path, kept)


@pytest.mark.parametrize("found", [None, "pt", "bcos_vit explanation 1"])
def test_files_of_others(tmp_path: Path, found: str | None) -> None:
    path = tmp_path / "model.safetensors"
    save_model(toy("bcos_vit_digits"), path)
    _rewrite(path, {"format": found}, {})
    with pytest.raises(ValueError, match=f"no weights file of bcos_vit.*{found}"):
        create_model(path)


@pytest.mark.parametrize(
    ("key", "tensor"),
    [
        ("head.norm.weight", None),
        ("head.norm.bias", torch.ones(16)),
        ("blocks.1.mlp.expand.weight", torch.ones(3, 4)),
    ],
    ids=["missing", "surplus", "shape"],
)
def test_files_with_wrong_tensors(tmp_path: Path, key: str, tensor: torch.Tensor | None) -> None:
    path = tmp_path / "model.safetensors"
    save_model(toy("bcos_vit_digits"), path)
    _rewrite(path, {}, {key: tensor})
    with pytest.raises(ValueError, match=f"does not fit its own spec: 1 tensors? differ.*{key}"):
        create_model(path)


@pytest.mark.parametrize(
    "spec", [None, "{", "[]", json.dumps({"family": "bcos"})], ids=["none", "broken", "list", "incomplete"]
)
def test_files_with_a_spoilt_spec(tmp_path: Path, spec: str | None) -> None:
    path = tmp_path / "model.safetensors"
    save_model(toy("bcos_vit_digits"), path)
    _rewrite(path, {"spec": spec}, {})
    with pytest.raises(ValueError, match=r"model\.safetensors"):
        create_model(path)


def test_files_are_named_for_what_they_are(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"\.safetensors, found .*model\.pth"):
        save_model(toy("bcos_vit_digits"), tmp_path / "model.pth")
    assert not list(tmp_path.iterdir())


def test_folders_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = toy("bcos_vit_digits")
    with pytest.raises(FileNotFoundError, match=r"cannot write .*none.*give a path in a folder"):
        save_model(model, tmp_path / "none" / "model.safetensors")
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match=r"cannot write .*file.*give a path in a folder"):
        save_model(model, tmp_path / "file" / "model.safetensors")
    (tmp_path / "folder.safetensors").mkdir()
    with pytest.raises(IsADirectoryError, match=r"folder\.safetensors: it is a folder"):
        save_model(model, tmp_path / "folder.safetensors")

    def refuse(*_: object) -> NoReturn:  # permissions do not stop a superuser, who may run the tests
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(PermissionError, match=r"cannot write .*model\.safetensors: Permission denied"):
        save_model(model, tmp_path / "model.safetensors")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder.safetensors"]


def test_a_write_that_breaks_off_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.safetensors"
    save_model(toy("bcos_vit_digits"), path)
    before = path.read_bytes()

    def break_off(_: object, destination: Path, __: object) -> NoReturn:
        destination.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(weights, "save_file", break_off)
    for target in (path, tmp_path / "other.safetensors"):
        with pytest.raises(OSError, match="No space"):
            save_model(toy("bcos_vit_digits", seed=1), target)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_the_facade_names_what_it_exports() -> None:
    assert all(hasattr(bcos_vit, name) for name in bcos_vit.__all__)
    assert isinstance(create_model("bcos_vit_digits"), bcos_vit.ViT)
