"""Learning from a part of the training images: so many, evenly spread over the sorted classes."""

import pytest
import torch

from bcos_vit.data import DataModule

CLASSES, EACH = 4, 6


class Sorted(torch.utils.data.Dataset):
    """Images sorted by class, as folders are; each shows its own number."""

    class_names = tuple("abcd")
    licence = "none needed"

    def __init__(self, split, transform=None):
        pass

    def __len__(self):
        return CLASSES * EACH

    def __getitem__(self, index):
        return torch.full((3, 2, 2), index / 100), index // EACH


def given(**arguments) -> tuple[list[int], list[int]]:
    data = DataModule(Sorted, batch_size=5, **arguments)
    batches = list(data.train_dataloader())
    images, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
    return sorted(round(100 * float(image[0, 0, 0])) for image in images), sorted(labels.tolist())


def test_so_many_are_given_and_every_class_has_its_share():
    numbers, labels = given(train_images=8)
    assert numbers == [0, 3, 6, 9, 12, 15, 18, 21]
    assert labels == [0, 0, 1, 1, 2, 2, 3, 3]


@pytest.mark.parametrize("count", [None, 24, 25, 1000])
def test_all_are_given_once_where_no_fewer_are_asked_for(count):
    numbers, _ = given(train_images=count)
    assert numbers == list(range(CLASSES * EACH))


def test_the_order_is_shuffled_and_evaluation_sees_all():
    torch.manual_seed(0)
    data = DataModule(Sorted, batch_size=24, train_images=12)
    orders = {tuple(next(iter(data.train_dataloader()))[0][:, 0, 0, 0].tolist()) for _ in range(5)}
    assert len(orders) == 5
    assert sum(len(images) for images, _ in data.evaluation_loader("train")) == 24


@pytest.mark.parametrize("count", [0, -1, 2.5, True, "8"])
def test_what_is_no_number_of_images_is_refused(count):
    with pytest.raises(ValueError, match=f"^train_images must be a whole number of at least 1, found {count!r}$"):
        DataModule(Sorted, batch_size=5, train_images=count)
