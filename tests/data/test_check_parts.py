"""Before a long run every part is opened and one image of every class is read, and no random number is drawn."""

import functools
import random
import re
import shutil

import numpy as np
import pytest
import torch
from lightning import seed_everything

from bcos_vit.data import DataModule, Digits, Folder
from bcos_vit.data.parts import labels_of
from bcos_vit.models.zoo import preprocessing
from bcos_vit.photos import PhotoError
from runs import write_photos

ALL = ("train", "val", "test")


@pytest.fixture
def root(tmp_path):
    return write_photos(tmp_path / "photos", {f"{part}/{name}": 3 for part in ALL for name in ("cat", "dog")})


def module(root, corrupt="raise", **settings):
    return DataModule(
        Folder, root=str(root), batch_size=2, corrupt=corrupt, eval_transform=preprocessing(8), **settings
    )


def test_good_data_pass(root, capfd):
    module(root).check_parts(ALL)
    module(root, "skip").check_parts(ALL)
    DataModule(Digits, batch_size=1).check_parts(ALL)
    assert capfd.readouterr().err == ""


def test_one_image_of_each_class_is_read(root, monkeypatch):
    read = []
    original = Folder.__getitem__
    monkeypatch.setattr(Folder, "__getitem__", lambda self, n: (read.append(self.samples[n][0]), original(self, n))[1])
    module(root).check_parts(ALL)
    assert read == [f"{root}/{part}/{name}/0.png" for part in ALL for name in ("cat", "dog")]


@pytest.mark.parametrize("part", ALL)
def test_a_missing_part(root, part):
    shutil.rmtree(root / part)
    with pytest.raises(FileNotFoundError, match=f"there is no folder {root}/{part} for the {part} part"):
        module(root).check_parts(ALL)


@pytest.mark.parametrize("part", ["val", "test"])
def test_an_unknown_class(root, part):
    (root / part / "dgo").mkdir()
    with pytest.raises(ValueError, match=f"{part} holds the class 'dgo', which {root}/train does not have"):
        module(root).check_parts(ALL)


@pytest.mark.parametrize("part", ["val", "test"])
@pytest.mark.parametrize("kept", [True, False])
def test_a_class_without_images_is_noted(root, part, kept, capfd):
    shutil.rmtree(root / part / "dog")
    if kept:
        (root / part / "dog").mkdir()
    module(root).check_parts(ALL)
    assert capfd.readouterr().err == f"note: the {part} part has no image of 1 of 2 classes: 'dog'\n"


@pytest.mark.parametrize("part", ALL)
def test_a_photo_that_cannot_be_read_ends_it_with_its_name(root, part):
    (root / part / "dog" / "0.png").write_bytes(b"")
    with pytest.raises(PhotoError, match=re.escape(f"{root}/{part}/dog/0.png is empty")):
        module(root).check_parts(ALL)


@pytest.mark.parametrize("part", ALL)
def test_where_photos_are_skipped_one_of_each_class_is_enough(root, part):
    for number in (0, 1):
        (root / part / "dog" / f"{number}.png").write_bytes(b"")
    data = module(root, "skip")
    data.check_parts(ALL)
    assert data.skipped(part) == [3, 4]
    (root / part / "dog" / "2.png").write_bytes(b"no photo")
    with pytest.raises(ValueError, match=f"no image of the {part} part's class 'dog' can be read, such as: .*is empty"):
        module(root, "skip").check_parts(ALL)


def test_random_numbers_are_what_they_would_have_been(root):
    def drawn(check):
        seed_everything(0, verbose=False)
        noisy = DataModule(
            Folder, root=str(root), batch_size=2, eval_transform=lambda _: torch.rand(3, 8, 8) * random.random()
        )
        if check:
            noisy.check_parts(ALL)
        return torch.rand(1).item(), np.random.rand(), random.random()

    assert drawn(True) == drawn(False)


# --- data sets of one's own ---


