"""Photos are read as they are meant to be seen, or refused in a sentence."""

import errno
import os

import numpy as np
import pytest
from PIL import Image

from bcos_vit import photos
from bcos_vit.photos import FORMATS, PhotoError, read_photo
from hostile import picture

UPRIGHT = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a, 1),
}
"""What each orientation in EXIF asks for."""


def read(path):
    photo = read_photo(path)
    assert photo.mode == "RGB"
    return np.asarray(photo).astype(int)


def ramp(dtype, top=65535):
    """All values from 0 to ``top``."""
    return np.arange(65536).clip(0, top).astype(dtype).reshape(256, 256)


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("mode", ["RGB", "I;16"])
def test_exif_orientation_is_applied(tmp_path, orientation, mode):
    stored = picture(5, 3) if mode == "RGB" else Image.fromarray(257 * np.arange(15, dtype=np.uint16).reshape(3, 5))
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "a.png", exif=exif)
    as_rgb = np.asarray(stored) if mode == "RGB" else np.repeat(np.asarray(stored)[..., None] // 257, 3, axis=2)
    assert np.array_equal(read(tmp_path / "a.png"), UPRIGHT[orientation](as_rgb))


@pytest.mark.parametrize(
    ("mode", "suffix"),
    [("L", "png"), ("1", "png"), ("P", "png"), ("P", "gif"), ("1", "tif"), ("RGB", "bmp"), ("L", "jp2")],
)
def test_grey_one_bit_and_palette_become_rgb(tmp_path, mode, suffix):
    stored = picture(20, 30, mode)
    stored.save(tmp_path / f"a.{suffix}")
    assert np.array_equal(read(tmp_path / f"a.{suffix}"), np.asarray(stored.convert("RGB")))


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
@pytest.mark.parametrize("suffix", ["png", "webp", "tif"])
def test_transparency_is_laid_over_white(tmp_path, mode, suffix):
    stored = picture(20, 30, "RGBA")
    stored.putalpha(picture(20, 30, "L", seed=1))
    stored = stored.convert(mode)
    stored.save(tmp_path / f"a.{suffix}", **({"lossless": True, "exact": True} if suffix == "webp" else {}))
    values = np.asarray(stored.convert("RGBA")).astype(float)
    alpha = values[..., 3:] / 255
    assert abs(read(tmp_path / f"a.{suffix}") - (alpha * values[..., :3] + (1 - alpha) * 255)).max() <= 1


@pytest.mark.parametrize("suffix", ["png", "gif"])
def test_transparent_colour_of_a_palette_is_white(tmp_path, suffix):
    stored = Image.new("P", (4, 2), 0)
    stored.putpalette([255, 0, 0, 0, 0, 255])
    stored.putpixel((1, 0), 1)
    stored.save(tmp_path / f"a.{suffix}", transparency=1)
    found = read(tmp_path / f"a.{suffix}")
    assert found[0, :2].tolist() == [[255, 0, 0], [255, 255, 255]]


@pytest.mark.parametrize(("mode", "white"), [("L", 7), ("RGB", (7, 8, 9)), ("1", 1)])
def test_transparent_colour_of_a_png_is_white(tmp_path, mode, white):
    stored = Image.new(mode, (2, 1))
    stored.putpixel((0, 0), white)
    stored.save(tmp_path / "a.png", transparency=white)
    assert read(tmp_path / "a.png").tolist() == [[[255, 255, 255], [0, 0, 0]]]


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr", "L"])
def test_jpeg_has_its_colours(tmp_path, mode):
    plain = Image.new("RGB", (32, 32), (200, 60, 20))
    plain.paste((10, 90, 220), (0, 0, 16, 32))
    stored = plain.convert(mode)
    stored.save(tmp_path / "a.jpg", quality=98, subsampling=0)
    assert abs(read(tmp_path / "a.jpg") - np.asarray(stored.convert("RGB"))).max() <= 6


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bits_are_scaled_not_clipped(tmp_path, suffix):
    values = ramp(np.uint16)
    Image.fromarray(values).save(tmp_path / f"a.{suffix}")
    found = read(tmp_path / f"a.{suffix}")
    assert np.array_equal(found, np.repeat(np.floor(values / 257 + 0.5)[..., None], 3, axis=2))


def test_sixteen_bits_of_the_other_byte_order_are_scaled(tmp_path):
    values = ramp(np.uint16)
    swapped = Image.frombytes("I;16B", values.shape[::-1], values.astype(">u2").tobytes())
    swapped.save(tmp_path / "a.tif")
    assert np.array_equal(read(tmp_path / "a.tif")[..., 0], np.floor(values / 257 + 0.5))


@pytest.mark.parametrize("top", [65535, 300])
def test_whole_numbers_of_32_bits_are_read_as_16(tmp_path, top):
    values = ramp(np.int32, top)
    Image.fromarray(values).save(tmp_path / "a.tif")
    assert np.array_equal(read(tmp_path / "a.tif")[..., 0], np.floor(values / 257 + 0.5))


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        (np.linspace(-1.5, 2, 12, dtype=np.float32), r"a\.tif holds real numbers, from -1\.5 to 2: give 8 or 16 bits"),
        (np.arange(65525, 65537, dtype=np.int32), r"a\.tif holds whole numbers from 65525 to 65536: give 8 or 16 bits"),
        (np.arange(-1, 11, dtype=np.int32), r"a\.tif holds whole numbers from -1 to 10"),
    ],
)
def test_numbers_without_a_known_white_are_refused(tmp_path, values, sentence):
    Image.fromarray(values.reshape(3, 4)).save(tmp_path / "a.tif")
    with pytest.raises(PhotoError, match=sentence):
        read_photo(tmp_path / "a.tif")


