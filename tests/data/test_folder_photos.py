"""Photos of all kinds become RGB, and one that cannot be read is named."""

import gc

import numpy as np
import pytest
import torch
from PIL import Image

from bcos_vit.data import DataModule, Folder
from bcos_vit.models.zoo import preprocessing
from bcos_vit.photos import PhotoError
from photo_tree import tree

RED, GREY, WHITE = (200, 30, 60), (90, 90, 90), (255, 255, 255)
SIZE = (12, 10)


def palette(transparent):
    image = Image.new("P", SIZE, 1)
    image.putpalette([0, 0, 0, *RED])
    if transparent:
        image.info["transparency"] = 1
    return image


def red(mode):
    return Image.new("RGB", SIZE, RED).convert(mode)


# file name: a photo of one colour, and what its pixels are in RGB
PHOTOS = {
    "rgb.png": (red("RGB"), RED),
    "rgb.jpg": (red("RGB"), RED),
    "rgb.JPEG": (red("RGB"), RED),
    "rgb.bmp": (red("RGB"), RED),
    "rgb.webp": (red("RGB"), RED),
    "rgb.tiff": (red("RGB"), RED),
    "rgb.ppm": (red("RGB"), RED),
    "rgb.tga": (red("RGB"), RED),
    "rgb.jp2": (red("RGB"), RED),
    "grey.gif": (Image.new("L", SIZE, 90), GREY),
    "rgba.png": (red("RGBA"), RED),
    "clear.png": (Image.new("RGBA", SIZE, (*RED, 0)), WHITE),  # transparency is laid over white
    "palette.png": (palette(transparent=False), RED),
    "clear_palette.png": (palette(transparent=True), WHITE),
    "cmyk.jpg": (red("CMYK"), RED),
    "cmyk.tiff": (red("CMYK"), RED),
    "grey.png": (Image.new("L", SIZE, 90), GREY),
    "grey_alpha.png": (Image.new("LA", SIZE, (90, 255)), GREY),
    "grey_16_bits.png": (Image.fromarray(np.full(SIZE[::-1], 90 * 257, np.uint16)), GREY),
    "black_and_white.png": (Image.new("1", SIZE, 1), WHITE),
}


@pytest.mark.parametrize("name", PHOTOS)
def test_a_photo_of_any_kind_comes_out_as_rgb(tmp_path, name):
    root = tree(tmp_path, {"test/a": 0})
    image, expected = PHOTOS[name]
    image.save(root / "test" / "a" / name)
    found, label = Folder("test", root=str(root))[0]
    assert (found.mode, found.size, label) == ("RGB", SIZE, 0)
    lossy = 6 if name.endswith(("jpg", "JPEG", "webp")) else 0
    assert np.abs(np.asarray(found).astype(int) - expected).max() <= lossy
    pixels, _ = Folder("test", preprocessing(8), root=str(root))[0]
    assert pixels.shape == (3, 8, 8)
    assert pixels.dtype == torch.float32


@pytest.mark.parametrize("content", [b"no photo at all", b""], ids=["text", "empty"])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_spoilt_photo_is_named_when_it_is_read(tmp_path, content, workers):
    root = tree(tmp_path, {"test/a": 3, "test/b": 2})
    spoilt = root / "test" / "b" / "1.png"
    spoilt.write_bytes(content)
    module = DataModule(
        lambda split, transform: Folder(split, transform, root=str(root)),
        batch_size=2,
        num_workers=workers,
        eval_transform=preprocessing(8),
    )
    loader = iter(module.test_dataloader())
    assert torch.cat([next(loader)[1], next(loader)[1]]).tolist() == [0, 0, 0, 1]
    with pytest.raises(PhotoError, match=f"{spoilt} is (no image that can be read|empty)"):
        next(loader)
    gc.collect()  # the error holds the loader and itself; workers that are ended by a later collection take 10 s


def test_a_photo_that_breaks_off_is_named(tmp_path):
    root = tree(tmp_path, {"test/a": 1})
    whole = root / "test" / "a" / "0.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 40, 3), np.uint8)).save(whole)
    whole.write_bytes(whole.read_bytes()[:2000])
    with pytest.raises(PhotoError, match=f"{whole} cannot be decoded, it is damaged"):
        Folder("test", root=str(root))[0]
