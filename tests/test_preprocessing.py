"""From a photo to the model's image: one door for paths, PIL images and arrays, and three ways to fit the square."""

import io
import os
import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode, v2

import bcos_vit
from bcos_vit import ViT, create_model
from bcos_vit.models.zoo import preprocessing
from bcos_vit.photos import PhotoError, as_photo, read_photo
from bcos_vit.preprocessing import Preprocessing
from hostile import encoded, picture, write_refused
from toys import toy, toy_spec

TRANSFORM = Preprocessing(image_size=64, patch_size=16)


def turned():
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(picture(90, 60), "JPEG", exif=exif)


def transparent():
    image = picture(70, 70, "RGBA")
    image.putalpha(picture(70, 70, "L", seed=1))
    return encoded(image, "PNG")


def palette():
    image = picture(70, 80, "P")
    return encoded(image, "PNG", transparency=3)


KINDS = {
    "plain.png": lambda: encoded(picture(80, 70), "PNG"),
    "sixteen.png": lambda: encoded(Image.fromarray(np.arange(4900, dtype=np.uint16).reshape(70, 70) * 13), "PNG"),
    "sixteen.tif": lambda: encoded(Image.fromarray(np.arange(4900, dtype=np.int32).reshape(70, 70) * 13), "TIFF"),
    "turned.jpg": turned,
    "transparent.png": transparent,
    "palette.png": palette,
    "cmyk.jpg": lambda: encoded(picture(80, 70, "CMYK"), "JPEG"),
    "bits.png": lambda: encoded(picture(80, 70, "1"), "PNG"),
    "grey.png": lambda: encoded(picture(80, 70, "L"), "PNG", transparency=7),
    "both.png": lambda: encoded(picture(80, 70, "LA"), "PNG"),
}


