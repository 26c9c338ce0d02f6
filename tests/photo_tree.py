"""Folders of small photos for tests."""

from pathlib import Path

from PIL import Image
from torchvision.transforms.v2.functional import to_pil_image

from bcos_vit.data import Digits


def tree(folder: Path, photos: dict[str, int]) -> Path:
    """Makes ``folder/photos`` with so many photos in each folder below: ``tree(tmp_path, {"train/cat": 2})``.

    Each folder has a grey of its own, 40 times its number, and each photo its number on top.
    """
    root = folder / "photos"
    root.mkdir()
    for number, (name, images) in enumerate(photos.items()):
        (root / name).mkdir(parents=True)
        for image in range(images):
            Image.new("L", (9, 7), 40 * number + image).save(root / name / f"{image}.png")
    return root


class DigitPhotos(Digits):
    """The digits as pictures, as data sets of photos have them."""

    def __getitem__(self, index):
        photo = to_pil_image(self.images[index])
        return photo if self.transform is None else self.transform(photo), self.labels[index]