class Own(torch.utils.data.Dataset):
    """Four black images; with labels only where they are given."""

    licence = "none"

    def __init__(self, split, names=("a", "b"), labels=None, size=4):
        self.class_names, self.size, self.read = names, size, []
        if labels is not None:
            self.labels = labels

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        self.read.append(index)
        return torch.zeros(3, 8, 8), index % 2


def own(**settings):
    return DataModule(lambda split, transform: Own(split, **settings), batch_size=1)


def test_labels_need_not_be_said():
    data = own(size=10)
    data.check_parts(["train"])
    assert data.part("train").read == [0, 5]


@pytest.mark.parametrize("labels", [[1, 1, 0, 0], torch.tensor([1, 1, 0, 0]), np.array([1, 1, 0, 0])], ids=type)
def test_labels_may_be_any_numbers(labels):
    data = own(labels=labels)
    data.check_parts(["train"])
    assert data.part("train").read == [2, 0]


@pytest.mark.parametrize("labels", [["a"] * 4, [0, 1], torch.full((4,), 0.5), [[0, 1]] * 4, None], ids=str)
def test_what_are_no_class_numbers_count_as_unsaid(labels):
    assert labels_of(Own("train", labels=labels)) is None
    own(labels=labels).check_parts(["train"])


@pytest.mark.parametrize(("labels", "found"), [([0, 1, 2, 0], "0 to 2"), ([0, 1, -1, 0], "-1 to 1")])
def test_labels_that_are_no_classes(labels, found):
    with pytest.raises(ValueError, match=f"the data's labels are {found}, but its classes are 2, numbered"):
        own(labels=labels).check_parts(["val"])


def test_an_empty_part():
    with pytest.raises(ValueError, match="the test part of the data is empty"):
        own(size=0).check_parts(["test"])


def test_parts_whose_classes_have_another_order():
    data = DataModule(lambda split, transform: Own(split, ("a", "b") if split == "train" else ("b", "a")), batch_size=1)
    with pytest.raises(ValueError, match=r"classes of the val part are 'b', 'a', but those of the train part 'a', 'b'"):
        data.check_parts(["train", "val"])


@pytest.mark.parametrize("split", ALL)
def test_labels_of_our_data_sets(root, split):
    for part in (Digits(split), Folder(split, root=str(root))):
        assert labels_of(part).tolist() == [label for _, label in part]
    skipping = module(root, "skip").part(split)
    assert labels_of(skipping).tolist() == [0, 0, 0, 1, 1, 1]


# --- no test part ---


@pytest.mark.parametrize("found", ["none", None])
def test_data_without_a_test_part_say_so(root, found):
    shutil.rmtree(root / "test")
    data = module(root, test=found)
    assert not data.has_test
    data.check_parts(["train", "val"])
    for ask in (lambda: data.part("test"), data.test_dataloader, lambda: data.evaluation_loader("test")):
        with pytest.raises(ValueError, match=r"^the data have no test part, since data\.test is none: give split=val"):
            ask()


def test_data_have_a_test_part_unless_it_is_said(root):
    assert module(root).has_test
    assert module(root, test="test").has_test
    with pytest.raises(ValueError, match="test must be test, or none for data without a test part, found 'val'"):
        module(root, test="val")


@pytest.mark.parametrize("corrupt", ["raise", "skip"])
def test_photos_of_two_parts_are_counted(root, capfd, corrupt):
    shutil.copy(root / "train/cat/0.png", root / "test/cat/again.png")
    shutil.copy(root / "train/dog/1.png", root / "test/cat/a dog.png")  # of another class, even
    shutil.copy(root / "test/dog/2.png", root / "test/dog/twice.png")  # within one part
    module(root, corrupt).check_parts(ALL)
    (said,) = capfd.readouterr().err.splitlines()
    assert said.startswith("note: 2 of the 9 photos of the test part are in the train part too, such as ")


def test_a_part_in_the_place_of_another_is_no_copy(root, capfd):
    shutil.rmtree(root / "test")
    data = DataModule(
        functools.partial(Folder, parts={"test": "val"}), root=str(root), batch_size=2, eval_transform=preprocessing(8)
    )
    data.check_parts(ALL)
    assert capfd.readouterr().err == ""
