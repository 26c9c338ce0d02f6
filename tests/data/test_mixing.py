"""Training batches are mixed, each in its own way, and evaluation batches are left alone."""

import functools

import pytest
import torch
from torchvision.transforms.v2 import CutMix, MixUp

from bcos_vit.checks import VALUE_SLACK, check_values
from bcos_vit.config import build
from bcos_vit.data import DataModule, Digits, Folder
from bcos_vit.models.zoo import preprocessing
from bcos_vit.training import OneVsRest
from evaluations import TEN, Images
from runs import config, write_photos
from toys import toy

COUNT = 24


def half(num_classes):
    """Mixes each image with the next one, half and half, whatever is drawn: with which it is mixed is seen."""

    def mix(images, labels):
        shares = torch.nn.functional.one_hot(labels, num_classes).float()
        return (images + images.roll(1, 0)) / 2, (shares + shares.roll(1, 0)) / 2

    return mix


def module(mix=MixUp, count=COUNT, batch_size=4, num_workers=0, **arguments):
    """Images of one value, which is the class in tenths, so that values say what was mixed with what."""
    labels = torch.arange(count) % 10
    images = (labels / 10).view(-1, 1, 1, 1).expand(-1, 3, 4, 4).contiguous()

    def part(split, transform):
        return Images(images, labels, TEN, transform)

    return DataModule(part, batch_size=batch_size, num_workers=num_workers, mix=mix, **arguments)


def shares(loader):
    """For each batch the larger share of a mixed image: what was drawn, or one less it."""
    drawn = []
    for _, targets in loader:
        mixed = [row.max() for row in targets if (row > 0).sum() == 2]
        drawn.append(round(float(mixed[0]), 6) if mixed else None)
    return drawn


def test_targets_are_shares_of_the_classes():
    for images, targets in module().train_dataloader():
        assert images.shape == (4, 3, 4, 4)
        assert targets.shape == (4, 10)
        assert targets.dtype == torch.float32
        assert torch.allclose(targets.sum(1), torch.ones(4), atol=1e-6)
        assert (targets >= 0).all()
        assert ((targets > 0).sum(1) <= 2).all()


@pytest.mark.parametrize("mix", [MixUp, functools.partial(MixUp, alpha=0.2), half])
@pytest.mark.parametrize("workers", [0, 2])
def test_images_are_mixed_as_their_targets_are(mix, workers):
    mixed = 0
    for images, targets in module(mix, num_workers=workers).train_dataloader():
        expected = targets @ (torch.arange(10) / 10)
        assert torch.allclose(images, expected.view(-1, 1, 1, 1).expand_as(images), atol=1e-6)
        mixed += int(((targets > 0).sum(1) == 2).sum())
    assert mixed > COUNT / 2


def test_without_mixing_targets_are_class_numbers():
    for images, labels in module(None).train_dataloader():
        assert labels.dtype == torch.int64
        assert torch.allclose(images[:, 0, 0, 0], labels / 10)


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_evaluation_batches_are_never_mixed(split):
    data = module()
    loaders = {"val": data.val_dataloader(), "test": data.test_dataloader()}
    for loader in (data.evaluation_loader(split), loaders.get(split, data.evaluation_loader(split))):
        labels = []
        for images, numbers in loader:
            assert torch.equal(images[:, 0, 0, 0], numbers / 10)
            labels += numbers.tolist()
        assert labels == [number % 10 for number in range(COUNT)]
    assert torch.equal(data.examples(split, 2)[1, 0], torch.full((4, 4), 0.2))


def test_number_of_classes_is_that_of_the_data(tmp_path):
    asked = []

    def mix(*, num_classes):
        asked.append(num_classes)
        return half(num_classes)

    root = write_photos(tmp_path / "photos", {f"{part}/{name}": 2 for part in ("train", "val") for name in "abc"})
    data = DataModule(Folder, root=str(root), batch_size=6, mix=mix, train_transform=preprocessing(8))
    _, targets = next(iter(data.train_dataloader()))
    assert asked == [3]
    assert targets.shape == (6, 3)
    digits = DataModule(Digits, batch_size=6, mix=mix)
    next(iter(digits.train_dataloader()))
    assert asked == [3, 10]


def test_one_draw_serves_a_batch_and_batches_differ():
    drawn = shares(module(batch_size=4).train_dataloader())
    assert len({share for share in drawn if share is not None}) > 3
    for _, targets in module(batch_size=12).train_dataloader():
        rows = {round(float(row.max()), 5) for row in targets if (row > 0).sum() == 2}
        assert len(rows) == 1


