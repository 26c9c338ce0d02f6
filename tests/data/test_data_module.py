"""The data module: what its loaders give, how processes share, and what it refuses."""

from types import SimpleNamespace

import pytest
import torch
from torch.utils.data import TensorDataset

from bcos_vit.data import DataModule, Digits


def module_over(images, **settings):
    """A data module whose every part holds ``images``, numbered."""
    settings = {"batch_size": 4} | settings
    return DataModule(lambda split, transform: TensorDataset(images, torch.arange(len(images))), **settings)


# --- what loaders give ---


def test_transforms_of_training_reach_training_alone():
    module = DataModule(
        Digits, batch_size=7, train_transform=torch.zeros_like, eval_transform=lambda image: image / 2 + 0.25
    )
    images, labels = next(iter(module.train_dataloader()))
    assert images.shape == (7, 3, 8, 8)
    assert labels.shape == (7,)
    assert not images.any()
    for split in ("train", "val", "test"):  # the training part is evaluated as any other
        part = Digits(split)
        images, labels = next(iter(module.evaluation_loader(split)))
        assert torch.equal(images, part.images[:7] / 2 + 0.25)
        assert labels.tolist() == part.labels[:7]
        assert torch.equal(module.part(split)[3][0], part.images[3] / 2 + 0.25)


def test_training_images_come_once_an_epoch_in_another_order():
    module = module_over(torch.zeros(40, 3, 2, 2))
    epochs = [torch.cat([labels for _, labels in module.train_dataloader()]).tolist() for _ in range(2)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(40))
    assert epochs[0] != epochs[1]


@pytest.mark.parametrize("split", ["val", "test"])
def test_every_image_that_is_evaluated_comes_once_and_in_order(split):
    module = DataModule(Digits, batch_size=64)
    batches = list(getattr(module, f"{split}_dataloader")())
    assert torch.equal(torch.cat([images for images, _ in batches]), Digits(split).images)
    assert torch.cat([labels for _, labels in batches]).tolist() == Digits(split).labels


def test_workers_load_the_same():
    module = DataModule(Digits, batch_size=100, num_workers=2)
    assert torch.equal(torch.cat([images for images, _ in module.val_dataloader()]), Digits("val").images)


def test_class_names_are_those_of_the_data():
    assert DataModule(Digits, batch_size=1).class_names == tuple("0123456789")


# --- how processes share ---


@pytest.mark.parametrize("split", ["val", "test"])
@pytest.mark.parametrize("processes", [1, 2, 3, 4])
def test_processes_share_a_part_without_repeating_or_forgetting(processes, split):
    for size in range(processes, 14):
        seen = []
        for rank in range(processes):
            module = module_over(torch.zeros(size, 3, 2, 2), batch_size=2)
            module.trainer = SimpleNamespace(world_size=processes, global_rank=rank)
            share = torch.cat([labels for _, labels in module.evaluation_loader(split)]).tolist()
            assert share == list(range(rank, size, processes))  # the evaluation numbers its images by this
            seen += share
        assert sorted(seen) == list(range(size)), (size, processes)


@pytest.mark.parametrize(("size", "processes"), [(1, 2), (1, 4), (2, 3), (3, 4)])
def test_fewer_images_than_processes_are_refused(size, processes):
    module = module_over(torch.zeros(size, 3, 2, 2))
    for rank in range(processes):  # each of them, so that none waits for the others
        module.trainer = SimpleNamespace(world_size=processes, global_rank=rank)
        with pytest.raises(ValueError, match=f"test part holds {size} images, too few to share among {processes}"):
            module.evaluation_loader("test")


# --- what it refuses ---


@pytest.mark.parametrize("found", [0, -1, 2.0, "8", None, True], ids=repr)
def test_impossible_batch_sizes(found):
    with pytest.raises(ValueError, match=f"batch_size must be a whole number of at least 1, found {found!r}"):
        DataModule(Digits, batch_size=found)


@pytest.mark.parametrize("found", [-1, 0.5, "2", None, False], ids=repr)
def test_impossible_numbers_of_workers(found):
    with pytest.raises(ValueError, match=f"num_workers must be a whole number of at least 0, found {found!r}"):
        DataModule(Digits, batch_size=1, num_workers=found)


@pytest.mark.parametrize(
    ("value", "sentence"), [(float("nan"), "NaN"), (1.5, r"0 to 1\.5"), (-0.1, r"-0\.1 to 0"), (255.0, "0 to 255")]
)
@pytest.mark.parametrize("loader", ["train_dataloader", "val_dataloader", "test_dataloader"])
def test_bad_values_are_refused_at_the_door(value, sentence, loader):
    images = torch.zeros(4, 3, 8, 8)
    images[2, 0, 0, 0] = value
    with pytest.raises(ValueError, match=sentence):
        next(iter(getattr(module_over(images), loader)()))


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_an_empty_part_is_refused(split):
    module = module_over(torch.zeros(0, 3, 8, 8))
    with pytest.raises(ValueError, match=f"the {split} part of the data is empty"):
        getattr(module, f"{split}_dataloader")()
