"""Images that cannot be read end a run with their name, or are left out of their batches and remembered."""

import gc
import re
import types

import pytest
import torch

from bcos_vit.data import DataModule, Folder
from bcos_vit.evaluation.setting import model_and_data
from bcos_vit.models.zoo import preprocessing
from bcos_vit.photos import PhotoError
from imagenet_tree import pixel
from runs import config, write_photos

GOOD = {"a": 3, "b": 4, "c": 3}
SPOILT = {"a/-1.png": b"", "b/1a.png": b"no photo", "b/1b.png": b"cut short", "c/9.png": b""}
"""First, two in a row in the middle, last: they cannot be read, each in another way."""
PLACES = [0, 6, 7, 13]
ANSWERS = {
    "a/-1.png": "is empty",
    "b/1a.png": "is no image that can be read: the formats are ",
    "b/1b.png": "cannot be decoded, it is damaged: ",
    "c/9.png": "is empty",
}


@pytest.fixture
def clean(tmp_path):
    """Ten photos of three classes in each part, all different."""
    return write_photos(tmp_path / "clean", {f"{part}/{c}": n for part in ("train", "val") for c, n in GOOD.items()})


@pytest.fixture
def root(tmp_path, clean):
    """The same and four files that cannot be read."""
    root = write_photos(tmp_path / "photos", {f"{part}/{c}": n for part in ("train", "val") for c, n in GOOD.items()})
    for part in ("train", "val"):
        for name, content in SPOILT.items():
            (root / part / name).write_bytes(content)
        (root / part / "b/1b.png").write_bytes((root / part / "b/1.png").read_bytes()[:200])
    return root


def module(root, corrupt="skip", batch_size=4, num_workers=0, transform=None):
    transform = preprocessing(12) if transform is None else transform
    transforms = {"train_transform": transform, "eval_transform": transform}
    how = {"batch_size": batch_size, "num_workers": num_workers, "corrupt": corrupt}
    return DataModule(Folder, root=str(root), **how, **transforms)


def read(loader):
    """All images and labels of a loader, and the sizes of its batches."""
    batches = list(loader)
    return torch.cat([b[0] for b in batches]), torch.cat([b[1] for b in batches]), [len(b[0]) for b in batches]


def rows(images):
    return sorted(image.flatten().tolist() for image in images)


# --- raise ---


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("part", ["train", "val"])
def test_raise_names_the_file(root, part, workers):
    (root / part / "a/-1.png").unlink()
    (root / part / "c/9.png").unlink()
    (root / part / "b/1b.png").unlink()
    data = module(root, "raise", num_workers=workers)
    loader = data.train_dataloader() if part == "train" else data.val_dataloader()
    with pytest.raises(PhotoError, match=re.escape(f"{root}/{part}/b/1a.png is no image that can be read")):
        list(loader)
    assert data.skipped(part) == []
    assert not data.damaged(part).any()
    gc.collect()  # the error holds the loader: workers that are ended by a later collection take 10 s


def test_raise_is_what_happens_unless_asked_otherwise(root):
    data = DataModule(Folder, root=str(root), batch_size=4, eval_transform=preprocessing(12))
    with pytest.raises(PhotoError, match=re.escape(f"{root}/val/a/-1.png is empty")):
        next(iter(data.val_dataloader()))
    with pytest.raises(PhotoError, match=re.escape(f"{root}/val/a/-1.png is empty")):
        data.examples("val", 1)


@pytest.mark.parametrize("word", ["Skip", "ignore", "", None, True, False])
def test_another_word(root, word):
    with pytest.raises(ValueError, match=f"^corrupt must be raise or skip, found {word!r}$"):
        DataModule(Folder, root=str(root), batch_size=4, corrupt=word)


# --- skip ---


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_leave_out_what_cannot_be_read(root, clean, workers):
    images, labels, sizes = read(module(root, num_workers=workers).val_dataloader())
    expected, truth, _ = read(module(clean, "raise").val_dataloader())
    assert torch.equal(images, expected)
    assert torch.equal(labels, truth)
    assert sizes == [3, 2, 4, 1]  # fourteen files, four at a time


