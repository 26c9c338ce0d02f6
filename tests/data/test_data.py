"""The embedded data set, its parts, and what the data module refuses."""

import pytest
import torch
from torch.utils.data import TensorDataset

from bcos_vit.data import DataModule, Digits


def test_parts_are_fixed_stratified_and_disjoint():
    parts = {split: Digits(split) for split in ("train", "val", "test")}
    assert {split: len(part) for split, part in parts.items()} == {"train": 1257, "val": 180, "test": 360}
    # 1,797 scans are not all different in 64 pixels, so count them with their labels
    together = sum(len(part) for part in parts.values())
    assert together == 1797
    for part in parts.values():
        share = torch.bincount(torch.tensor(part.labels), minlength=10) / len(part)
        assert (share - 0.1).abs().max() < 0.01


def test_split_is_the_documented_one():
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    pixels, labels = load_digits(return_X_y=True)
    rest, test, rest_labels, test_labels = train_test_split(
        pixels, labels, test_size=360, stratify=labels, random_state=0
    )
    found = Digits("test")
    assert found.labels == test_labels.tolist()
    expected = torch.tensor(test / 16, dtype=torch.float32).view(-1, 8, 8)
    assert torch.equal(found.images[:, 2], expected)
    assert len(rest) == len(rest_labels) == 1257 + 180


def test_items_are_rgb_in_the_unit_interval():
    image, label = Digits("val")[0]
    assert image.shape == (3, 8, 8)
    assert image.dtype == torch.float32
    assert torch.equal(image[0], image[2])
    assert image.min() >= 0
    assert image.max() <= 1
    assert isinstance(label, int)


def test_transform_is_applied_to_training_images_only():
    module = DataModule(Digits, batch_size=7, train_transform=torch.zeros_like)
    images, labels = next(iter(module.train_dataloader()))
    assert images.shape == (7, 3, 8, 8)
    assert labels.shape == (7,)
    assert not images.any()
    assert next(iter(module.val_dataloader()))[0].any()


def test_every_image_of_the_test_part_comes_once():
    batches = list(DataModule(Digits, batch_size=64).test_dataloader())
    assert sum(len(labels) for _, labels in batches) == 360
    assert torch.equal(torch.cat([images for images, _ in batches]), Digits("test").images)


@pytest.mark.parametrize(
    ("value", "sentence"), [(float("nan"), "NaN"), (1.5, r"0 to 1\.5"), (-0.1, r"-0\.1 to 0"), (255.0, "0 to 255")]
)
def test_bad_values_are_refused_at_the_door(value, sentence):
    images = torch.zeros(4, 3, 8, 8)
    images[2, 0, 0, 0] = value
    module = DataModule(lambda split, transform: TensorDataset(images, torch.arange(4)), batch_size=4)
    with pytest.raises(ValueError, match=sentence):
        next(iter(module.val_dataloader()))


def test_empty_part_and_unknown_split_are_refused():
    nothing = TensorDataset(torch.zeros(0, 3, 8, 8), torch.zeros(0))
    with pytest.raises(ValueError, match="the train part of the data is empty"):
        DataModule(lambda split, transform: nothing, batch_size=4).train_dataloader()
    with pytest.raises(ValueError, match="found 'dev'"):
        Digits("dev")