@pytest.mark.parametrize("workers", [0, 2])
def test_a_seed_gives_the_same_batches_and_another_seed_others(workers):
    found = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        data = module(num_workers=workers)
        found.append([(images.clone(), targets.clone()) for images, targets in data.train_dataloader()])
    for (images, targets), (again, once_more) in zip(*found[:2], strict=True):
        assert torch.equal(images, again)
        assert torch.equal(targets, once_more)
    assert not all(torch.equal(one[1], other[1]) for one, other in zip(found[0], found[2], strict=True))


def test_processes_that_load_draw_differently():
    loader = module(num_workers=2).train_dataloader()
    first, second = shares(loader), shares(loader)
    for drawn in (first, second):
        assert len(drawn) == 6  # batches come from either process in turn
        assert None not in drawn
        assert len(set(drawn)) == 6
    assert not set(first) & set(second)  # nor does an epoch repeat another


def test_draws_of_different_seeds_differ():
    drawn = []
    for seed in range(3):
        torch.manual_seed(seed)
        drawn += shares(module(num_workers=1, count=8).train_dataloader())
    assert len(set(drawn)) == len(drawn)


def test_draws_are_spread_as_the_recipe_says(tmp_path):
    """Beta(0.2, 0.2): most often nearly nothing is mixed, P(share of the larger > 0.9) = 0.67."""
    described = config("data=imagenet", "image_size=8").data.mix
    mix = build(described)(num_classes=2)
    torch.manual_seed(0)
    images, labels = torch.zeros(2, 3, 1, 1), torch.tensor([0, 1])
    larger = torch.stack([mix(images, labels)[1][0].max() for _ in range(2000)])
    beta = torch.distributions.Beta(torch.tensor(0.2), torch.tensor(0.2)).sample((100_000,))
    expected = torch.maximum(beta, 1 - beta)
    for edge in (0.6, 0.75, 0.9, 0.99):
        assert float((larger > edge).float().mean()) == pytest.approx(float((expected > edge).float().mean()), abs=0.04)


def test_a_batch_of_one_is_itself():
    batches = list(module(batch_size=1, count=3).train_dataloader())
    assert len(batches) == 3
    for images, targets in batches:
        assert images.shape == (1, 3, 4, 4)
        assert float(targets.max()) == pytest.approx(1, abs=1e-6)
        assert torch.allclose(images[:, 0, 0, 0], targets.argmax(1) / 10)


def test_mixed_values_stay_within_the_check():
    """Of black and white images, which no share may push out of [0, 1]."""
    images = torch.cat([torch.zeros(8, 3, 4, 4), torch.ones(8, 3, 4, 4)])

    def part(split, transform):
        return Images(images, torch.arange(16) % 10, TEN, transform)

    data = DataModule(part, batch_size=5, mix=MixUp)
    worst = 0.0
    for _ in range(50):
        for mixed, _ in data.train_dataloader():
            check_values(mixed)
            worst = max(worst, float(-mixed.min()), float(mixed.max()) - 1)
    assert worst < VALUE_SLACK / 100


def test_what_is_outside_is_refused_before_it_is_mixed():
    def part(split, transform):
        return Images(torch.tensor([-0.2, 0.9]).view(2, 1, 1, 1).expand(2, 3, 4, 4), torch.arange(2), TEN, transform)

    # half and half they would be within
    with pytest.raises(ValueError, match=r"^image values must lie in \[0, 1\], found -0\.2 to 0\.9"):
        next(iter(DataModule(part, batch_size=2, mix=half).train_dataloader()))


def test_another_way_of_mixing_may_be_given():
    torch.manual_seed(0)
    data = module(CutMix, batch_size=12)
    images, targets = next(iter(data.train_dataloader()))
    assert targets.shape == (12, 10)
    means = images.double().mean((1, 2, 3))
    assert torch.allclose(means, targets.double() @ (torch.arange(10) / 10).double(), atol=1e-6)


@pytest.mark.parametrize("loss", [OneVsRest(), torch.nn.CrossEntropyLoss()], ids=["one-vs-rest", "cross-entropy"])
def test_losses_take_mixed_targets(loss):
    """As the sum of the losses of both classes, by their shares (clamping aside)."""
    loss.eval()
    model = toy("bcos_vit_digits", num_classes=10)
    images, labels = torch.rand(6, 3, 8, 8), torch.tensor([0, 3, 3, 5, 9, 1])
    mixed, targets = MixUp(num_classes=10)(images, labels)
    logits = model(mixed).detach()
    share = float(targets[0, 0])
    expected = share * loss(logits, labels) + (1 - share) * loss(logits, labels.roll(1))
    assert float(loss(logits, targets)) == pytest.approx(float(expected), rel=1e-5)