@pytest.mark.parametrize("workers", [0, 2])
def test_training_sees_every_readable_image_once(root, clean, workers):
    data = module(root, batch_size=7, num_workers=workers)
    loader = data.train_dataloader()
    expected, _, _ = read(module(clean, "raise").train_dataloader())
    orders = []
    for _ in range(2):
        images, _, sizes = read(loader)
        assert rows(images) == rows(expected)
        assert len(sizes) == 2
        orders.append(images)
    assert not torch.equal(*orders)
    assert data.damaged("train").nonzero().flatten().tolist() == PLACES
    assert not data.damaged("val").any()


@pytest.mark.parametrize("workers", [0, 2])
def test_what_was_left_out_is_known_with_its_reason(root, workers):
    data = module(root, num_workers=workers)
    assert data.skipped("val") == []
    assert data.indices("val").tolist() == list(range(14))
    loader = data.val_dataloader()
    list(loader)
    for _ in range(2):
        assert data.damaged("val").nonzero().flatten().tolist() == PLACES
        assert data.damaged("val").shape == (14,)
        assert data.indices("val").tolist() == [n for n in range(14) if n not in PLACES]
        assert data.skipped("val") == PLACES
        reasons = data.reasons("val", PLACES)
        assert len(reasons) == 4
        for reason, (name, answer) in zip(reasons, ANSWERS.items(), strict=True):
            assert reason.startswith(f"{root}/val/{name} {answer}")
            assert "\n" not in reason
        list(loader)  # a second time, it is still known
    assert data.skipped("train") == []


def test_indices_are_right_for_a_batch_that_was_given(root):
    data = module(root)
    seen = 0
    for images, _ in data.val_dataloader():
        numbers = data.indices("val")[seen : seen + len(images)].tolist()
        seen += len(images)
        assert torch.equal(images, torch.stack([data.part("val")[number][0] for number in numbers]))
    assert seen == 10


@pytest.mark.parametrize("rank", [0, 1, 2])
def test_each_of_three_processes_knows_its_images(root, rank):
    data = module(root, batch_size=5)
    data.trainer = types.SimpleNamespace(world_size=3, global_rank=rank)
    assert data.indices("val").tolist() == list(range(14))[rank::3]
    images, _, _ = read(data.evaluation_loader("val"))
    mine = [number for number in range(rank, 14, 3) if number not in PLACES]
    assert data.indices("val").tolist() == mine
    assert data.damaged("val").nonzero().flatten().tolist() == [n for n in PLACES if n % 3 == rank]
    assert torch.equal(images, torch.stack([data.part("val")[number][0] for number in mine]))


def test_processes_tell_each_other_what_they_left_out(root):
    """The trainer adds up what each has found."""
    data = module(root)
    list(data.val_dataloader())
    other = torch.zeros(14)
    other[[6, 12]] = 1

    def reduce(found, reduce_op):
        assert (reduce_op, found.dtype, found.shape) == ("sum", torch.float32, (14,))
        return found + other

    strategy = types.SimpleNamespace(reduce=reduce, root_device=torch.device("cpu"))
    data.trainer = types.SimpleNamespace(strategy=strategy, world_size=2, global_rank=0)
    assert data.skipped("val") == [0, 6, 7, 12, 13]
    assert data.reasons("val", [12]) == ["image 12 could not be read, but now it can"]


def test_a_file_that_was_mended_meanwhile_is_said(root):
    data = module(root)
    list(data.val_dataloader())
    (root / "val/a/-1.png").write_bytes((root / "val/a/0.png").read_bytes())
    assert data.reasons("val", [0]) == ["image 0 could not be read, but now it can"]
    list(data.val_dataloader())
    assert data.skipped("val") == PLACES[1:]


def test_examples_take_the_next_that_can_be_read(root, clean):
    data = module(root)
    assert not data.damaged("val").any()
    part = module(clean, "raise").part("val")
    for count, expected in ((1, [0]), (2, [0, 5]), (14, [0, 0, 1, 2, 3, 4, 5, 5, 5, 6, 7, 8, 9, 0])):
        found = data.examples("val", count)  # of the last file, the next is the first again
        assert torch.equal(found, torch.stack([part[number][0] for number in expected]))