@pytest.mark.parametrize("name", KINDS)
def test_path_and_image_show_the_same_as_the_command(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(KINDS[name]())
    photo = read_photo(path)
    expected = TRANSFORM(photo)
    assert torch.equal(TRANSFORM(path), expected)
    assert torch.equal(TRANSFORM(str(path)), expected)
    assert torch.equal(TRANSFORM(np.asarray(photo)), expected)
    with Image.open(path) as image:
        assert torch.equal(TRANSFORM(image), expected)
    with Image.open(io.BytesIO(path.read_bytes())) as image:  # that knows of no file
        assert torch.equal(TRANSFORM(image), expected)


@pytest.mark.parametrize("name", KINDS)
def test_what_is_given_stays_as_it_is(tmp_path, name):
    with Image.open(io.BytesIO(KINDS[name]())) as image:
        image.load()
        mode, size, pixels, info = image.mode, image.size, image.tobytes(), dict(image.info)
        TRANSFORM(image)
        assert (image.mode, image.size, image.tobytes(), image.info) == (mode, size, pixels, info)


@pytest.mark.parametrize("mode", ["RGBX", "RGBa", "La", "PA", "HSV", "YCbCr", "LAB", "I;16B"])
def test_images_in_memory_of_rare_modes_are_read(mode):
    assert TRANSFORM(Image.new(mode, (70, 80))).shape == (3, 64, 64)


def test_premultiplied_transparency_is_laid_over_white():
    image = picture(70, 70, "LA")
    plain, other = TRANSFORM(image), TRANSFORM(image.convert("La"))
    assert torch.allclose(plain, other, atol=2 / 255)


@pytest.mark.parametrize("form", ["reversed", "transposed", "read-only", "every-other"])
def test_arrays_may_lie_in_memory_in_any_way(form):
    array = np.asarray(picture(80, 70)).copy()
    given = {
        "reversed": array[::-1, :, ::-1],
        "transposed": array.transpose(1, 0, 2),
        "read-only": np.broadcast_to(array[:1], array.shape),
        "every-other": array[::2, ::2],
    }[form]
    before = given.copy()
    assert torch.equal(TRANSFORM(given), TRANSFORM(Image.fromarray(np.ascontiguousarray(given))))
    assert np.array_equal(given, before)


ARRAY = np.asarray(picture(8, 6))


@pytest.mark.parametrize(
    ("given", "error", "sentence"),
    [
        (torch.rand(3, 8, 8), TypeError, "found Tensor: images in [0, 1] go to the model as they are"),
        (torch.zeros(3, 8, 8, dtype=torch.uint8), TypeError, "tensor.permute(1, 2, 0).numpy()"),
        (ARRAY / 255, TypeError, "found float64 in (6, 8, 3): give (255 * array).round().astype('uint8')"),
        (ARRAY.astype(np.uint16), TypeError, "found uint16 in (6, 8, 3): give array.astype('uint8') for values from 0"),
        (ARRAY > 3, TypeError, "found bool in (6, 8, 3): give 255 * array.astype('uint8')"),
        (ARRAY[..., 0], ValueError, "found the shape (6, 8): give PIL.Image.fromarray(array)"),
        (ARRAY[..., :1], ValueError, "found the shape (6, 8, 1): give PIL.Image.fromarray(array[:, :, 0])"),
        (np.dstack([ARRAY, ARRAY[..., 0]]), ValueError, "found the shape (6, 8, 4): give PIL.Image.fromarray(array)"),
        (ARRAY.transpose(2, 0, 1), ValueError, "found the shape (3, 6, 8): give array.transpose(1, 2, 0)"),
        (ARRAY[None], ValueError, "found the shape (1, 6, 8, 3): give one photo at a time"),
        (ARRAY[:0], PhotoError, "the image is 8 x 0 pixels: there is nothing in it"),
        (np.zeros((1, 101, 3), np.uint8), PhotoError, "the image is 101 x 1 pixels: too narrow to show anything"),
        (Image.new("RGB", (0, 0)), PhotoError, "the image is 0 x 0 pixels: there is nothing in it"),
        (Image.new("RGB", (2, 300)), PhotoError, "the image is 2 x 300 pixels: too narrow to show anything"),
        (Image.new("F", (3, 3), 0.5), PhotoError, "the image holds real numbers, from 0.5 to 0.5: give 8 or 16 bits"),
        (Image.new("I", (3, 3), 70000), PhotoError, "the image holds whole numbers from 70000 to 70000"),
        (b"\x89PNG", TypeError, "found bytes: open it with PIL.Image.open(io.BytesIO(data))"),
        (io.BytesIO(), TypeError, "found BytesIO: open it with PIL.Image.open(file)"),
        ([ARRAY], TypeError, "found list: give one photo at a time, as in torch.stack([model.transform(photo) for"),
        (None, TypeError, "a photo is a path, a PIL image or an (H, W, 3) array of uint8, found NoneType"),
        (7, TypeError, "found int"),
    ],
    ids=lambda given: type(given).__name__,
)
def test_anything_else_is_a_sentence(given, error, sentence):
    with pytest.raises(error) as refused:
        TRANSFORM(given)
    assert sentence in str(refused.value)


def test_files_that_are_refused_by_path_are_refused_as_images(tmp_path):
    for path in write_refused(tmp_path):
        with pytest.raises(PhotoError):
            TRANSFORM(path)
        try:
            image = Image.open(path) if os.path.isfile(path) else None
        except Exception:  # Pillow itself refuses it
            continue
        if image is not None:
            with image, pytest.raises(PhotoError):
                TRANSFORM(image)


def test_a_damaged_file_is_named(tmp_path):
    (tmp_path / "cut.png").write_bytes(encoded(picture(), "PNG")[:-400])
    with Image.open(tmp_path / "cut.png") as image, pytest.raises(PhotoError, match=r"cut\.png cannot be decoded"):
        TRANSFORM(image)


def test_the_home_folder_may_be_a_tilde(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    picture().save(tmp_path / "a.png")
    assert read_photo("~/a.png").size == (64, 48)


def test_reading_is_public():
    assert bcos_vit.read_photo is read_photo


def test_an_upright_rgb_image_is_not_copied():
    image = picture()
    assert as_photo(image) is image


@pytest.mark.parametrize("size", [8, 224])
@pytest.mark.parametrize("shape", [(300, 400), (31, 17), (640, 640)])
def test_numbers_are_those_of_the_published_preprocessing(size, shape):
    reference = v2.Compose(
        [
            v2.Resize(256 if size == 224 else size, InterpolationMode.BILINEAR),
            v2.CenterCrop(size),
            v2.PILToTensor(),
            v2.ToDtype(torch.float32, scale=True),
        ]
    )
    photo = picture(*shape)
    assert torch.equal(Preprocessing(size)(photo), reference(photo))


# --- fit ---


@pytest.mark.parametrize(
    ("width", "height", "expected"),
    [(3000, 400, (64, 480)), (400, 3000, (480, 64)), (64, 64, (64, 64)), (70, 64, (64, 64)), (73, 64, (64, 80))],
)
def test_whole_scales_the_shorter_side_and_rounds_to_patches(width, height, expected):
    photo = Image.new("RGB", (width, height))
    photo.paste((255, 0, 0), (0, 0, max(1, width // 40), max(1, height // 40)))  # a corner that cropping would lose
    image = TRANSFORM(photo, fit="whole")
    assert image.shape == (3, *expected)
    assert image[0, 0, 0] > 0.5
    exact = v2.functional.resize(photo, list(expected), InterpolationMode.BILINEAR)
    assert torch.allclose(image, v2.functional.pil_to_tensor(exact) / 255)


@pytest.mark.parametrize(("width", "height"), [(300, 100), (100, 300), (90, 90), (6400, 64)])
def test_pad_shows_all_of_the_photo_in_a_grey_square(width, height):
    image = TRANSFORM(Image.new("RGB", (width, height), "red"), fit="pad")
    assert image.shape == (3, 64, 64)
    grey, red = (image == 128 / 255).all(0), (image == torch.tensor([1.0, 0, 0])[:, None, None]).all(0)
    assert bool((grey | red).all())
    rows, columns = int(red.any(1).sum()), int(red.any(0).sum())
    assert (columns, rows) == (round(64 * width / max(width, height)), round(64 * height / max(width, height)))
    if width > height:
        above = int(red.any(1).int().argmax())
        assert abs(above - (64 - rows - above)) <= 1  # in the middle


def test_a_model_explains_a_whole_panorama():
    model = toy("bcos_vit_digits")
    images = model.transform(Image.new("RGB", (3000, 400), "red"), fit="whole")[None]
    assert images.shape == (1, 3, 8, 60)
    assert bcos_vit.explain(model, images).check().contributions.shape == (1, 8, 60)


def test_more_tokens_than_memory_is_meant_to_hold_are_a_sentence():
    assert Preprocessing(224, 16)(Image.new("RGB", (146 * 4, 14 * 4)), fit="whole").shape == (3, 224, 16 * 146)
    with pytest.raises(ValueError, match=r"588 x 56 pixels is 147 x 14 patches .*: 2,058 tokens, more than the 2,048 "):
        Preprocessing(224, 16)(Image.new("RGB", (147 * 4, 14 * 4)), fit="whole")
    assert Preprocessing(240, 4)(Image.new("RGB", (9, 9)), fit="whole").shape == (3, 240, 240)  # 3,600: its own number


@pytest.mark.parametrize("transform", [toy("bcos_vit_digits", position="prior").transform, preprocessing(8)])
def test_whole_needs_a_model_of_any_size(transform):
    with pytest.raises(ValueError, match=r"'whole' makes images of other shapes than 8 x 8.*give fit 'crop' or 'pad'"):
        transform(picture(), fit="whole")
    assert transform(picture(), fit="pad").shape == transform(picture()).shape == (3, 8, 8)


@pytest.mark.parametrize("fit", ["Whole", "", None, "squash"])
def test_another_word_for_fit_is_a_sentence(fit):
    with pytest.raises(ValueError, match=f"fit must be one of crop, whole, pad, found {fit!r}"):
        TRANSFORM(picture(), fit=fit)


# --- where it is ---


def test_every_model_has_one():
    by_hand = ViT(toy_spec("bcos_vit_digits"))
    assert by_hand.transform == Preprocessing(8, 2)
    assert create_model("bcos_vit_digits", pretrained=True, image_size=16).transform == Preprocessing(16, 2)
    assert ViT(toy_spec("bcos_vit_digits", position="prior")).transform == Preprocessing(8, None)


def test_it_can_be_sent_to_other_processes_and_read():
    assert pickle.loads(pickle.dumps(TRANSFORM)) == TRANSFORM
    assert repr(TRANSFORM) == "Preprocessing(image_size=64, patch_size=16)"
    assert preprocessing(8)(picture()).shape == (3, 8, 8)
