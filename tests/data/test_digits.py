"""The embedded data set and its parts."""

import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from bcos_vit.data import Digits


def test_parts_are_fixed_stratified_and_complete():
    parts = {split: Digits(split) for split in ("train", "val", "test")}
    assert {split: len(part) for split, part in parts.items()} == {"train": 1257, "val": 180, "test": 360}
    # 1,797 scans are not all different in 64 pixels, so they are compared as a whole
    together = torch.cat([part.images[:, 0].flatten(1) for part in parts.values()]) * 16
    expected = torch.as_tensor(load_digits().data, dtype=torch.float32)
    assert sorted(map(tuple, together.tolist())) == sorted(map(tuple, expected.tolist()))
    for part in parts.values():
        share = torch.bincount(torch.tensor(part.labels), minlength=10) / len(part)
        assert (share - 0.1).abs().max() < 0.01


def test_split_is_the_documented_one():
    pixels, labels = load_digits(return_X_y=True)
    rest, test, rest_labels, test_labels = train_test_split(
        pixels, labels, test_size=360, stratify=labels, random_state=0
    )
    found = Digits("test")
    assert found.labels == test_labels.tolist()
    expected = torch.tensor(test / 16, dtype=torch.float32).view(-1, 8, 8)
    assert torch.equal(found.images[:, 2], expected)
    train, val, _, val_labels = train_test_split(rest, rest_labels, test_size=180, stratify=rest_labels, random_state=0)
    assert Digits("val").labels == val_labels.tolist()
    assert torch.equal(Digits("val").images[:, 1].flatten(1), torch.tensor(val / 16, dtype=torch.float32))
    assert torch.equal(Digits("train").images[:, 0].flatten(1), torch.tensor(train / 16, dtype=torch.float32))


def test_items_are_rgb_in_the_unit_interval():
    image, label = Digits("val")[0]
    assert image.shape == (3, 8, 8)
    assert image.dtype == torch.float32
    assert torch.equal(image[0], image[2])
    assert image.min() >= 0
    assert image.max() <= 1
    assert isinstance(label, int)


def test_another_split_is_refused():
    with pytest.raises(ValueError, match="split must be train, val or test, found 'dev'"):
        Digits("dev")


def test_folds_are_made_of_the_images_that_are_not_the_test_parts():
    test = {tuple(image.flatten().tolist()) for image in Digits("test").images}
    folds = [Digits("test", fold=number) for number in range(5)]
    assert sum(map(len, folds)) == 1437
    seen = torch.cat([fold.images for fold in folds])
    others = torch.cat([Digits("train").images, Digits("val").images])
    assert sorted(map(tuple, seen[:, 0].flatten(1).tolist())) == sorted(map(tuple, others[:, 0].flatten(1).tolist()))
    assert not test & {tuple(image.flatten().tolist()) for image in seen}
    for number, fold in enumerate(folds):
        rest = [len(Digits(part, fold=number)) for part in ("train", "val")]
        assert (rest[1], sum(rest) + len(fold)) == (180, 1437)


@pytest.mark.parametrize("number", [-1, 5, True, "0"])
def test_another_fold_is_refused(number):
    with pytest.raises(ValueError, match="fold must be a whole number from 0 to 4"):
        Digits("test", fold=number)