@pytest.mark.parametrize("workers", [0, 2])
def test_an_evaluated_batch_without_any_readable_image_is_none(root, workers):
    loader = module(root, batch_size=2, num_workers=workers).val_dataloader()
    assert [None if batch is None else len(batch[0]) for batch in loader] == [1, 2, 2, None, 2, 2, 1]


@pytest.mark.parametrize("workers", [0, 2])
def test_in_place_of_a_training_batch_without_any_comes_the_next_image(root, clean, workers):
    """Processes that learn together wait for each other's batches."""
    loader = module(root, batch_size=1, num_workers=workers).train_dataloader()
    images, _, sizes = read(loader)
    assert sizes == [1] * 14
    expected, _, _ = read(module(clean, "raise").evaluation_loader("train"))
    instead = [0, 5, 5, 0]  # of the last file, the next is the first again
    assert rows(images) == rows(torch.cat([expected, expected[instead]]))


def test_where_nothing_can_be_read(root):
    for file in root.rglob("*.png"):
        file.write_bytes(b"")
    data = module(root, batch_size=5)
    assert list(data.val_dataloader()) == [None, None, None]
    for read_it in (lambda: data.examples("val", 1), lambda: list(data.train_dataloader())):
        with pytest.raises(ValueError, match=r"^no image of this part of the data can be read$"):
            read_it()
    assert len(data.skipped("val")) == 14


def test_an_image_is_not_damaged_while_it_is_read(root):
    """Or those that are read ahead would count as damaged."""
    seen = []

    def transform(photo):
        seen.append(data.damaged("val").nonzero().flatten().tolist())
        return preprocessing(12)(photo)

    data = module(root, transform=transform)
    for _ in range(2):
        list(data.val_dataloader())
    assert len(seen) == 20
    assert all(set(flags) <= set(PLACES) for flags in seen)


class Failing:
    """A transform that cannot handle one of the photos; nothing is wrong with the file."""

    def __init__(self, error):
        self.error = error
        self.transform = preprocessing(12)

    def __call__(self, photo):
        if sum(photo.getpixel((0, 0))) == 0:
            raise self.error("a fault of the transform")
        return self.transform(photo)


@pytest.mark.parametrize("error", [ValueError, RuntimeError, OSError, KeyError, IndexError])
def test_other_errors_are_not_swallowed(root, error):
    (root / "val/b/2.png").write_bytes(pixel(grey=0))
    data = module(root, transform=Failing(error))
    for read_it in (lambda: list(data.val_dataloader()), lambda: data.part("val")[8], lambda: data.examples("val", 14)):
        with pytest.raises(error, match="a fault of the transform"):
            read_it()
    assert not data.damaged("val")[8]


def test_nor_are_those_of_the_processes_that_load(root):
    (root / "val/b/2.png").write_bytes(pixel(grey=0))
    data = module(root, num_workers=2, transform=Failing(ValueError))
    loader = data.val_dataloader()
    with pytest.raises(ValueError, match="a fault of the transform"):
        list(loader)
    assert not data.damaged("val")[8]
    gc.collect()


@pytest.mark.parametrize("everything", [False, True])
def test_the_size_of_images_is_that_of_the_first_readable_one(root, everything):
    if everything:
        for file in (root / "val").rglob("*.png"):
            file.write_bytes(b"")
    words = ("data=folder", f"data.root={root}", "data.corrupt=skip", "+model.depth=1", "data.num_workers=0")
    if everything:
        with pytest.raises(ValueError, match=r"^no image of this part of the data can be read$"):
            model_and_data(config(*words), "val", adapt=True)
    else:
        model, data = model_and_data(config(*words), "val", adapt=True)
        assert (model.spec.num_classes, data.class_names) == (3, ("a", "b", "c"))
        assert data.damaged("val").nonzero().flatten().tolist() == [0]
    with pytest.raises(PhotoError, match=re.escape(f"{root}/val/a/-1.png is empty")):
        model_and_data(config(*words[:2], *words[3:]), "val", adapt=True)