@pytest.mark.parametrize(("suffix", "options"), [("gif", {}), ("png", {}), ("webp", {"lossless": True}), ("tif", {})])
def test_first_of_several_pictures_is_taken_and_their_number_told(tmp_path, suffix, options):
    frames = [picture(20, 30, "P" if suffix == "gif" else "RGB", seed) for seed in range(3)]
    frames[0].save(tmp_path / f"a.{suffix}", save_all=True, append_images=frames[1:], **options)
    assert np.array_equal(read(tmp_path / f"a.{suffix}"), np.asarray(frames[0].convert("RGB")))
    assert read_photo(tmp_path / f"a.{suffix}").info == {"frames": 3}


def test_a_photo_with_its_preview_is_one_photo(tmp_path):
    picture().save(tmp_path / "a.mpo", save_all=True, append_images=[picture(seed=1)])
    assert read_photo(tmp_path / "a.mpo").info == {"frames": 1}


@pytest.mark.parametrize("form", FORMATS)
def test_content_counts_not_suffix(tmp_path, form):
    Image.init()
    if form not in Image.SAVE:
        pytest.skip(f"this Pillow cannot write {form}")
    picture(32, 32).save(tmp_path / "a.txt", form)
    assert read_photo(tmp_path / "a.txt").size == (32, 32)


@pytest.mark.filterwarnings("error")
def test_large_photos_need_no_warning_until_they_are_too_large(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)  # Pillow warns from here, and refuses from twice as many
    picture(40, 50).save(tmp_path / "large.png")
    picture(40, 51).save(tmp_path / "larger.png")
    assert read_photo(tmp_path / "large.png").size == (40, 50)
    with pytest.raises(PhotoError, match=r"larger\.png says it has more pixels than the 2,000 allowed"):
        read_photo(tmp_path / "larger.png")


@pytest.mark.parametrize(("width", "height"), [(1, 100), (200, 2)])
def test_aspect_of_a_hundred_is_read_and_more_refused(tmp_path, width, height):
    picture(width, height).save(tmp_path / "narrow.png")
    assert read_photo(tmp_path / "narrow.png").size == (width, height)
    wider, higher = width + (width > height), height + (height > width)
    picture(wider, higher).save(tmp_path / "line.png")
    with pytest.raises(PhotoError, match=rf"line\.png is {wider} x {higher} pixels: too narrow to show anything"):
        read_photo(tmp_path / "line.png")


def test_what_the_system_forbids_is_said(tmp_path, monkeypatch):
    picture().save(tmp_path / "a.png")

    def forbid(path, **options):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)

    monkeypatch.setattr(photos.Image, "open", forbid)  # administrators may read anything, whatever the mode
    with pytest.raises(PhotoError, match=r"a\.png cannot be read: Permission denied$"):
        read_photo(tmp_path / "a.png")


@pytest.mark.parametrize("name", ["missing.png", "with\0null.png", f"{'long' * 80}.png"])
def test_a_path_that_is_no_file_is_a_sentence(tmp_path, name):
    with pytest.raises(PhotoError, match=r"there is no file|cannot be read: File name too long"):
        read_photo(tmp_path / name)


def test_what_could_be_waited_for_is_not_opened(tmp_path):
    os.mkfifo(tmp_path / "fifo.png")
    for path in (tmp_path / "fifo.png", "/dev/zero"):
        with pytest.raises(PhotoError, match=f"{path} is no regular file"):
            read_photo(path)


def test_the_file_is_closed_and_may_be_replaced(tmp_path):
    picture(8, 8).save(tmp_path / "a.png")
    photo = read_photo(tmp_path / "a.png")
    (tmp_path / "a.png").write_bytes(b"")
    assert np.array_equal(np.asarray(photo), np.asarray(picture(8, 8)))


@pytest.mark.parametrize("address", ["https://example.org/cat.jpg", "s3://bucket/cat.jpg"])
def test_an_address_is_no_path(address):
    with pytest.raises(PhotoError, match=f"^{address} is an address: download the photo"):
        read_photo(address)


def test_photos_of_phones_are_to_be_saved_as_jpeg(tmp_path):
    path = tmp_path / "IMG_1.HEIC"
    path.write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100))
    with pytest.raises(PhotoError, match=r"is no image that can be read: .*; save it as JPEG$"):
        read_photo(path)
