"""Images in, names out: a model's transform and classes, predictions, and images that do not fit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from bcos_vit import create_model, explain, predict
from toys import images_for, random_images, toy

# --- transforms and predictions ---


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


def test_predict_says_what_a_twin_was_trained_to_say() -> None:
    model = toy("standard_vit_digits", outputs="sigmoid")
    found = predict(model, images_for(model))
    assert torch.equal(found.probabilities, found.logits.sigmoid())


def test_predict_shows_names_or_numbers() -> None:
    model = create_model("bcos_vit_digits", num_classes=3)
    assert predict(model, images_for(model, 1), 1).names == [[str(int(model(images_for(model, 1)).argmax()))]]
    model.class_names = ("ant", "bee", "cat")
    assert sorted(predict(model, images_for(model, 1)).names[0]) == ["ant", "bee", "cat"]


@pytest.mark.parametrize(
    ("names", "error", "sentence"),
    [
        (("ant", "bee"), ValueError, "the model has 3 logits, but 2 class names are given"),
        (tuple("abcd"), ValueError, "the model has 3 logits, but 4 class names are given"),
        ((), ValueError, "3 logits, but 0 class names"),
        ("abc", TypeError, "class_names are a sequence of 3 names or None, found 'abc'"),
        ({"a", "b", "c"}, TypeError, "class_names are a sequence of 3 names or None, found {"),
        ({0: "a", 1: "b", 2: "c"}, TypeError, "class_names are a sequence of 3 names or None, found {0: 'a'"),
        (range(3), TypeError, "class_names are texts, found 0"),
        (("a", None, "c"), TypeError, "class_names are texts, found None"),
        (7, TypeError, "class_names are a sequence of 3 names or None, found 7"),
    ],
)
def test_class_names_that_do_not_fit_are_refused_where_they_are_set(names, error, sentence) -> None:
    model = create_model("bcos_vit_digits", num_classes=3)
    model.class_names = ["ant", "bee", "cat"]
    with pytest.raises(error, match=sentence):
        model.class_names = names
    assert model.class_names == ("ant", "bee", "cat")
    model.class_names = np.array(["a", "b", "c"])
    assert model.class_names == ("a", "b", "c")
    assert {type(name) for name in model.class_names} == {str}


def test_a_plot_with_too_few_names_is_a_sentence() -> None:
    model = create_model("bcos_vit_digits")
    with pytest.raises(ValueError, match="class_names holds 3 names, and class 7 is explained"):
        explain(model, images_for(model, 1), 7).plot(class_names=["a", "b", "c"])


@pytest.mark.parametrize("k", [0, -1])
def test_predict_refuses_no_classes(k: int) -> None:
    model = create_model("bcos_vit_digits")
    with pytest.raises(ValueError, match=f"at least 1, found {k}"):
        predict(model, images_for(model), k=k)


@pytest.mark.parametrize("name", ["bcos_vit_digits", "standard_vit_digits"])
@pytest.mark.parametrize("wrong", [255.0, -1.0, float("nan")])
def test_predict_refuses_values_that_are_no_colours(name: str, wrong: float) -> None:
    model = create_model(name)
    images = images_for(model)
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\]|hold NaN"):
        predict(model, images * wrong)
    assert predict(model, images * wrong, check_values=False).logits.shape == (3, 5)
    assert predict(model, images[:0]).names == []


# --- images that do not fit ---


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
